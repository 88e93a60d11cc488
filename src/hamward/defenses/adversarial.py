"""CMLA adversarial learning: the "+" models, and the control that shows what it is worth."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from hamward.attacks import CMLA, Attack, Goal, OwnCode, References, reference_codes
from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.models import HashModel, Victim
from hamward.registry import Registry
from hamward.training import ALONE, Objective, Phase, Ranks, Step
from hamward.types import MODALITIES, Modality

__all__ = [
    "DEFENSES",
    "AdversarialLearning",
    "AdversarialObjective",
    "PairObjective",
    "cmla_learning",
    "control",
]


@runtime_checkable
class PairObjective(Objective, Protocol):
    """An objective whose loss can be asked for outputs that stand for training items."""

    labels: Tensor

    def activate(self, logits: Tensor) -> Tensor:
        """Return what the objective works on."""
        ...

    def remember(self, modality: Modality, rows: Tensor, outputs: Tensor) -> None:
        """Write outputs into the buffers."""
        ...

    def penalty(self, modality: Modality, rows: Tensor, outputs: Tensor) -> Tensor:
        """Return the loss of outputs that stand for the training items `rows`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AdversarialLearning:
    """How adversarial samples enter the training.

    Attributes:
        weight: Weight of the adversarial half of the loss; 0 is the control, which then
            crafts nothing. 0.5 is the published mixture of as many adversarial as clean
            items.
        refresh: Craft anew every so many epochs; 1 crafts against the model of the very
            step; 0 crafts once, against the model that training starts from, as published.
        modalities: Which sides are perturbed (published: both).
        references: Training items whose codes the attack compares with.
    """

    weight: float = 0.5
    refresh: int = 1
    modalities: tuple[Modality, ...] = ("image", "text")
    references: int = 256

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ConfigError(f"weight must be in [0, 1], got {self.weight}")
        if self.refresh < 0:
            raise ConfigError(f"refresh must be at least 0, got {self.refresh}")
        if self.references < 1:
            raise ConfigError(f"references must be at least 1, got {self.references}")
        if not self.modalities or not set(self.modalities) <= {"image", "text"}:
            raise ConfigError(f"modalities must be image, text or both, got {self.modalities}")


