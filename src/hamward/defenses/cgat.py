"""CgAT: center-guided adversarial training."""

import dataclasses
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from hamward.attacks.anchors import Pool, center_codes
from hamward.attacks.base import Goal
from hamward.attacks.options import Form
from hamward.defenses.adversarial import DEFENSES
from hamward.defenses.guided import GuidedObjective, guided
from hamward.defenses.texts import TextAttack
from hamward.errors import ConfigError
from hamward.training import Objective, Step
from hamward.training.requirements import check_not_negative
from hamward.types import Modality

__all__ = ["CenterGuide", "cgat_training"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CenterGuide:
    """Leave the center code c of one's labels; -weight mean(u' c).

    Attributes:
        weight: Weight of the term.
        jaccard: Weigh positives of the center by the Jaccard index of the labels.
    """

    weight: float = 1.0
    jaccard: bool = False

    def aim(self, goal: Goal, step: Step, buffers: dict[str, Tensor]) -> Goal:
        """Return the goal of leaving the center codes; see `Guide`."""
        pool = Pool.of(goal, "other", who="cgat")
        center = center_codes(pool, goal.anchor, jaccard=self.jaccard)
        return dataclasses.replace(goal, anchor=center)

    def cost(self, logits: Float[Tensor, "b k"], goal: Goal) -> Float[Tensor, ""]:
        """Return -weight mean(u' c); items without labels count 0."""
        if goal.label is None:
            raise ConfigError("cgat needs a goal with labels")
        labeled = goal.label.any(1, keepdim=True)
        return -self.weight * (torch.tanh(logits) * goal.anchor * labeled).mean()


@DEFENSES.register(
    "cgat",
    summary="Keep attacked items at the center code of their labels, which the attack leaves",
    citation="Wang, Lin, Li, Zhang and Zhang, WWW 2023",
    access="training",
    threat="white-box l_inf on images, feature-space l_inf or typed edits on texts",
)
def cgat_training(
    base: Objective,
    *,
    seed: int = 0,
    eps: float = 8 / 255,
    text: TextAttack = "feature-space",
    text_eps: float = 0.05,
    edits: int = 3,
    steps: int = 7,
    form: Form = "scale-free",
    weight: float = 1.0,
    jaccard: bool = False,
    modalities: tuple[Modality, ...] = ("image", "text"),
    warmup: float = 0.0,
) -> GuidedObjective:
    """Return center-guided adversarial training over a trained victim's objective.

    L_hash(u) - weight mean(u' c), with c = `anchors.center_codes` of the training codes in the
    retrieved modality and x' = argmin mean(h' c).

    Source: Wang et al., "CgAT: Center-Guided Adversarial Training for Deep Hashing-Based
        Retrieval", WWW 2023, released code; cross-modal after the rule of SAAT-Cross.
    Differs: released code crafts with the center from before the step's outputs enter the memory
        and trains with the one from after it; here both are the latter. It crafts in train mode,
        with dropout; here in eval mode. Ties leave the item's own bits (there: no attack on
        them). It trains for 30 epochs of SGD with augmentation; here what `fit` runs. Centers
        weighted by the Jaccard index are INFERRED from code that is overwritten there.

    Args:
        base: The objective that the victim was trained with.
        seed: Seed of the attack.
        eps: Image radius.
        text: What texts meet: the attack, in feature space, or typed edits of words.
        text_eps: Radius on bags of words, in feature space.
        edits: Most insertions and most deletions of words.
        steps: Inner steps of eps / 4 (published: 7 steps of 2/255).
        form: See `CodePGD`.
        weight: Weight of the robust term (released code: 1, without a name).
        jaccard: See `CenterGuide`.
        modalities: Sides that are perturbed.
        warmup: See `AdversarialLearning`.

    Raises:
        ConfigError: a value is out of range.
    """
    check_not_negative("cgat", weight=weight)
    return guided(
        base,
        CenterGuide(weight=weight, jaccard=jaccard),
        active=weight > 0,
        seed=seed,
        eps=eps,
        text=text,
        text_eps=text_eps,
        edits=edits,
        steps=steps,
        form=form,
        modalities=modalities,
        warmup=warmup,
    )
