"""FPAD's attack: to the prototypes of all foreign classes, away from the nearest own one."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hamward.attacks.anchors import CodeSource, Pool, class_prototypes
from hamward.attacks.base import ATTACKS, Goal
from hamward.attacks.budget import Budget
from hamward.attacks.stepping import Form, check_options, pursue, sign_steps
from hamward.codes import binarize
from hamward.losses import auto_temperature, prototype_contrast, unit_logits
from hamward.models import Victim
from hamward.models.victim import Access
from hamward.types import MODALITIES, Modality

__all__ = ["FPAD", "fooled", "fpad_as_coded", "item_budgets", "own_share", "reduced_budget"]


def own_share(
    relaxed: Float[Tensor, "n k"],
    anchors: Float[Tensor, "c k"],
    own: Float[Tensor, "n c"],
) -> Float[Tensor, " n"]:
    """Return per = exp(sum_own h.a_j / K) / sum_j exp(h.a_j / K), per item.

    Source: FPAD (Yu et al., IEEE TCSVT 2025), released code: a sum inside the exponential, so
        that items of several labels can exceed 1.
    Differs: per item (there: the mean of the batch).
    """
    inner = relaxed @ anchors.T / anchors.shape[1]
    return ((inner * own).sum(1) - inner.logsumexp(1)).exp()


def fooled(
    relaxed: Float[Tensor, "n k"],
    anchors: Float[Tensor, "c k"],
    own: Float[Tensor, "n c"],
    foreign: Float[Tensor, "n c"],
) -> Bool[Tensor, " n"]:
    """Return which items are not nearer to their own classes' mean than to any foreign class.

    Source: FPAD, released code, where the majority of the batch decides for all of it.
    """
    inner = relaxed @ anchors.T
    mean = (inner * own).sum(1) / own.sum(1).clamp_min(1)
    nearest = inner.masked_fill(foreign == 0, -torch.inf).amax(1)
    return mean <= nearest


def reduced_budget(share: float, modality: Modality, *, steps: int) -> tuple[float, int]:
    """Return the factor on eps, and the steps, for an item that the last attack still fooled.

    Image: p = min(1, (1 + 4 per) / 2), ceil(8 p) / 8. Text: p = min(1, (1 + 3 per) / 2),
    ceil(5 p) / 5. Steps: ceil(steps p), 20 p there.

    Source: FPAD, released code, which uses it in training only.
    """
    slope, levels = (4, 8) if modality == "image" else (3, 5)
    p = min(1.0, (1 + slope * share) / 2)
    return math.ceil(levels * p) / levels, math.ceil(steps * p)


def item_budgets(
    relaxed: Float[Tensor, "n k"],
    anchors: Float[Tensor, "c k"],
    own: Float[Tensor, "n c"],
    *,
    foreign: Float[Tensor, "n c"],
    modality: Modality,
    steps: int,
) -> list[tuple[float, int]]:
    """Return (factor on eps, steps) of each item: reduced where its earlier sample still fools."""
    share = own_share(relaxed, anchors, own).tolist()
    again = fooled(relaxed, anchors, own, foreign).tolist()
    return [
        reduced_budget(s, modality, steps=steps) if f else (1.0, steps)
        for s, f in zip(share, again, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contrast:
    """What the items of a batch are contrasted with."""

    anchors: Tensor  # (C, K)
    own: Tensor  # (n, C)
    foreign: Tensor  # (n, C)
    tau: float

    def select(self, rows: Tensor) -> "_Contrast":
        return dataclasses.replace(self, own=self.own[rows], foreign=self.foreign[rows])

    def __call__(self, relaxed: Tensor, otherwise: Tensor) -> Tensor:
        value = prototype_contrast(relaxed, self.anchors, self.foreign, far=self.own, tau=self.tau)
        return torch.where(self.own.sum(1) > 0, -value, otherwise)


@ATTACKS.register(
    "fpad",
    summary="To the mean of all foreign class prototypes, from the nearest own one, scale-free",
    citation="Yu, Liu, Cheung, Zhu, Xu and Wang, IEEE TCSVT 2025",
    access="gradients",
    threat="white-box, untargeted, knows query labels and reference codes, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class FPAD:
    """Minimize `losses.prototype_contrast` with near = foreign and far = own classes.

    Source: Yu et al., "Fuzzy-Prototype-guided Adversarial Attack and Defense for Deep
        Cross-Modal Hashing", IEEE TCSVT 2025. The paper's body could not be read: the released
        code is the source.
    Differs: prototypes are `anchors.class_prototypes` of the references, since the victim need not
        have learned any. `fpad` has the nominal radius 8/255, reads tanh(u / median |u|) and takes
        decaying steps; `fpad-as-coded` has tanh(u), 20 steps of 1.5/255 and radius 4/255, which
        is what the code's 8/255 means in [-1, 1] (whether the paper means it in [0, 1] is
        UNKNOWN). The victim stays in eval mode (there: images are attacked in train mode).
        Items without labels leave their own code (there: no gradient). `adaptive` decides per
        item, from a first run, what the code decides per batch, from the previous epoch.
        Best iterate under the same loss of the code (there: the last).

    Attributes:
        eps: Image radius in [0, 1].
        text_eps: Radius for bags of words, a feature-space attack.
        steps: Gradient steps.
        step_size: First step relative to eps; every step in the published form.
        text_step_size: The same for bags of words.
        random_start: Start at a random point of the ball.
        form: Scale-free, or as published.
        tau: Temperature of the contrast.
        adaptive: Attack items that a full run fools again, with `reduced_budget`.
        codes: Modality of the codes that prototypes are made of.
    """

    access: ClassVar[Access] = "gradients"
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES
    targeted: ClassVar[bool] = False
    needs_references: ClassVar[bool] = True

    eps: float = 8 / 255
    text_eps: float = 0.05
    steps: int = 20
    step_size: float = 0.4
    text_step_size: float = 0.4
    random_start: bool = False
    form: Form = "scale-free"
    tau: float = 20.0
    adaptive: bool = False
    codes: CodeSource = "other"

    def __post_init__(self) -> None:
        check_options(self, tau=self.tau, text_step_size=self.text_step_size)

    def budget(self, modality: Modality) -> Budget:
        """Return the l_inf ball of the modality."""
        return Budget(eps=self.eps if modality == "image" else self.text_eps)

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        victim.require(self.access, "fpad")
        goal.check(victim, x, ids)
        pool = Pool.of(goal, self.codes, who="fpad")
        anchors, present = class_prototypes(pool, seed=seed)
        own = (pool.wanted * present).to(x.dtype)
        foreign = ((pool.wanted == 0) & present).to(x.dtype)
        held = anchors.to(x.dtype)
        contrast = _Contrast(anchors=held, own=own, foreign=foreign, tau=self.tau)
        x_adv = self._craft(victim, x, goal, contrast, ids=ids, seed=seed)
        if not self.adaptive or not len(x):
            return x_adv
        with victim.attacked():
            relaxed = torch.tanh(victim.logits(goal.modality, x_adv)).detach()
        budgets = item_budgets(
            relaxed, held, own, foreign=foreign, modality=goal.modality, steps=self.steps
        )
        for budget in sorted({b for b in budgets if b != (1.0, self.steps)}):  # a dozen at most
            rows = torch.tensor([b == budget for b in budgets], device=x.device)
            x_adv[rows] = self.reduced(*budget)._craft(
                victim,
                x[rows],
                goal.select(rows),
                contrast.select(rows),
                ids=ids[rows],
                seed=seed,
            )
        return x_adv

    def reduced(self, factor: float, steps: int) -> "FPAD":
        """Return the attack with radii times `factor` > 0 and so many steps of the same size."""
        return dataclasses.replace(
            self,
            eps=self.eps * factor,
            text_eps=self.text_eps * factor,
            steps=steps,
            step_size=self.step_size / factor,
            text_step_size=self.text_step_size / factor,
        )

    def _craft(
        self,
        victim: Victim,
        x: Tensor,
        goal: Goal,
        contrast: "_Contrast",
        *,
        ids: Tensor,
        seed: int,
    ) -> Tensor:
        published = self.form == "published"

        def loss(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
            relaxed = torch.tanh(logits if published else unit_logits(logits))
            return contrast(relaxed, -auto_temperature(logits, goal.anchor))

        def merit(logits: Float[Tensor, "n k"]) -> Tensor:
            worth = contrast(binarize(logits).to(x.dtype), goal.flips(logits).to(x.dtype))
            return (worth * 1e5).round()  # a sum in another order is no other code

        attack = self
        if goal.modality == "text":
            attack = dataclasses.replace(self, step_size=self.text_step_size)
        step = attack.step_size * attack.budget(goal.modality).eps
        return pursue(
            attack,
            victim,
            x,
            goal,
            ids=ids,
            seed=seed,
            loss=loss,
            merit=merit,
            rule=sign_steps(step) if published else None,
        )


@ATTACKS.register(
    "fpad-as-coded",
    summary="FPAD's attack with tanh(u), radius 4/255 and constant steps, as its code runs it",
    citation="Yu et al., IEEE TCSVT 2025; released code",
    access="gradients",
    threat="white-box, untargeted, knows query labels and reference codes, query side",
)
def fpad_as_coded(
    *,
    eps: float = 4 / 255,
    text_eps: float = 0.05,
    steps: int = 20,
    adaptive: bool = False,
) -> FPAD:
    """Return FPAD's attack as its released code runs it; see `FPAD` for what that means."""
    return FPAD(
        eps=eps,
        text_eps=text_eps,
        steps=steps,
        step_size=3 / 8,
        text_step_size=0.12,
        random_start=True,
        form="published",
        adaptive=adaptive,
    )