@dataclass(kw_only=True)
class AdversarialObjective:
    """A training objective on clean and adversarial items with their original labels.

    Source: Li et al., NeurIPS 2019, Sec. "adversarial learning", as in the released
        demo_AdversarialTraining.py: fine-tune the trained model on its training items and
        their adversarial versions, both modalities, with the loss it was trained with.
    Differs: released code: 5,000 samples crafted once with 500 steps (here `refresh=0`
        crafts once for all items), images paired with the wrong texts by directory order,
        permutation shorter than the enlarged set, all named in its specification and not
        copied. Here by default samples are crafted against the current model in every step
        (`refresh=1`), with few steps; the first are cheap to beat, these are not. Adversarial
        outputs do not enter the buffers F and G. Inner attacks run in eval mode, in bf16
        where that is faster, and leave BatchNorm statistics alone.

    Attributes:
        base: The objective the model was trained with.
        attack: What crafts the samples.
        config: Mixture and refresh.
        seed: Seed of the attack.
    """

    base: Objective
    attack: Attack
    config: AdversarialLearning = field(default_factory=AdversarialLearning)
    seed: int = 0
    source: tuple[RetrievalData, NDArray[np.int64]] | None = field(default=None, init=False)
    labels: Tensor = field(default_factory=lambda: torch.empty(0), init=False)
    held: tuple[int, dict[Modality, Tensor]] | None = field(default=None, init=False)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Those of the base objective."""
        return self.base.phases

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Those of the base objective, the samples in use and the number of their round."""
        return self.base.buffers

    @property
    def modules(self) -> nn.ModuleDict:
        """Those of the base objective."""
        return self.base.modules

    def start(self, model: HashModel, data: RetrievalData, positions: NDArray[np.int64]) -> None:
        """Fill the base's buffers."""
        if self.config.weight and "text" in self.config.modalities and model.text_format != "bag":
            raise ConfigError(
                "adversarial learning moves bags of words, and this victim reads tokens: harden "
                "its pictures only (modalities = image)"
            )
        self.base.start(model, data, positions)
        self.source = (data, positions)
        device = next(model.parameters()).device
        self.labels = torch.zeros(len(positions), 0, device=device)
        if data.label_names:
            self.labels = data.label(positions, device=device)

    def loss(self, model: HashModel, step: Step) -> Float[Tensor, ""]:
        """Return the weighted loss of the clean and the adversarial batch.

        In one forward pass where the base takes outputs of one modality, else in two.
        """
        weight = self.config.weight
        sides = [m for m in step.items if m in self.config.modalities]
        if weight == 0 or not sides:
            return self.base.loss(model, step)
        moved = {m: self._adversarial(model, m, step) for m in sides}
        if not isinstance(self.base, PairObjective) or len(step.items) > 1:
            items = {**step.items, **moved}
            adversarial = self.base.loss(model, dataclasses.replace(step, items=items))
            return weight * adversarial + (1 - weight) * self.base.loss(model, step)
        ((modality, x_adv),) = moved.items()
        x = step.items[modality]
        logits = model.logits(modality, torch.cat([x, x_adv]), low_precision=True)
        clean, adversarial = self.base.activate(logits).chunk(2)
        self.base.remember(modality, step.rows, clean)
        return (1 - weight) * self.base.penalty(modality, step.rows, clean) + (
            weight * self.base.penalty(modality, step.rows, adversarial)
        )

    def _adversarial(self, model: HashModel, modality: Modality, step: Step) -> Tensor:
        refresh, x = self.config.refresh, step.items[modality]
        if refresh == 1:
            return self._craft(
                model, modality, x, rows=step.rows, ids=step.ids, epoch=step.epoch, ranks=step.ranks
            )
        round_ = 0 if refresh == 0 else (step.epoch - 1) // refresh
        if self.buffers.get(f"round/{modality}") != round_:
            self._craft_all(model, modality, epoch=round_, ranks=step.ranks)
        return self.buffers[f"cache/{modality}"][step.rows].to(x.dtype)

    def _craft_all(self, model: HashModel, modality: Modality, *, epoch: int, ranks: Ranks) -> None:
        """Craft the samples of a round, all against the model as it is now."""
        if self.source is None:
            raise ConfigError("start() must come before loss()")
        data, positions = self.source
        device = self.labels.device
        made = []
        for rows in torch.split(torch.arange(len(positions), device=device), 64):
            chosen = positions[rows.cpu().numpy()]
            x = data.inputs(modality, chosen, device=device)
            ids = torch.tensor(data.ids[chosen], device=device)
            crafted = self._craft(model, modality, x, rows=rows, ids=ids, epoch=epoch, ranks=ranks)
            made.append(crafted.half())
        self.buffers[f"cache/{modality}"] = torch.cat(made)
        self.buffers[f"round/{modality}"] = torch.tensor(epoch)

    def _craft(
        self,
        model: HashModel,
        modality: Modality,
        x: Tensor,
        *,
        rows: Tensor,
        ids: Tensor,
        epoch: int,
        ranks: Ranks,
    ) -> Tensor:
        """Craft a batch: each rank its share, since attacks treat items one by one."""
        if len(x) % ranks.size:  # an uneven rest: every rank all of it
            ranks = ALONE
        x, rows, ids = (ranks.share(part) for part in (x, rows, ids))
        victim = Victim(model=model, low_precision=True)
        goal = Goal(
            modality=modality,
            anchor=victim.codes(modality, x),
            label=self.labels[rows] if self.labels.shape[1] else None,
            references=self._references(model, epoch),
        )
        return ranks.gather(self.attack(victim, x, goal, ids=ids, seed=self.seed * 100_003 + epoch))

    def _references(self, model: HashModel, epoch: int) -> References | None:
        """Return evenly spaced training items: as the base remembers them, or encoded anew."""
        if not self.attack.needs_references:
            return None
        if self.source is None:
            raise ConfigError("start() must come before loss()")
        step = max(len(self.labels) // self.config.references, 1)
        chosen = torch.arange(0, len(self.labels), step, device=self.labels.device)
        n = len(self.labels)
        held = {m: v for m, v in self.base.buffers.items() if m in MODALITIES and len(v) == n}
        codes = {m: binarize(v[chosen]) for m, v in held.items()}
        if not codes:  # an objective without a memory of outputs
            if self.held is None or self.held[0] != epoch:
                data, positions = self.source
                made = reference_codes(model, data, positions[chosen.cpu().numpy()])
                self.held = epoch, {m: v.to(chosen.device) for m, v in made.items()}
            codes = dict(self.held[1])
        (first, *_) = codes.values()  # one that the model lacks takes the other's place
        return References(
            image=codes.get("image", first),
            text=codes.get("text", first),
            label=self.labels[chosen],
        )

    def end_epoch(self) -> None:
        """Update the base's buffers."""
        self.base.end_epoch()


DEFENSES: Registry[Callable[..., AdversarialObjective]] = Registry("defense")


@DEFENSES.register(
    "cmla",
    summary="Fine-tune on clean and adversarial items of both modalities (the + models)",
    citation="Li, Gao, Deng, Xie and Liu, NeurIPS 2019",
    access="training",
    threat="white-box l_inf on images, feature-space l_inf on bags of words",
)
def cmla_learning(
    base: Objective,
    *,
    seed: int = 0,
    attack: Literal["cmla", "own-code"] = "cmla",
    eps: float = 8 / 255,
    text_eps: float = 0.05,
    steps: int = 2,
    intra: float = 1.0,
    weight: float = 0.5,
    refresh: int = 1,
    modalities: tuple[Modality, ...] = ("image", "text"),
    references: int = 256,
) -> AdversarialObjective:
    """Return CMLA adversarial learning over a trained victim's objective.

    Args:
        base: The objective that the victim was trained with.
        seed: Seed of the attack.
        attack: What crafts the samples: CMLA as published, or own-code PGD, which protects
            the text side far better.
        eps: Image radius.
        text_eps: Radius on bags of words.
        steps: Inner steps a sample; the step size reaches the border of the ball.
        intra: Weight of CMLA's intra term in the samples (published: 1; it weakens them).
        weight: See `AdversarialLearning`.
        refresh: See `AdversarialLearning`.
        modalities: See `AdversarialLearning`.
        references: See `AdversarialLearning`.
    """
    stride = 1.25 / max(steps, 1)
    inner: Attack
    if attack == "cmla":
        inner = CMLA(
            eps=eps,
            text_eps=text_eps,
            steps=steps,
            learning_rate=stride * eps,
            text_learning_rate=stride * text_eps,
            intra=intra,
            distance=0,
        )
    else:
        inner = OwnCode(eps=eps, text_eps=text_eps, steps=steps, step_size=stride)
    config = AdversarialLearning(
        weight=weight, refresh=refresh, modalities=modalities, references=references
    )
    return AdversarialObjective(base=base, attack=inner, config=config, seed=seed)


@DEFENSES.register(
    "control",
    summary="The same extra epochs without adversarial items: what a + model must beat",
    citation="hamward; missing in the CMLA paper",
    access="training",
    threat="none",
)
def control(base: Objective, *, seed: int = 0) -> AdversarialObjective:
    """Return plain fine-tuning under the same loop."""
    config = AdversarialLearning(weight=0)
    return AdversarialObjective(base=base, attack=OwnCode(steps=0), config=config, seed=seed)
