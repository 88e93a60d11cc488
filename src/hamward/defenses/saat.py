"""SAAT: semantic-aware adversarial training by mainstay codes."""

import dataclasses
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from hamward.attacks.anchors import Pool, mainstay_codes
from hamward.attacks.base import Goal
from hamward.attacks.options import Form
from hamward.codes import binarize
from hamward.defenses.adversarial import DEFENSES
from hamward.defenses.guided import GuidedObjective, guided
from hamward.defenses.texts import TextAttack
from hamward.losses import quantization
from hamward.training import Objective, Step
from hamward.training.requirements import check_not_negative
from hamward.types import Modality

__all__ = ["MainstayGuide", "saat_training"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MainstayGuide:
    """Leave the mainstay code m of one's labels; -lam mean(u' m) + mu mean((u' - sign u')^2).

    Attributes:
        lam: Weight of the agreement.
        mu: Weight of the quantization.
    """

    lam: float = 1.0
    mu: float = 1e-4

    def aim(self, goal: Goal, step: Step, buffers: dict[str, Tensor]) -> Goal:
        """Return the goal of leaving the mainstay codes; see `Guide`."""
        pool = Pool.of(goal, "other", who="saat")
        return dataclasses.replace(goal, anchor=mainstay_codes(pool, goal.anchor))

    def cost(self, logits: Float[Tensor, "b k"], goal: Goal) -> Float[Tensor, ""]:
        """Return the two terms."""
        relaxed = torch.tanh(logits)
        loose = quantization(relaxed, binarize(relaxed.detach())).mean() / relaxed.shape[1]
        return self.mu * loose - self.lam * (relaxed * goal.anchor).mean()


@DEFENSES.register(
    "saat",
    summary="Keep attacked items at the mainstay code of their labels, which the attack leaves",
    citation="Yuan, Zhang, Jiang, Meng and Hua, IEEE TIFS 2023",
    access="training",
    threat="white-box l_inf on images, feature-space l_inf or typed edits on texts",
)
def saat_training(
    base: Objective,
    *,
    seed: int = 0,
    eps: float = 8 / 255,
    text: TextAttack = "feature-space",
    text_eps: float = 0.05,
    edits: int = 3,
    steps: int = 7,
    form: Form = "scale-free",
    lam: float = 1.0,
    mu: float = 1e-4,
    modalities: tuple[Modality, ...] = ("image", "text"),
    warmup: float = 0.0,
) -> GuidedObjective:
    """Return semantic-aware adversarial training over a trained victim's objective.

    L_hash(u) - lam mean(u' m) + mu mean((u' - sign u')^2), with m = `anchors.mainstay_codes` of
    the training codes in the retrieved modality and x' = argmin mean(h' m).

    Source: Yuan et al., "Semantic-Aware Adversarial Training for Reliable Deep Hashing
        Retrieval", IEEE TIFS 2023, released code; cross-modal as in SAAT-Cross.
    Differs: released code crafts in train mode; here in eval mode. It crafts with the mainstay
        from before the memory's update; here with the one from after it, too. Its inner attack
        overwrites HashNet's continuation scale with 1; here the clean loss keeps its scale.
        SAAT-Cross: mu = 1e-3, inner steps of 1/255 with annealing, a text radius of 0.01, of
        which such steps leave three levels. 20 epochs of SGD; here what `fit` runs.

    Args:
        base: The objective that the victim was trained with.
        seed: Seed of the attack.
        eps: Image radius.
        text: What texts meet: the attack, in feature space, or typed edits of words.
        text_eps: Radius on bags of words, in feature space.
        edits: Most insertions and most deletions of words.
        steps: Inner steps of eps / 4 (published: 7 steps of 2/255).
        form: See `CodePGD`.
        lam: Weight of the agreement with the mainstay code.
        mu: Weight of the quantization of adversarial outputs.
        modalities: Sides that are perturbed.
        warmup: See `AdversarialLearning`.

    Raises:
        ConfigError: a value is out of range.
    """
    check_not_negative("saat", lam=lam, mu=mu)
    return guided(
        base,
        MainstayGuide(lam=lam, mu=mu),
        active=lam + mu > 0,
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
