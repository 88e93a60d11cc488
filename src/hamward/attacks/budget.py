"""How far an adversarial item may be from the clean one, and what can be stored of it."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hamward.errors import BudgetError, ShapeError
from hamward.types import Modality

__all__ = ["Budget", "Distortion", "check_items", "measure", "round_to_grid"]

Norm = Literal["linf", "l2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A norm ball around each clean item, cut with the box [0, 1].

    Attributes:
        eps: Radius in [0, 1] units: 8 / 255, never 8. For l2 the norm over all values.
        norm: "linf" or "l2".
        one_sided: Allow increases only (the released code of CMLA does).
    """

    eps: float
    norm: Norm = "linf"
    one_sided: bool = False

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise BudgetError(f"norm must be 'linf' or 'l2', got {self.norm!r}")
        if not self.eps >= 0 or (self.norm == "linf" and self.eps > 1):
            hint = f" (did you mean {self.eps:g}/255?)" if 1 < self.eps <= 255 else ""
            allowed = "in [0, 1]" if self.norm == "linf" else "at least 0"
            raise BudgetError(f"eps must be {allowed}, got {self.eps:g}{hint}")

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Return the nearest item to `x_adv` inside the budget and the box."""
        if self.norm == "linf":
            low, high = self.bounds(x)
            nearest: Tensor = torch.clamp(x_adv, low, high)
            return nearest
        delta = x_adv - x
        if self.one_sided:
            delta = delta.clamp_min(0)
        length: Tensor = delta.flatten(1).norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
        scale = (self.eps / length).clamp_max(1)
        return (x + delta * scale.view(-1, *[1] * (x.dim() - 1))).clamp(0, 1)

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the smallest and largest value that an l_inf budget and the box allow."""
        low = x if self.one_sided else (x - self.eps).clamp_min(0)
        return low, (x + self.eps).clamp_max(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distortion:
    """How far adversarial items are from the clean ones, measured per item.

    Attributes:
        rms: Root of the mean squared difference, (n,). CMLA's D is its mean over images.
        linf: Largest absolute difference, (n,).
        l2: Euclidean norm of the difference, (n,).
    """

    rms: Float[Tensor, " n"]
    linf: Float[Tensor, " n"]
    l2: Float[Tensor, " n"]


def measure(x_adv: Tensor, x: Tensor) -> Distortion:
    """Measure the distortion of each item in [0, 1] units."""
    delta = (x_adv.double() - x.double()).flatten(1)
    return Distortion(
        rms=delta.square().mean(1).sqrt(), linf=delta.abs().amax(1), l2=delta.norm(dim=1)
    )


def round_to_grid(x_adv: Tensor, x: Tensor, budget: Budget | None = None) -> Tensor:
    """Round adversarial images to the 8-bit grid, the only thing a picture file can hold.

    Where rounding to the nearest level would leave the l_inf budget, the level next to it
    on the clean side is taken, so a stored picture keeps its budget whenever the clean
    picture is on the grid.

    Args:
        x_adv: Adversarial images in [0, 1].
        x: Clean images in [0, 1].
        budget: The budget to keep, or None.

    Returns:
        Images whose values are multiples of 1/255.
    """
    levels = torch.round(x_adv * 255)
    if budget is not None and budget.norm == "linf":
        low = torch.ceil((x - budget.eps) * 255 - 1e-3)
        high = torch.floor((x + budget.eps) * 255 + 1e-3)
        levels = torch.minimum(torch.maximum(levels, low), torch.maximum(high, low))
    return levels.clamp(0, 255) / 255


def check_items(modality: Modality, x: Tensor) -> None:
    """Refuse items outside what victims read.

    Raises:
        ShapeError: not floating point, not in [0, 1], not finite, or of the wrong rank.
    """
    dims = 4 if modality == "image" else 2
    if x.dim() != dims:
        wanted = "(n, 3, H, W)" if dims == 4 else "(n, D)"
        raise ShapeError(f"{modality} items must have shape {wanted}, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ShapeError(f"{modality} items must be floating point in [0, 1], got {x.dtype}")
    if x.numel() == 0:
        return
    low, high = float(x.detach().min()), float(x.detach().max())
    if not (low >= 0 and high <= 1):
        hint = " (divide by 255)" if 1 < high <= 255 else ""
        raise ShapeError(
            f"{modality} items must lie in [0, 1], got values in [{low:g}, {high:g}]{hint}; "
            "normalization belongs inside the model"
        )
