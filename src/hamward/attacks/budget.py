"""How far an adversarial item may be from the clean one, and what can be stored of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hamward.errors import BudgetError, ConfigError, ShapeError
from hamward.types import Modality, TextFormat

__all__ = [
    "TYPED_NORMS",
    "Budget",
    "Distortion",
    "check_items",
    "check_words",
    "measure",
    "round_to_grid",
]

Norm = Literal["linf", "l2", "l0", "patch", "edits", "substitutions"]

TYPED_NORMS = frozenset({"edits", "substitutions"})
"""Norms that count words: what they allow, a person can type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may become of a clean item: a norm ball cut with the box [0, 1], or other words.

    Norms "l0" and "patch" leave the values of some pixels free: any so many pixels, or one
    square anywhere. A pixel is all of its colors; in a bag of words "l0" counts words.

    Norm "edits" is for bags of words: at most `insertions` zeros become one and at most
    `deletions` ones become zero, so that every result is a text that a person could type. A
    text that has words keeps at least one. `Budget.edits` makes one.

    Norm "substitutions" is for token ids: at most eps of them are replaced by others.

    Attributes:
        eps: Radius in [0, 1] units: 8 / 255, never 8. For l2 the norm over all values; for l0
            the number of pixels; for a patch its side in pixels; for edits the number of words,
            insertions + deletions; for substitutions the number of tokens.
        norm: "linf", "l2", "l0", "patch", "edits" or "substitutions".
        one_sided: Allow increases only (the released code of CMLA does); not for words.
        insertions: Words that may be put in; for edits only.
        deletions: Words that may be taken out; for edits only.
    """

    eps: float
    norm: Norm = "linf"
    one_sided: bool = False
    insertions: int = 0
    deletions: int = 0

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            allowed = ", ".join(map(repr, get_args(Norm)))
            raise BudgetError(f"norm must be one of {allowed}, got {self.norm!r}")
        for name in ("insertions", "deletions"):
            if getattr(self, name) < 0:
                raise BudgetError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.eps >= 0 or (self.norm == "linf" and self.eps > 1):
            hint = f" (did you mean {self.eps:g}/255?)" if 1 < self.eps <= 255 else ""
            allowed = "in [0, 1]" if self.norm == "linf" else "at least 0"
            raise BudgetError(f"eps must be {allowed}, got {self.eps:g}{hint}")
        counted = {"l0": "number of pixels", "patch": "side in pixels"}
        counted["substitutions"] = "number of tokens"
        if self.norm in counted and self.eps % 1:
            what = counted[self.norm]
            raise BudgetError(f"eps of norm {self.norm!r} is a {what}, got {self.eps:g}")
        words = self.insertions + self.deletions
        if words != (self.eps if self.norm == "edits" else 0):
            raise BudgetError(
                f"insertions + deletions must equal eps for norm 'edits' and be 0 for others, got "
                f"{self.insertions} + {self.deletions}, eps {self.eps:g} and norm {self.norm!r}"
            )
        if self.norm in TYPED_NORMS and self.one_sided:
            hint = ": set deletions to 0" if self.norm == "edits" else ""
            raise BudgetError(f"one_sided is not for {self.norm}{hint}")

    @classmethod
    def edits(cls, *, insertions: int, deletions: int) -> "Budget":
        """Return the budget of so many inserted and deleted words."""
        return cls(
            eps=insertions + deletions, norm="edits", insertions=insertions, deletions=deletions
        )

    @property
    def typed(self) -> bool:
        """Whether a text inside it is one that a person can type."""
        return self.norm in TYPED_NORMS

    def text_format(self, read: TextFormat, *, who: str = "this attack") -> TextFormat:
        """Return what an attack of this budget moves of the texts of a victim that reads `read`.

        Tokens have no fractions: balls are taken around their embeddings, a feature-space
        attack.

        Raises:
            ConfigError: there is nothing that it can move.
        """
        moved: dict[Norm, tuple[TextFormat, ...]] = {
            "linf": ("bag", "embeddings"),
            "l2": ("bag", "embeddings"),
            "substitutions": ("tokens",),
        }
        chosen = moved.get(self.norm, ("bag",))
        if read in chosen:
            return read
        if read == "tokens" and "embeddings" in chosen:
            return "embeddings"
        raise ConfigError(
            f"{who} has a budget of norm {self.norm!r}, for texts as {chosen[0]}, and the victim "
            f"reads {read}: "
            + (
                "take 'hotflip', or an attack of norm 'linf' or 'l2', which moves embeddings"
                if read == "tokens"
                else "'tag-edits' edits bags of words"
            )
        )

    @property
    def reach(self) -> float:
        """How far an item can go, in units of a step: eps, or 1 where values are free."""
        return self.eps if self.norm in ("linf", "l2") else min(self.eps, 1.0)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Return the nearest item (least l2 distance) to `x_adv` inside the budget and the box.

        Raises:
            ShapeError: norm "edits" and `x` is no bag of zeros and ones, or norm "patch" and
                `x` is no picture.
        """
        if self.norm == "edits":
            return self._project_edits(x_adv, x)
        if self.norm == "substitutions":  # all are equally far: the first ones stay
            changed = x_adv != x
            return torch.where(changed & (changed.cumsum(1) <= self.eps), x_adv, x)
        if self.norm in ("l0", "patch"):
            return self._project_pixels(x_adv, x)
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

    def _project_pixels(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Free the pixels, or the square, where most squared distance is gained."""
        low = x if self.one_sided else torch.zeros_like(x)
        moved = torch.maximum(x_adv, low).clamp_max(1)
        gain = (x_adv - x).square() - (x_adv - moved).square()
        gain = gain.sum(1, keepdim=True) if x.dim() == 4 else gain
        if self.norm == "l0":
            order = gain.flatten(1).argsort(dim=1, descending=True, stable=True)
            free = (order.argsort(1) < self.eps).view_as(gain)
        else:
            free = self._best_square(gain)
        return torch.where(free, moved, x)

    def _best_square(self, gain: Float[Tensor, "n 1 h w"] | Float[Tensor, "n d"]) -> Tensor:
        if gain.dim() != 4:
            raise ShapeError("a patch is a square of a picture: bags of words have none")
        side, (height, width) = int(self.eps), gain.shape[2:]
        if side == 0:
            return torch.zeros_like(gain, dtype=torch.bool)
        sums = F.avg_pool2d(gain, (min(side, height), min(side, width)), stride=1)
        best = sums.flatten(1).argmax(1)[:, None]
        inside = []
        for first, size in ((best // sums.shape[3], height), (best % sums.shape[3], width)):
            place = torch.arange(size, device=gain.device)
            inside.append((place >= first) & (place < first + side))
        return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]

    def _project_edits(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Change the words whose change gains most; equal gains go by vocabulary order."""
        check_words(x)
        there = x > 0.5
        gain = 2 * torch.where(there, x - x_adv, x_adv - x) - 1  # of squared distance
        changed = torch.zeros_like(there)
        for may, most in ((~there, self.insertions), (there, self.deletions)):
            order = gain.masked_fill(~may, -torch.inf).argsort(dim=1, descending=True, stable=True)
            wanted = may & (gain > 0)
            changed |= wanted & (order.argsort(1) < most)
        emptied = there.any(1) & ~(there ^ changed).any(1)
        if emptied.any():  # nothing was inserted there: keep a word, or insert one if nearer
            kept = gain.masked_fill(~there, torch.inf).min(1)
            put = gain.masked_fill(there, -torch.inf).max(1)
            inserts = (-put.values < kept.values) & (self.insertions > 0)
            word = torch.where(inserts, put.indices, kept.indices)[emptied]
            changed[emptied, word] = ~changed[emptied, word]
        return (there ^ changed).to(x.dtype)

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the smallest and largest value that the budget and the box allow a value.

        Raises:
            BudgetError: norm "edits" or "substitutions", whose texts fill no box.
        """
        if self.typed:
            raise BudgetError(
                f"a budget of {self.norm} has no smallest and largest value: texts are whole words"
            )
        if self.norm in ("l0", "patch"):
            return x if self.one_sided else torch.zeros_like(x), torch.ones_like(x)
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
    """Measure the distortion of each item in [0, 1] units; another token is a distance of 1."""
    numbers = x.is_floating_point()
    delta = (x_adv.double() - x.double() if numbers else (x_adv != x).double()).flatten(1)
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


_SHAPES: Mapping[TextFormat, str] = {
    "bag": "(n, D)",
    "tokens": "(n, L)",
    "embeddings": "(n, L, E)",
}


def check_words(x: Tensor) -> None:
    """Refuse bags of words with other values than 0 and 1: no text has a fraction of a word.

    Raises:
        ShapeError: they are.
    """
    wrong = x[(x != 0) & (x != 1)]
    if len(wrong):
        raise ShapeError(
            f"edits need bags of zeros and ones, got {len(wrong)} other values, "
            f"such as {float(wrong[0]):g}"
        )


def check_items(modality: Modality, x: Tensor, *, text: TextFormat = "bag") -> None:
    """Refuse items outside what victims read, or attacks move in their place.

    Raises:
        ShapeError: not floating point (token ids: not int64), not in [0, 1], not finite, or of
            the wrong rank.
    """
    wanted = "(n, 3, H, W)" if modality == "image" else _SHAPES[text]
    if x.dim() != wanted.count(",") + 1:
        raise ShapeError(f"{modality} items must have shape {wanted}, got {tuple(x.shape)}")
    if modality == "text" and text == "tokens":
        if x.dtype != torch.int64:
            raise ShapeError(f"token ids must be int64, got {x.dtype}")
        return
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
