"""Universal perturbation: one noise, learned once, added to every item."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hamward.attacks.anchors import Pool, class_prototypes, relevance
from hamward.attacks.base import ATTACKS, Attack, Goal, Role
from hamward.attacks.budget import Budget
from hamward.attacks.cmla import CMLA, cmla_loss
from hamward.attacks.craft import own_code_goal
from hamward.attacks.fitted import read_fitted, write_fitted
from hamward.attacks.own_code import OwnCode
from hamward.attacks.stepping import sign_steps
from hamward.config import from_mapping, to_mapping
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError, ShapeError
from hamward.losses import auto_temperature, prototype_contrast, unit_logits
from hamward.models import Victim
from hamward.models.victim import Access
from hamward.progress import SILENT, Progress
from hamward.random import permutation
from hamward.types import MODALITIES, Modality

__all__ = ["FittedUniversal", "Universal"]

_Loss = Callable[[Float[Tensor, "n k"], Int64[Tensor, " n"]], Float[Tensor, " n"]]
"""Logits of some training items, and their rows -> value per item, to be raised."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedUniversal:
    """A learned perturbation: crafting is one addition, the victim is asked nothing.

    Attributes:
        options: What it was learned with.
        modality: Of the items it was learned on.
        code_length: Bits of the victim it was learned against.
        delta: The perturbation of one item, (3, S, S) or (D,), within the budget.
    """

    access: ClassVar[Access] = "ranks"
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES
    targeted: ClassVar[bool] = False
    needs_references: ClassVar[bool] = False
    roles: ClassVar[tuple[Role, ...]] = ("query", "candidate")

    options: "Universal"
    modality: Modality
    code_length: int
    delta: Float[Tensor, "..."]

    def budget(self, modality: Modality) -> Budget:
        """Return the l_inf ball of the modality."""
        return self.options.budget(modality)

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return items with the perturbation added; see `Attack`.

        Raises:
            ConfigError: another modality, or a goal that approaches a code.
            ShapeError: other items or code lengths than it was learned for.
        """
        goal.check(victim, x, ids)
        if goal.toward:
            raise ConfigError("universal leaves clean codes: it cannot approach the goal's anchor")
        if goal.modality != self.modality:
            raise ConfigError(
                f"this perturbation was learned on {self.modality}s, got a goal for "
                f"{goal.modality}s: learn one for them"
            )
        if x.shape[1:] != self.delta.shape:
            raise ShapeError(
                f"this perturbation was learned for items of shape {tuple(self.delta.shape)}, got "
                f"{tuple(x.shape[1:])}: learn one for these"
            )
        if victim.code_length != self.code_length:
            raise ShapeError(
                f"this perturbation was learned for codes of {self.code_length} bits, the victim "
                f"makes {victim.code_length}: learn one for this victim"
            )
        x = x.detach()
        return self.budget(self.modality).project(x + self.delta.to(x), x)

    def save(self, folder: Path) -> None:
        """Write the perturbation as attack.safetensors and attack.json."""
        write_fitted(
            folder,
            name="universal",
            facts={
                "options": to_mapping(self.options),
                "modality": self.modality,
                "code_length": self.code_length,
                "shape": list(self.delta.shape),
            },
            tensors={"delta": self.delta},
        )

    @classmethod
    def load(cls, folder: Path) -> "FittedUniversal":
        """Read a perturbation that `save` wrote.

        Raises:
            ArtifactError: missing or damaged files, another attack, or a perturbation that is
                not of the recorded shape, not finite, or outside its budget.
        """
        facts, tensors = read_fitted(folder, name="universal")
        try:
            options = from_mapping(Universal, facts["options"], path="options.")
            modality, code_length, shape = (
                facts[key] for key in ("modality", "code_length", "shape")
            )
        except (ConfigError, KeyError, TypeError) as error:
            raise ArtifactError(f"{folder / 'attack.json'}: {error}") from error
        file = folder / "attack.safetensors"
        if "delta" not in tensors:
            raise ArtifactError(f"{file}: holds no delta")
        delta = tensors["delta"]
        if list(delta.shape) != shape or not delta.is_floating_point():
            raise ArtifactError(
                f"{file}: delta must be floating point of shape {shape}, got "
                f"{delta.dtype} {list(delta.shape)}"
            )
        eps = options.budget(modality).eps
        if not bool((delta.abs() <= eps * (1 + 1e-6)).all()):  # NaN fails, too
            raise ArtifactError(f"{file}: delta leaves its budget of {eps:g} or is not finite")
        return cls(
            options=options,
            modality=modality,
            code_length=code_length,
            delta=delta,
        )


@ATTACKS.register(
    "universal",
    summary="One perturbation for all items, learned on training items; crafting is an addition",
    citation="hamward; Moosavi-Dezfooli et al., CVPR 2017; Shafahi et al., AAAI 2020",
    access="gradients",
    threat="white-box in training only, untargeted, either side, one addition an item",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Universal:
    """Options of the universal perturbation; `fit` learns it.

    Mini-batches of training items, sign steps on the mean of min(loss, clip), projection on the
    l_inf ball after each step. The step size falls linearly to a fifth.

    Source: Shafahi, Najibi, Xu, Dickerson, Davis and Goldstein, "Universal Adversarial Training",
        AAAI 2020: stochastic sign steps on a clipped loss (its Sec. 4, from memory: INFERRED).
        The aim is that of Moosavi-Dezfooli et al., CVPR 2017.
    Differs: there the loss is a classifier's cross-entropy, clipped because one item alone can
        make it arbitrarily large; here it is one of three losses on codes, read through
        tanh(u / median |u|) so that no rescaling of the logits can hide it. All three are bounded
        above, `own-code` by 1, the others by 0, so the default clip can bind for `own-code` alone
        (for items with three bits of four flipped; on openclipart27 it never did). `cmla` is
        J_inter + J_intra without the distance term. Items without words or labels that the loss
        needs do not pull.

    Attributes:
        eps: Image radius in [0, 1].
        text_eps: Radius for bags of words, a feature-space attack.
        goal: What all items shall do: leave their own codes ("own-code"), leave what they match
            in the other modality ("cmla"), or go to the prototypes of foreign classes ("fpad").
        epochs: Passes over the training items.
        batch_size: Items a step.
        step_size: First step relative to eps.
        clip: Largest value of an item's loss that still pulls.
        references: Sampled training items that "cmla" and "fpad" compare codes with.
    """

    access: ClassVar[Access] = "gradients"
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES
    targeted: ClassVar[bool] = False
    roles: ClassVar[tuple[Role, ...]] = FittedUniversal.roles

    eps: float = 8 / 255
    text_eps: float = 0.05
    goal: Literal["own-code", "cmla", "fpad"] = "own-code"
    epochs: int = 5
    batch_size: int = 64
    step_size: float = 0.25
    clip: float = 0.5
    references: int = 1024

    def __post_init__(self) -> None:
        self.budget("image"), self.budget("text")
        for name in ("epochs", "batch_size", "references"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.step_size <= 0:
            raise ConfigError(f"step_size must be positive, got {self.step_size:g}")
        if self.goal not in ("own-code", "cmla", "fpad"):
            raise ConfigError(f"goal must be 'own-code', 'cmla' or 'fpad', got {self.goal!r}")

    def budget(self, modality: Modality) -> Budget:
        """Return the l_inf ball of the modality."""
        return Budget(eps=self.eps if modality == "image" else self.text_eps)

    def fit(
        self,
        victim: Victim,
        data: RetrievalData,
        modality: Modality,
        *,
        seed: int,
        progress: Progress = SILENT,
    ) -> FittedUniversal:
        """Return the attack, learned on `data.split.train` only.

        Raises:
            AccessError: the victim does not grant gradients.
            ConfigError: the goal needs labels and the data have none, or no item can be used.
        """
        victim.require(self.access, "universal")
        usable = data.split.train
        if modality == "text":
            usable = usable[data.bags[usable].any(1)]
        if not len(usable):
            raise ConfigError(f"{data.name} has no training {modality}s to learn from")
        if self.goal != "own-code" and not data.label_names:
            raise ConfigError(f"goal {self.goal!r} needs labels, {data.name} has none: 'own-code'")
        sampling: Attack = OwnCode()
        if self.goal != "own-code":
            sampling = CMLA(references=self.references)
        goal = own_code_goal(sampling, victim, data, modality, usable, seed=seed, pool=usable)
        weight = next(victim.model.parameters())
        loss = self._loss(goal.to(weight.device), weight, seed=seed)
        eps = self.budget(modality).eps
        delta = torch.zeros(data.array(modality).shape[1:], dtype=weight.dtype).to(weight.device)
        batches = [
            rows
            for epoch in range(self.epochs if eps > 0 else 0)
            for rows in torch.split(
                permutation(len(usable), seed=seed, stream=f"universal{epoch}"), self.batch_size
            )
        ]
        watched = progress.track(batches, total=len(batches), label=f"universal {modality}")
        with victim.attacked():
            for step, rows in enumerate(watched):
                x = data.inputs(modality, usable[rows.numpy()]).to(weight)
                delta.requires_grad_(True)
                logits = victim.logits(modality, (x + delta).clamp(0, 1))
                value = loss(logits, rows.to(weight.device)).clamp_max(self.clip).mean()
                (gradient,) = torch.autograd.grad(value, delta)
                size = self.step_size * eps * (1 - 0.8 * step / max(len(batches) - 1, 1))
                delta = (delta.detach() + sign_steps(size)(gradient, step)).clamp(-eps, eps)
        return FittedUniversal(
            options=self, modality=modality, code_length=victim.code_length, delta=delta
        )

    def _loss(self, goal: Goal, weight: Tensor, *, seed: int) -> _Loss:
        """Return the loss of the items of a goal; "own-code" is the mean share in (-1, 1)."""
        if self.goal == "own-code":
            length = goal.anchor.shape[1]
            return lambda logits, rows: -auto_temperature(logits, goal.anchor[rows]) / length
        pool = Pool.of(goal, "other", who="universal")
        if self.goal == "cmla":
            other, own = (
                Pool.of(goal, source, who="universal").codes.to(weight)
                for source in ("other", "own")
            )
            similar = relevance(pool.wanted, pool.label).to(weight)
            return lambda logits, rows: (
                -cmla_loss(torch.tanh(unit_logits(logits)), other, own, similar[rows])
            )
        anchors, present = class_prototypes(pool, seed=seed)
        mine = (pool.wanted * present).to(weight)
        foreign = ((pool.wanted == 0) & present).to(weight)
        return lambda logits, rows: (
            -prototype_contrast(
                torch.tanh(unit_logits(logits)), anchors, foreign[rows], far=mine[rows]
            )
        )
