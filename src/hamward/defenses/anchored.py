"""Training that holds attacked pictures and typed texts at the mainstay codes of their labels."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from hamward.attacks.base import Goal
from hamward.attacks.options import Form
from hamward.defenses.adversarial import DEFENSES
from hamward.defenses.guided import GuidedObjective, guided
from hamward.defenses.saat import MainstayGuide
from hamward.defenses.texts import TextAttack
from hamward.training import Objective, Step
from hamward.training.requirements import check_not_negative
from hamward.types import MODALITIES, Modality

__all__ = ["AnchorGuide", "anchored_training"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorGuide:
    """Leave the mainstay code m of one's labels; -weight mean(tanh(u') m), and bounded logits.

    Attributes:
        weight: Weight of the agreement.
        limit: mean(max(|u'| - limit, 0)^2) / 100 draws logits back from where tanh has no
            gradient, to which the agreement drives them.
    """

    weight: float = 1.0
    limit: float = 8.0

    def aim(self, goal: Goal, step: Step, buffers: dict[str, Tensor]) -> Goal:
        """Return the goal of leaving the mainstay codes; see `Guide`."""
        return MainstayGuide().aim(goal, step, buffers)

    def cost(self, logits: Float[Tensor, "b k"], goal: Goal) -> Float[Tensor, ""]:
        """Return the two terms."""
        excess = (logits.abs() - self.limit).relu().square().mean()
        return 0.01 * excess - self.weight * (torch.tanh(logits) * goal.anchor).mean()


@DEFENSES.register(
    "anchored",
    summary="Hold attacked pictures and typed texts at the mainstay code of their labels",
    citation="hamward; the guiding code of Yuan et al., IEEE TIFS 2023",
    access="training",
    threat="white-box l_inf on images, typed edits or feature-space l_inf on texts",
)
def anchored_training(
    base: Objective,
    *,
    seed: int = 0,
    eps: float = 12 / 255,
    text: TextAttack = "edits",
    text_eps: float = 0.05,
    edits: int = 3,
    steps: int = 3,
    step_size: float = 1.0,
    form: Form = "scale-free",
    weight: float = 1.0,
    limit: float = 8.0,
    modalities: tuple[Modality, ...] = MODALITIES,
    warmup: float = 0.0,
) -> GuidedObjective:
    """Return adversarial training towards mainstay codes, with few and large inner steps.

    L(u) - weight mean(tanh(u') m) + mean(max(|u'| - limit, 0)^2) / 100, with m =
    `anchors.mainstay_codes` of the training codes in the retrieved modality. The attack leaves m:
    on pictures in `steps` steps that fall from `step_size` eps to a fifth of it, on texts by
    typed edits.

    Source: hamward. Guiding code and shape of the loss: Yuan et al., "Semantic-Aware Adversarial
        Training for Reliable Deep Hashing Retrieval", IEEE TIFS 2023.
    Differs: from `saat`: three inner steps that start at eps, nearly as strong as its seven of
        eps / 4 (docs/defenses.md), in a larger ball; typed texts; bounded logits instead of a term
        that draws tanh(u) to signs.

    Args:
        base: The objective that the victim was trained with.
        seed: Seed of the attack.
        eps: Image radius; half as much again as the one to withstand, 8/255, costs little clean
            MAP.
        text: What texts meet: the attack, in feature space, or typed edits of words.
        text_eps: Radius on bags of words, in feature space.
        edits: Most insertions and most deletions of words.
        steps: Inner steps.
        step_size: First inner step, relative to eps.
        form: See `CodePGD`.
        weight: The trade-off of clean and robust.
        limit: See `AnchorGuide`; 0.9999999 = tanh(8).
        modalities: Sides that are perturbed.
        warmup: See `AdversarialLearning`.

    Raises:
        ConfigError: a value is out of range.
    """
    check_not_negative("anchored", weight=weight, limit=limit)
    return guided(
        base,
        AnchorGuide(weight=weight, limit=limit),
        active=weight > 0,
        seed=seed,
        eps=eps,
        text=text,
        text_eps=text_eps,
        edits=edits,
        steps=steps,
        step_size=step_size,
        form=form,
        modalities=modalities,
        warmup=warmup,
    )
