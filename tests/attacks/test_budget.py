import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hamward.attacks import Budget, measure, round_to_grid
from hamward.attacks.budget import check_items
from hamward.errors import BudgetError, ShapeError

radii = st.floats(0, 1)
seeds = st.integers(0, 1000)


def pair(seed: int, n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """A clean picture and a wild one far outside box and ball."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, 2, 2, generator=generator, dtype=torch.float64)
    return x, x + torch.randn(x.shape, generator=generator, dtype=torch.float64)


@given(radii, seeds, st.sampled_from(["linf", "l2"]), st.booleans())
def test_projection_lands_inside_and_stays_there(
    eps: float, seed: int, norm: str, one_sided: bool
) -> None:
    budget = Budget(eps=eps, norm=norm, one_sided=one_sided)
    x, wild = pair(seed)
    x_adv = budget.project(wild, x)
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    distortion = measure(x_adv, x)
    assert (distortion.linf if norm == "linf" else distortion.l2).max() <= eps + 1e-12
    if one_sided:
        assert (x_adv - x).min() >= -1e-15
    torch.testing.assert_close(budget.project(x_adv, x), x_adv, rtol=0, atol=1e-12)
    assert torch.equal(budget.project(x, x), x)


@given(radii, seeds)
def test_the_linf_projection_is_the_nearest(eps: float, seed: int) -> None:
    x, wild = pair(seed)
    low, high = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
    assert torch.equal(
        Budget(eps=eps).project(wild, x), torch.minimum(torch.maximum(wild, low), high)
    )


def test_projections_by_hand() -> None:
    x = torch.full((1, 1, 1, 2), 0.5)
    wild = x + torch.tensor([0.3, -0.4])
    assert Budget(eps=0.1).project(wild, x).flatten().tolist() == pytest.approx([0.6, 0.4])
    l2 = Budget(eps=0.25, norm="l2").project(wild, x)
    assert l2.flatten().tolist() == pytest.approx([0.65, 0.3])
    up = Budget(eps=0.1, one_sided=True).project(wild, x)
    assert up.flatten().tolist() == pytest.approx([0.6, 0.5])
    assert torch.equal(Budget(eps=0.0, norm="l2").project(wild, x), x)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eps": 8}, r"eps must be in \[0, 1\], got 8 \(did you mean 8/255\?\)"),
        ({"eps": 1.5}, r"got 1.5 \(did you mean 1.5/255"),
        ({"eps": 300}, r"got 300$"),
        ({"eps": -0.1}, r"got -0.1$"),
        ({"eps": float("nan")}, "got nan"),
        ({"eps": -1, "norm": "l2"}, "at least 0, got -1"),
    ],
)
def test_budgets_out_of_range_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget(**values)


def test_l2_radii_may_exceed_one() -> None:
    assert Budget(eps=3.0, norm="l2").eps == 3.0


def test_distortion_by_hand() -> None:
    x = torch.zeros(2, 3, 2, 2)
    x_adv = x.clone()
    x_adv[0, 0, 0, 0], x_adv[0, 1, 0, 0] = 0.3, 0.4
    distortion = measure(x_adv, x)
    assert distortion.l2.tolist() == pytest.approx([0.5, 0])
    assert distortion.linf.tolist() == pytest.approx([0.4, 0])
    assert distortion.rms.tolist() == pytest.approx([0.5 / 12**0.5, 0])


@given(seeds, st.integers(0, 20), st.sampled_from([0.0, 0.3, 0.5, 0.7]))
def test_rounding_keeps_grid_and_budget(seed: int, level: int, part: float) -> None:
    budget = Budget(eps=min((level + part) / 255, 1.0))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (4, 3, 4, 4), generator=generator).float() / 255
    x_adv = budget.project(x + 0.2 * torch.randn(x.shape, generator=generator), x)
    stored = round_to_grid(x_adv, x, budget)
    steps = stored.double() * 255
    assert (steps - steps.round()).abs().max() < 1e-4
    assert stored.min() >= 0 and stored.max() <= 1
    assert measure(stored, x).linf.max() <= budget.eps + 1e-6
    # never further than to the next level, and to the nearest where the budget allows it
    assert (stored - x_adv).abs().max() <= 1 / 255 + 1e-6
    nearest = torch.round(x_adv * 255) / 255
    free = (nearest - x).abs() <= budget.eps
    assert torch.equal(stored[free], nearest[free])
    assert torch.equal(round_to_grid(stored, x, budget), stored)


def test_rounding_by_hand() -> None:
    x = torch.tensor([[[[10.0, 10.0, 10.0, 10.0]]]]) / 255
    x_adv = torch.tensor([[[[12.4, 12.6, 7.4, 10.5001]]]]) / 255
    assert (round_to_grid(x_adv, x) * 255).round().flatten().tolist() == [12, 13, 7, 11]
    kept = round_to_grid(x_adv, x, Budget(eps=2.6 / 255))
    assert (kept * 255).round().flatten().tolist() == [12, 12, 8, 11]


def test_a_stored_picture_reads_back_as_the_same_bits() -> None:
    x = torch.arange(256).view(1, 1, 16, 16).float() / 255
    written = (round_to_grid(x, x) * 255).round().to(torch.uint8)
    assert torch.equal(written.float().div(255), round_to_grid(x, x))


@pytest.mark.parametrize(
    ("modality", "x", "message"),
    [
        ("image", torch.zeros(3, 4, 4), r"image items must have shape \(n, 3, H, W\)"),
        ("text", torch.zeros(3), r"text items must have shape \(n, D\)"),
        ("text", torch.zeros(3, 4, dtype=torch.int64), "floating point"),
        ("text", torch.full((1, 2), 200.0), r"divide by 255"),
        ("text", torch.full((1, 2), 1000.0), r"values in \[1000, 1000\]; normalization"),
        ("text", torch.tensor([[0.5, torch.inf]]), "inf"),
        ("text", torch.tensor([[0.5, torch.nan]]), "nan"),
        ("text", torch.tensor([[0.5, -0.001]]), r"\[-0.001, 0.5\]"),
    ],
)
def test_items_that_victims_do_not_read_are_refused(
    modality: str, x: torch.Tensor, message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        check_items(modality, x)
    check_items("text", torch.zeros(0, 4))


def _freed(x_adv: torch.Tensor, x: torch.Tensor, pixels: list[tuple[int, int]]) -> torch.Tensor:
    """The nearest picture to `x_adv` in the box whose other pixels are those of `x`."""
    made = x.clone()
    for row, column in pixels:
        made[:, row, column] = x_adv[:, row, column].clamp(0, 1)
    return made


@given(seeds, st.integers(0, 5), st.sampled_from(["l0", "patch"]))
def test_freed_pixels_are_the_best_of_all_choices(seed: int, size: int, norm: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 3, 2, 3, generator=generator, dtype=torch.float64)
    x_adv = x + torch.randn(x.shape, generator=generator, dtype=torch.float64)
    places = list(itertools.product(range(2), range(3)))
    choices = [list(c) for c in itertools.combinations(places, min(size, 6))]
    if norm == "patch":
        tall, wide = min(size, 2), min(size, 3)
        choices = [
            [(top + i, left + j) for i in range(tall) for j in range(wide)]
            for top, left in itertools.product(range(3 - tall), range(4 - wide))
        ]
    budget = Budget(eps=size, norm=norm)
    made = budget.project(x_adv, x)
    assert torch.equal(budget.project(x, x), x)
    torch.testing.assert_close(budget.project(made, x), made)
    for i in range(2):
        nearest = [_freed(x_adv[i], x[i], pixels) for pixels in choices]
        far = [float((n - x_adv[i]).norm()) for n in nearest]
        assert float((made[i] - x_adv[i]).norm()) == pytest.approx(min(far))
        assert any(torch.equal(made[i], n) for n in nearest)


def test_l0_counts_pixels_and_words() -> None:
    x = torch.full((1, 3, 2, 2), 0.5)
    x_adv = x.clone()
    x_adv[0, 0, 0, 1], x_adv[0, :, 1, 0], x_adv[0, 2, 1, 1] = 0.9, 0.75, 7.0
    made = Budget(eps=2, norm="l0").project(x_adv, x)
    changed = (made != x).any(1)[0]
    assert changed.tolist() == [[False, False], [True, True]]
    assert made[0, 2, 1, 1] == 1
    up = Budget(eps=1, norm="l0", one_sided=True).project(1 - x_adv.clamp(0, 1), x)
    assert torch.equal(up, x), "what would fall may not"
    words = torch.tensor([[0.0, 1.0, 0.0]])
    made = Budget(eps=1, norm="l0").project(torch.tensor([[0.3, 0.2, 0.6]]), words)
    assert made.tolist() == [[0, pytest.approx(0.2), 0]]
    with pytest.raises(ShapeError, match="square of a picture"):
        Budget(eps=1, norm="patch").project(words, words)


@pytest.mark.parametrize(("norm", "what"), [("l0", "number of pixels"), ("patch", "side in pix")])
def test_parts_of_pixels_are_refused(norm: str, what: str) -> None:
    for eps in (8 / 255, 1.5, float("inf")):
        with pytest.raises(BudgetError, match=f"eps of norm '{norm}' is a {what}.*, got"):
            Budget(eps=eps, norm=norm)
    assert Budget(eps=20, norm=norm).reach == 1 and Budget(eps=0, norm=norm).reach == 0
