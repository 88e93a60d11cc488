"""Own-code PGD: leave one's own clean code. The baseline that every attack must beat."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hamward.attacks.base import ATTACKS, Goal, Role, ascend, check_steps
from hamward.attacks.budget import Budget
from hamward.attacks.options import BallOptions
from hamward.errors import ConfigError
from hamward.losses import auto_temperature
from hamward.models import Victim
from hamward.models.victim import Access
from hamward.random import item_uniform
from hamward.types import MODALITIES, Modality

__all__ = ["OwnCode", "RandomNoise"]


@ATTACKS.register(
    "own-code",
    summary="PGD away from the item's own clean code, invariant to the scale of the logits",
    citation="hamward; PGD of Madry et al., ICLR 2018, on the Hamming distance",
    access="gradients",
    threat="white-box, untargeted, label-free, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCode:
    """Flip as many bits of the clean code as the budget allows (or reach a given code).

    Source: hamward; projected gradient steps as in Madry et al., ICLR 2018.
    Differs: nothing known; the loss is `losses.auto_temperature`. For a goal with
    `toward=True` the same loss is followed upward.

    Attributes:
        eps: Image radius in [0, 1]; pixels for norm "l0", side of the square for "patch".
        text_eps: Radius for bags of words, a feature-space attack: no text has fractional
            words.
        steps: Gradient steps.
        step_size: First step relative to eps (to the range of a value for "l0" and "patch").
        norm: "linf", "l2", "l0" or "patch"; texts keep "linf" with the last two.
        random_start: Start at a random point of the l_inf ball, else at the clean item.
    """

    access: ClassVar[Access] = "gradients"
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES
    targeted: ClassVar[bool] = False
    needs_references: ClassVar[bool] = False
    roles: ClassVar[tuple[Role, ...]] = ("query", "candidate", "hub")

    eps: float = 8 / 255
    text_eps: float = 0.05
    steps: int = 10
    step_size: float = 0.4
    norm: Literal["linf", "l2", "l0", "patch"] = "linf"
    random_start: bool = False

    def __post_init__(self) -> None:
        check_steps(self.steps)
        self.budget("image"), self.budget("text")
        if self.step_size <= 0:
            raise ConfigError(f"step_size must be positive, got {self.step_size:g}")

    def budget(self, modality: Modality) -> Budget:
        """Return the ball of radius eps (images) or text_eps (bags of words)."""
        if modality == "image":
            return Budget(eps=self.eps, norm=self.norm)
        return Budget(eps=self.text_eps, norm="l2" if self.norm == "l2" else "linf")

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        victim.require(self.access, "own-code")
        goal.check(victim, x, ids)
        budget = self.budget(goal.modality)
        sign = 1.0 if goal.toward else -1.0

        def loss(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
            return sign * auto_temperature(logits, goal.anchor)

        start = x.detach()
        if self.random_start:
            noise = item_uniform(ids, x.shape[1:], seed=seed, stream="own-code").to(x.dtype)
            start = start + (2 * noise - 1) * budget.reach
        with victim.attacked():
            return ascend(
                victim,
                x.detach(),
                goal,
                loss=loss,
                budget=budget,
                steps=self.steps if budget.eps > 0 else 0,
                step_size=self.step_size * budget.reach,
                start=start,
            )


@ATTACKS.register(
    "random-noise",
    summary="Each value moved at random, by +-eps or less: what a budget does without a mind",
    citation="hamward; the mandatory control of every attack table",
    access="ranks",
    threat="no access, untargeted, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class RandomNoise(BallOptions):
    """Random signs times eps, or uniform in the ball. A gap to clean is fragility, not attack.

    Source: hamward.
    Differs: nothing known.

    Attributes:
        distribution: "sign", corners of the ball, where noise does most; or "uniform".
    """

    access: ClassVar[Access] = "ranks"
    roles: ClassVar[tuple[Role, ...]] = ("query", "candidate", "hub")

    distribution: Literal["sign", "uniform"] = "sign"

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return noisy items; see `Attack`."""
        goal.check(victim, x, ids)
        budget = self.budget(goal.modality)
        drawn = item_uniform(ids, x.shape[1:], seed=seed, stream="random-noise")
        noise = 2 * drawn - 1
        if self.distribution == "sign":
            noise = torch.where(noise < 0, -1.0, 1.0)
        return budget.project(x.detach() + noise.to(x.dtype) * budget.eps, x.detach())
