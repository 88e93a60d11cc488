"""HAG: a Hamming-distance attack that lets go of bits already flipped."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from hamward.attacks.base import ATTACKS, Goal
from hamward.attacks.options import FormOptions, check_options
from hamward.attacks.stepping import annealing, momentum, pursue
from hamward.errors import ConfigError
from hamward.losses import unit_logits
from hamward.models import Victim

__all__ = ["HAG", "hag_loss", "hag_official"]


def hag_loss(
    relaxed: Float[Tensor, "n k"],
    codes: Int8[Tensor, "n k"],
    *,
    margin: float = 0.5,
    balance: float = 1.0,
) -> Float[Tensor, " n"]:
    """Return what HAG minimizes, per item: 0 where every bit still held is opposite, if balanced.

    ( (1/m) sum_k M_k h'_k b_k + 1 )^2 + balance ( mean_k M_k h'_k )^2, M_k = 1 unless bit k is
    flipped by more than the margin (|h'_k - b_k| >= 1 + margin), m = sum_k M_k.

    Source: HAG (Yang et al., IEEE TCYB 2020) as re-implemented in SAAT's code.
    Differs: a value per item; 1 where no bit is left (0/0 in the code); codes instead of the
        clean relaxed codes, which they equal up to saturation.

    Args:
        relaxed: h' of the adversarial items, (n, K).
        codes: b, codes to leave, (n, K).
        margin: How far beyond 0 a bit must be to be let go.
        balance: Weight of the second term.
    """
    away = codes.to(relaxed.dtype)
    held = ((relaxed.detach() - away).abs() < 1 + margin).to(relaxed.dtype)
    agreement = (held * relaxed * away).sum(1) / held.sum(1).clamp_min(1)
    return (agreement + 1).square() + balance * (held * relaxed).mean(1).square()


@ATTACKS.register(
    "hag",
    summary="Leave one's own code, letting go of bits already flipped, scale-free",
    citation="Yang, Liu, Deng and Tao, IEEE Transactions on Cybernetics 50(4), 2020",
    access="gradients",
    threat="white-box, untargeted, label-free, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class HAG(FormOptions):
    """Minimize `hag_loss` toward the complement of the clean code.

    Source: Yang, Liu, Deng and Tao, "Adversarial examples for Hamming space search", IEEE TCYB
        2020, as re-implemented in the released code of SAAT; the paper's own settings are
        UNKNOWN.
    Differs: `hag` reads tanh(u / median |u|) and takes sign steps, so that no scale of the last
        layer hides the gradient. `hag-official` keeps the annealed tanh and SGD with momentum;
        its loss is per item, as if a batch held one item (there: the mean of a batch, so that
        the rate depends on its size). Both return the best iterate (there: the code of the image
        before the last step).

    Attributes:
        rate: Rate of the published SGD.
        margin: How far beyond 0 a bit must be to be let go.
        balance: Weight of the balance term; published 1, which pulls bits back.
    """

    needs_references: ClassVar[bool] = False

    rate: float = 100.0
    margin: float = 0.5
    balance: float = 0.0

    def __post_init__(self) -> None:
        check_options(self, rate=self.rate)
        if not 0 <= self.margin <= 1:
            raise ConfigError(f"margin must be in [0, 1], got {self.margin:g}")

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        victim.require(self.access, "hag")
        goal.check(victim, x, ids)
        if goal.toward:
            raise ConfigError("hag leaves the goal's anchor: it cannot approach it")
        published = self.form == "published"

        def loss(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
            relaxed = torch.tanh(logits if published else unit_logits(logits))
            return -hag_loss(relaxed, goal.anchor, margin=self.margin, balance=self.balance)

        return pursue(
            self,
            victim,
            x,
            goal,
            ids=ids,
            seed=seed,
            loss=loss,
            rule=momentum(self.rate) if published else None,
            alpha=annealing if published else None,
        )


@ATTACKS.register(
    "hag-official",
    summary="HAG with the annealed tanh, balance term and SGD of the released code",
    citation="Yang, Liu, Deng and Tao, IEEE TCYB 2020; released code of SAAT",
    access="gradients",
    threat="white-box, untargeted, label-free, query side",
)
def hag_official(
    *, eps: float = 8 / 255, text_eps: float = 0.05, steps: int = 2000, rate: float = 100.0
) -> HAG:
    """Return HAG as SAAT's released code runs it; see `HAG` for what that means."""
    return HAG(eps=eps, text_eps=text_eps, steps=steps, rate=rate, form="published", balance=1.0)
