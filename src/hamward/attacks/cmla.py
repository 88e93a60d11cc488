"""CMLA: cross-modal adversarial samples against deep hashing."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hamward.attacks.base import ATTACKS, Goal, Role, check_steps
from hamward.attacks.budget import Budget
from hamward.codes import hamming_distance
from hamward.errors import ConfigError
from hamward.losses import pairwise_likelihood, unit_logits
from hamward.models import Victim
from hamward.models.victim import Access
from hamward.types import MODALITIES, Modality

__all__ = ["CMLA", "cmla_loss", "cmla_official"]


def cmla_loss(
    relaxed: Float[Tensor, "n k"],
    other_codes: Float[Tensor, "m k"],
    own_codes: Float[Tensor, "m k"],
    similar: Float[Tensor, "n m"],
    *,
    visible: Float[Tensor, "n m"] | None = None,
    logit_scale: float = 0.5,
    inter: float = 1.0,
    intra: float = 1.0,
) -> Float[Tensor, " n"]:
    """Return J_inter + J_intra per attacked item, averaged over the references it sees.

    J_inter = log(1 + e^-Gamma) + S Gamma: cross-entropy with target 1 - S, tears the item
    from what it matches in the other modality. J_intra = log(1 + e^Theta) - S Theta:
    cross-entropy with target S, holds it in place within its own modality.

    Source: Li et al., NeurIPS 2019, the equations of Sec. 3.

    Args:
        relaxed: Relaxed codes h of the adversarial items, (n, K).
        other_codes: Reference codes in the other modality, (m, K).
        own_codes: Reference codes in the items' own modality, (m, K).
        similar: S, 1 where labels are shared, (n, m).
        visible: 1 where the item sees the reference, (n, m); all by default.
        logit_scale: 1/2 in the paper, 1 in the released code.
        inter: Weight of J_inter.
        intra: Weight of J_intra.
    """
    gamma = logit_scale * relaxed @ other_codes.T
    theta = logit_scale * relaxed @ own_codes.T
    pairs = inter * pairwise_likelihood(gamma, 1 - similar)
    pairs = pairs + intra * pairwise_likelihood(theta, similar)
    if visible is None:
        return pairs.mean(1)
    return (pairs * visible).sum(1) / visible.sum(1).clamp_min(1)


@ATTACKS.register(
    "cmla",
    summary="Leave the matching items of the other modality, stay within one's own",
    citation="Li, Gao, Deng, Xie and Liu, NeurIPS 2019",
    access="gradients",
    threat="white-box, untargeted, knows query labels and codes of references, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class CMLA:
    """Adam on the perturbation, J_inter + J_intra + distance, clipped after every step.

    Source: Li, Gao, Deng, Xie and Liu, "Cross-Modal Learning with Adversarial Samples",
        NeurIPS 2019.
    Differs: the paper's own hyperparameters are UNKNOWN (its body was not available); those
        of the released code are used. Here (preset `cmla`): symmetric clip, inner products
        times 1/2 as in the paper, references sampled from the database instead of the batch
        of queries, means instead of sums, and relaxed codes tanh(u / median |u|) instead of
        tanh(u), so that no factor on the logits takes the gradient away. Released code (preset
        `cmla-official`): noise clipped to [0, 10/255], which only brightens; unscaled inner
        products; tanh(u); references = the 128 queries of the same batch. In both: a fresh Adam
        state per item (the released code carries it from batch to batch), the returned sample is
        inside the clip (the released code saves the one before), reference codes are signs as in
        the code (the paper writes relaxed ones). The text budget of the published table is
        UNKNOWN: its distortions exceed what the released clip of 0.01 allows.

    Attributes:
        eps: Clip of the image noise.
        text_eps: Clip of the noise on bags of words, a feature-space attack.
        steps: Adam steps; 100, 200 and 500 are published.
        learning_rate: Adam step for images, in [0, 1] units.
        text_learning_rate: Adam step for bags of words.
        logit_scale: Factor on inner products.
        one_sided: Clip to [0, eps] instead of [-eps, eps].
        inter: Weight of J_inter.
        intra: Weight of J_intra; the ablation shows that it weakens the attack.
        distance: Weight of the distance term: mean |noise| (p=1) or its root mean square
            (p=2), in 0..255 units for images.
        p: Norm of the distance term.
        reference: "database" samples `references` items; "batch" uses the neighboring
            `reference_group` queries.
        references: Number of sampled references.
        relaxation: What stands for the code in the loss: "unit", tanh(u / median |u|), or
            "tanh" of the logits u as published.
        labels: "true" labels decide similarity, or "pseudo": Hamming distance between the
            item's clean code and the reference's own-modality code is at most K / 4.
    """

    access: ClassVar[Access] = "gradients"
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES
    targeted: ClassVar[bool] = False
    needs_references: ClassVar[bool] = True
    roles: ClassVar[tuple[Role, ...]] = ("query", "candidate")

    eps: float = 10 / 255
    text_eps: float = 0.05
    steps: int = 100
    learning_rate: float = 0.5 / 255
    text_learning_rate: float = 0.002
    logit_scale: float = 0.5
    one_sided: bool = False
    inter: float = 1.0
    intra: float = 1.0
    distance: float = 1.0
    p: Literal[1, 2] = 1
    reference: Literal["batch", "database"] = "database"
    references: int = 512
    relaxation: Literal["unit", "tanh"] = "unit"
    labels: Literal["true", "pseudo"] = "true"

    def __post_init__(self) -> None:
        check_steps(self.steps)
        self.budget("image"), self.budget("text")
        if self.p not in (1, 2):
            raise ConfigError(f"p must be 1 or 2, got {self.p}")
        if self.relaxation not in ("unit", "tanh"):
            raise ConfigError(f"relaxation must be 'unit' or 'tanh', got {self.relaxation!r}")
        if self.inter == self.intra == 0:
            raise ConfigError("inter and intra are both 0: nothing to attack")
        if self.learning_rate <= 0 or self.text_learning_rate <= 0:
            raise ConfigError(
                "learning rates must be positive, got "
                f"{self.learning_rate:g} and {self.text_learning_rate:g}"
            )
        if self.references < 1:
            raise ConfigError(f"references must be at least 1, got {self.references}")

    @property
    def reference_group(self) -> int | None:
        """128 in batch mode, as in the released code."""
        return 128 if self.reference == "batch" else None

    def budget(self, modality: Modality) -> Budget:
        """Return the l_inf clip of the modality."""
        eps = self.eps if modality == "image" else self.text_eps
        return Budget(eps=eps, one_sided=self.one_sided)

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        victim.require(self.access, "cmla")
        goal.check(victim, x, ids)
        if goal.toward:
            raise ConfigError("cmla is untargeted: it cannot approach a code")
        other, own, similar, visible = self._pairs(goal, x)
        budget = self.budget(goal.modality)
        image = goal.modality == "image"
        rate = self.learning_rate if image else self.text_learning_rate
        weight = self.distance * (255 if image else 1)
        x = x.detach()
        x_adv = x.clone()
        if budget.eps == 0:
            return x_adv
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        with victim.attacked():
            for step in range(1, self.steps + 1):
                x_adv.requires_grad_(True)
                logits = victim.logits(goal.modality, x_adv)
                relaxed = torch.tanh(unit_logits(logits) if self.relaxation == "unit" else logits)
                value = cmla_loss(
                    relaxed,
                    other,
                    own,
                    similar,
                    visible=visible,
                    logit_scale=self.logit_scale,
                    inter=self.inter,
                    intra=self.intra,
                )
                value = value + weight * self._distance(x_adv - x)
                (gradient,) = torch.autograd.grad(value.sum(), x_adv)
                first.lerp_(gradient, 0.1)
                second.lerp_(gradient.square(), 0.001)
                corrected = second.div(1 - 0.999**step).sqrt_().add_(1e-8)
                update = first.div(1 - 0.9**step).div_(corrected)
                x_adv = budget.project(x_adv.detach() - rate * update, x)
        return x_adv

    def _distance(self, delta: Tensor) -> Tensor:
        flat = delta.flatten(1)
        if self.p == 1:
            return flat.abs().mean(1)
        return (flat.square().mean(1) + 1e-12).sqrt()

    def _pairs(self, goal: Goal, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        references = goal.references
        if references is None or (self.labels == "true" and goal.label is None):
            raise ConfigError("cmla needs a goal with references and the labels of its items")
        image, text = references.image.to(x.dtype), references.text.to(x.dtype)
        own, other = (image, text) if goal.modality == "image" else (text, image)
        if self.labels == "true" and goal.label is not None:
            similar = goal.label.to(x.dtype) @ references.label.to(x.dtype).T > 0
        else:
            own_codes = references.image if goal.modality == "image" else references.text
            similar = hamming_distance(goal.anchor, own_codes) <= goal.anchor.shape[1] // 4
        visible = None
        if references.group is not None and goal.group is not None:
            visible = (goal.group[:, None] == references.group[None, :]).to(x.dtype)
        return other, own, similar.to(x.dtype), visible


@ATTACKS.register(
    "cmla-official",
    summary="CMLA with the budget and scales of the released code (brightens only)",
    citation="Li, Gao, Deng, Xie and Liu, NeurIPS 2019; released code",
    access="gradients",
    threat="white-box, untargeted, knows query labels, query side",
)
def cmla_official(
    *,
    eps: float = 10 / 255,
    text_eps: float = 0.01,
    steps: int = 100,
    learning_rate: float = 0.5 / 255,
    text_learning_rate: float = 0.002,
) -> CMLA:
    """Return CMLA as its released code runs it; see `CMLA` for what that means."""
    return CMLA(
        eps=eps,
        text_eps=text_eps,
        steps=steps,
        learning_rate=learning_rate,
        text_learning_rate=text_learning_rate,
        logit_scale=1.0,
        one_sided=True,
        relaxation="tanh",
        reference="batch",
    )
