"""SAAT: leave (or reach) the mainstay code, the label-weighted vote of all references."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from hamward.attacks.anchors import CodeSource, Pool, mainstay_codes
from hamward.attacks.base import ATTACKS, Goal
from hamward.attacks.options import FormOptions
from hamward.attacks.stepping import annealing, pursue, sign_steps
from hamward.losses import auto_temperature
from hamward.models import Victim

__all__ = ["SAAT", "SAATTargeted", "saat_loss", "saat_official", "saat_targeted_official"]


def saat_loss(
    relaxed: Float[Tensor, "n k"], mainstay: Int8[Tensor, "n k"], *, targeted: bool = False
) -> Float[Tensor, " n"]:
    """Return what SAAT minimizes, per item, with s = h' * m.

    Untargeted: the mean of (s + 2) s over the bits with s > -1/2: most weight on bits that still
    agree. Targeted: minus the mean of (s + 2) s over the bits with s < 1/2. 0 without such bits.

    Source: SAAT (Yuan et al., IEEE TIFS 2023), released code.
    Differs: a mean per item instead of over the batch; 0 instead of 0/0. The targeted weight
        2 s + 2 vanishes on bits that are fully wrong, as released; the mirrored (s - 2) s looks
        intended.
    """
    s = relaxed * mainstay.to(relaxed.dtype)
    counted = ((s < 0.5) if targeted else (s > -0.5)).to(s.dtype)
    value = (counted * (s + 2) * s).sum(1) / counted.sum(1).clamp_min(1)
    return -value if targeted else value


@dataclass(frozen=True, slots=True, kw_only=True)
class _ByMainstay(FormOptions):
    """What the untargeted and the targeted form share.

    Attributes:
        codes: Modality of the reference codes.
    """

    codes: CodeSource = "other"

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        who = "saat-targeted" if self.targeted else "saat"
        victim.require(self.access, who)
        goal.check(victim, x, ids)
        pool = Pool.of(goal, self.codes, who=who, targeted=self.targeted)
        mainstay = mainstay_codes(pool, goal.anchor)
        published = self.form == "published"
        sign = 1.0 if self.targeted else -1.0

        def loss(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
            if published:
                return -saat_loss(torch.tanh(logits), mainstay, targeted=self.targeted)
            return sign * auto_temperature(logits, mainstay)

        step = self.step_size * self.budget(goal.modality).eps
        return pursue(
            self,
            victim,
            x,
            dataclasses.replace(goal, anchor=mainstay, toward=self.targeted),
            ids=ids,
            seed=seed,
            loss=loss,
            rule=sign_steps(step) if published else None,
            alpha=annealing if published else None,
        )


@ATTACKS.register(
    "saat",
    summary="Leave the mainstay code of one's own labels, scale-free",
    citation="Yuan, Zhang, Jiang, Meng and Hua, IEEE TIFS 2023",
    access="gradients",
    threat="white-box, untargeted, knows query labels and reference codes, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class SAAT(_ByMainstay):
    """Descend on the agreement with `anchors.mainstay_codes`.

    Source: Yuan et al., "Semantic-Aware Adversarial Training for Reliable Deep Hashing
        Retrieval", IEEE TIFS 2023; cross-modal use after SAAT-Cross: codes of the other modality.
    Differs: `saat` uses `losses.auto_temperature` and decaying steps; `saat-official` the weighted
        loss, annealed tanh and 100 steps of 1/255 from a random start. Steps on bags of words
        are an eighth of their radius too (SAAT-Cross takes 1/255 of a radius of 0.01, which
        leaves three levels). Best iterate returned.
    """


@ATTACKS.register(
    "saat-targeted",
    summary="Reach the mainstay code of the target label, scale-free",
    citation="Yuan, Zhang, Jiang, Meng and Hua, IEEE TIFS 2023",
    access="gradients",
    threat="white-box, targeted, knows reference codes, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class SAATTargeted(_ByMainstay):
    """Ascend on the agreement with the mainstay code of the target label.

    Source: Yuan et al., IEEE TIFS 2023, the targeted form of the released code.
    Differs: as in `SAAT`. SAAT-Cross never forwards its target labels; here they are used.
    """

    targeted: ClassVar[bool] = True

    steps: int = 50


@ATTACKS.register(
    "saat-official",
    summary="SAAT with the weighted loss, annealed tanh and steps of the released code",
    citation="Yuan et al., IEEE TIFS 2023; released code",
    access="gradients",
    threat="white-box, untargeted, knows query labels and reference codes, query side",
)
def saat_official(*, eps: float = 8 / 255, text_eps: float = 0.05, steps: int = 100) -> SAAT:
    """Return SAAT's attack as its released code runs it; see `SAAT` for what that means."""
    return SAAT(
        eps=eps,
        text_eps=text_eps,
        steps=steps,
        step_size=1 / 8,
        random_start=True,
        form="published",
    )


@ATTACKS.register(
    "saat-targeted-official",
    summary="Targeted SAAT with the weighted loss of the released code",
    citation="Yuan et al., IEEE TIFS 2023; released code",
    access="gradients",
    threat="white-box, targeted, knows reference codes, query side",
)
def saat_targeted_official(
    *, eps: float = 8 / 255, text_eps: float = 0.05, steps: int = 100
) -> SAATTargeted:
    """Return targeted SAAT as its released code runs it; see `SAATTargeted`."""
    return SAATTargeted(
        eps=eps,
        text_eps=text_eps,
        steps=steps,
        step_size=1 / 8,
        random_start=True,
        form="published",
    )
