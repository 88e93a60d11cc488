import pytest
import torch
from make_data import make_data

from hamward.data import batches
from hamward.errors import ConfigError, DataError


def gather(**options):
    """Return {id: picture} and the ids in the order they came."""
    pictures, order = {}, []
    for batch in batches(make_data(), range(8), **options):
        order += batch["id"].tolist()
        pictures |= dict(zip(batch["id"].tolist(), batch["image"], strict=True))
    return pictures, order


def test_without_a_seed_the_order_stays_and_the_last_batch_is_smaller():
    data = make_data()
    found = list(batches(data, [5, 1, 0, 2, 7], batch_size=2))
    assert [b["id"].tolist() for b in found] == [[55, 15], [5, 25], [75]]
    torch.testing.assert_close(found[0]["text"], data.inputs("text", [5, 1]))


def test_shuffles_follow_seed_and_epoch():
    _, order = gather(batch_size=3, seed=1)
    assert sorted(order) == [5, 15, 25, 35, 45, 55, 65, 75] != order
    assert gather(batch_size=5, seed=1)[1] == order
    assert gather(batch_size=3, seed=1, epoch=1)[1] != order
    assert gather(batch_size=3, seed=2)[1] != order


def test_flips_belong_to_the_item():
    plain, _ = gather(batch_size=8)
    flipped_sets = set()
    for epoch in range(12):
        pictures, _ = gather(batch_size=3, seed=1, epoch=epoch, flip=True)
        again, _ = gather(batch_size=8, seed=1, epoch=epoch, flip=True)
        flipped = set()
        for item, picture in pictures.items():
            torch.testing.assert_close(picture, again[item], rtol=0, atol=0)
            if not torch.equal(picture, plain[item]):
                assert torch.equal(picture, plain[item].flip(-1))
                flipped.add(item)
        flipped_sets.add(frozenset(flipped))
    assert len(flipped_sets) > 6
    assert 24 < sum(map(len, flipped_sets)) / len(flipped_sets) * 12 < 72


def test_the_global_stream_is_untouched():
    before = torch.random.get_rng_state()
    gather(batch_size=3, seed=1, flip=True)
    assert torch.equal(before, torch.random.get_rng_state())


def test_wrong_options_are_refused_at_the_call():
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        batches(make_data(), [0], batch_size=0)
    with pytest.raises(ConfigError, match="flip needs a seed"):
        batches(make_data(), [0], batch_size=1, flip=True)
    with pytest.raises(DataError, match=r"positions must be in \[0, 8\)"):
        list(batches(make_data(), [8], batch_size=1))
