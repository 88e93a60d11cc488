"""Mirrors and cuts belong to (seed, epoch, item); cuts are crops stretched back."""

import torch

from hamward.training.augmentation import augment

IDS = torch.arange(40) * 3


def pictures(n: int = 40, side: int = 12) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    ramp = torch.stack([rows, columns, rows * 0]) / side
    return ramp.expand(n, 3, side, side).contiguous()


def varied(x: torch.Tensor, ids: torch.Tensor, epoch: int = 1, **options: object) -> torch.Tensor:
    return augment(x, ids, **{"flip": False, "crop": 0.0, "seed": 0, "epoch": epoch, **options})  # type: ignore[arg-type]


def test_without_options_nothing_changes() -> None:
    x = pictures()
    assert torch.equal(varied(x, IDS), x)


def test_what_is_drawn_belongs_to_the_item_and_the_epoch() -> None:
    x = pictures()
    whole = varied(x, IDS, flip=True, crop=0.4)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(varied(x[order], IDS[order], flip=True, crop=0.4), whole[order])
    assert not torch.equal(varied(x, IDS, epoch=2, flip=True, crop=0.4), whole)


def test_about_half_are_mirrored() -> None:
    x = pictures()
    made = varied(x, IDS, flip=True)
    mirrored = (made != x).flatten(1).any(1)
    assert 10 < int(mirrored.sum()) < 30
    assert torch.equal(made[mirrored], x[mirrored].flip(3))


def test_a_cut_of_a_ramp_is_a_ramp_with_a_smaller_slope_inside_the_picture() -> None:
    side, crop = 12, 0.5
    x = pictures(side=side)
    made = varied(x, IDS, crop=crop)
    slopes = (made[:, 0, 8, 5] - made[:, 0, 3, 5]) / 5 * side  # share of the side that is kept
    across = (made[:, 1, 5, 8] - made[:, 1, 5, 3]) / 5 * side
    torch.testing.assert_close(slopes, across, atol=1e-5, rtol=0)
    assert 1 - crop - 1e-5 <= slopes.min() < 0.65 < 0.85 < slopes.max() <= 1 + 1e-5
    assert made.min() >= 0 and made.max() <= x.max()
    centers = made[:, :2, 5:7, 5:7].mean((2, 3)) * side
    assert centers.std(0).min() > 0.3  # not always the middle
