import itertools

import pytest
import torch

from hamward.random import content_ids, item_normal, item_uniform, permutation, stream_seed

IDS = torch.tensor([5, 0, -3, 2**62, -(2**63), 1_000_000_007])


def test_noise_belongs_to_the_item() -> None:
    whole = item_uniform(IDS, (3, 4), seed=9, stream="a")
    assert whole.shape == (6, 3, 4) and whole.dtype == torch.float64
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    assert torch.equal(item_uniform(IDS[order], (3, 4), seed=9, stream="a"), whole[order])
    for row in range(6):
        alone = item_uniform(IDS[row : row + 1], (3, 4), seed=9, stream="a")
        assert torch.equal(alone, whole[row : row + 1])


def test_more_noise_starts_with_the_same_numbers() -> None:
    few, many = item_uniform(IDS, (5,), seed=1), item_uniform(IDS, (9,), seed=1)
    assert torch.equal(many[:, :5], few)


def test_it_is_the_same_on_every_machine() -> None:
    """Pinned numbers: another hardware, version or refactoring must not move them."""
    drawn = item_uniform(torch.tensor([0, 1]), (2,), seed=0, stream="own-code")
    expected = [
        [0.2427514061936591, 0.07148859865448531],
        [0.14835913260434952, 0.11168417561473265],
    ]
    assert drawn.tolist() == expected


def test_noise_is_uniform() -> None:
    values = item_uniform(torch.arange(2000), (50,), seed=3, stream="u").flatten()
    assert values.min() >= 0 and values.max() < 1
    share = torch.histc(values, bins=20, min=0, max=1) / len(values)
    assert (share - 0.05).abs().max() < 0.003  # over four standard deviations
    assert abs(float(values.mean()) - 0.5) < 0.004
    assert abs(float(values.var()) - 1 / 12) < 0.002


def test_items_positions_seeds_and_streams_are_uncorrelated() -> None:
    ids = torch.arange(4000)
    draws = {
        (seed, stream): item_uniform(ids, (2,), seed=seed, stream=stream) - 0.5
        for seed, stream in itertools.product((0, 1, -1), ("", "a", "b", "flip1", "flip2"))
    }
    columns = [c for draw in draws.values() for c in (draw[:, 0], draw[:, 1])]
    columns += [c.roll(1) for c in columns]
    correlation = torch.corrcoef(torch.stack(columns)) - torch.eye(len(columns))
    assert correlation.abs().max() < 0.08  # five standard deviations of 1 / sqrt(4000)


@pytest.mark.parametrize("seed", [0, -1, 2**63, -(2**80), 10**40])
@pytest.mark.parametrize("stream", ["", "x"])
def test_any_integer_is_a_seed(seed: int, stream: str) -> None:
    assert 0 <= stream_seed(seed, stream) < 2**62
    assert sorted(permutation(20, seed=seed, stream=stream).tolist()) == list(range(20))
    assert float(item_uniform(IDS, (1,), seed=seed, stream=stream).min()) >= 0


def test_streams_do_not_collide() -> None:
    names = ["", "a", "b", "ab", "ba", *(f"{m}{e}" for m in ("image", "text") for e in range(50))]
    seeds = {stream_seed(seed, name) for seed in range(50) for name in names if name}
    assert len(seeds) == 50 * (len(names) - 1)


def test_permutations_follow_seed_and_stream_and_leave_the_global_stream() -> None:
    state = torch.get_rng_state()
    first = permutation(50, seed=1, stream="a")
    assert torch.equal(first, permutation(50, seed=1, stream="a"))
    assert not torch.equal(first, permutation(50, seed=2, stream="a"))
    assert not torch.equal(first, permutation(50, seed=1, stream="b"))
    item_uniform(IDS, (4,), seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_normal_noise_has_the_moments_of_a_normal() -> None:
    values = item_normal(torch.arange(2000), (50,), seed=3, stream="n").flatten()
    assert torch.isfinite(values).all()
    moments = [float((values**power).mean()) for power in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.08)  # over four standard deviations


def test_ids_by_content_tell_levels_and_places_apart_and_nothing_else() -> None:
    x = torch.randint(0, 256, (300, 3, 4, 4), generator=torch.Generator().manual_seed(0)) / 255
    x[1], x[2], x[3] = x[0], x[0].flip(2), x[0].flip(0)
    x[4] = x[0]
    x[4, 2, 3, 3] = (x[4, 2, 3, 3] * 255 + 1) % 256 / 255
    ids = content_ids(x)
    assert ids[0] == ids[1] and len(ids.unique()) == 299
    assert torch.equal(content_ids(x.double() + 0.4 / 255), ids)
    assert torch.equal(content_ids(x[[7, 2]]), ids[[7, 2]])
    pinned = content_ids(torch.tensor([[0.0, 1.0]]))
    assert pinned.tolist() == [8320949064249338780]
