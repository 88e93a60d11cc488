"""What adversarial trainings share with each other, and the plain mixture of losses."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from hamward.attacks import (
    Attack,
    OwnCode,
)
from hamward.data import RetrievalData
from hamward.defenses.sampler import AdversarialLearning, Sampler, scaled
from hamward.errors import ConfigError
from hamward.models import HashModel
from hamward.registry import Registry
from hamward.training import Objective, Phase, Step
from hamward.types import Modality

__all__ = [
    "DEFENSES",
    "AdversarialObjective",
    "HardeningObjective",
    "OverBase",
    "OverVictim",
    "PairObjective",
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


@dataclass(kw_only=True)
class OverBase:
    """An objective over the one that a victim was trained with, whose state it shares.

    Attributes:
        base: The objective the model was trained with.
    """

    base: Objective

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Those of the base objective."""
        return self.base.phases

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Those of the base objective, and what the defense keeps beside them."""
        return self.base.buffers

    @property
    def modules(self) -> nn.ModuleDict:
        """Those of the base objective."""
        return self.base.modules

    def start(self, model: HashModel, data: RetrievalData, positions: NDArray[np.int64]) -> None:
        """Start the base objective."""
        self.base.start(model, data, positions)

    def end_epoch(self) -> None:
        """Update the base's buffers."""
        self.base.end_epoch()


@dataclass(kw_only=True)
class OverVictim(OverBase):
    """What objectives share whose samples a `Sampler` crafts.

    Attributes:
        attack: What crafts the samples.
        config: Which sides are perturbed, when, and how much.
        seed: Seed of the attack.
    """

    attack: Attack
    config: AdversarialLearning = field(default_factory=AdversarialLearning)
    seed: int = 0
    sampler: Sampler = field(init=False)

    def __post_init__(self) -> None:
        self.sampler = Sampler(
            base=self.base, attack=self.attack, config=self.config, seed=self.seed
        )
        if self.config.warmup:
            scaled(self.attack, 0.5)

    def start(self, model: HashModel, data: RetrievalData, positions: NDArray[np.int64]) -> None:
        """Fill the base's buffers and read the labels."""
        super().start(model, data, positions)
        self.sampler.start(model, data, positions)


@dataclass(kw_only=True)
class AdversarialObjective(OverVictim):
    """A training objective on clean and adversarial items with their original labels.

    (1 - w) L(clean) + w L(adversarial) for the loss L that the model was trained with.
    Adversarial outputs do not enter the base's buffers.
    """

    def check_victim(self, model: HashModel, data: RetrievalData) -> None:
        """Refuse a victim or data that the attack inside cannot work with.

        Raises:
            ConfigError: the attack compares labels, and there are none.
        """
        if self.config.weight and self.attack.needs_references and not data.label_names:
            raise ConfigError(
                f"{type(self.attack).__name__} compares labels, and {data.name} has none: harden "
                "with an attack that reads codes alone, e.g. cmla with attack = own-code"
            )

    def loss(self, model: HashModel, step: Step) -> Float[Tensor, ""]:
        """Return the weighted loss of the clean and the adversarial batch.

        In one forward pass where the base takes outputs of one modality, else in two.
        """
        weight, sides = self.config.weight, self.sampler.sides(step)
        if weight == 0 or not sides:
            return self.base.loss(model, step)
        moved = {m: self.sampler.items(model, m, step) for m in sides}
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


@runtime_checkable
class HardeningObjective(Protocol):
    """What a defense adds to an objective: how its victim shall be validated."""

    @property
    def attack(self) -> Attack:
        """A short attack that the validation runs, too; it works without a target."""
        ...

    @property
    def config(self) -> AdversarialLearning:
        """Its modalities are attacked in the validation; with weight 0, none."""
        ...


DEFENSES: Registry[Callable[..., HardeningObjective]] = Registry("defense")


@DEFENSES.register(
    "control",
    summary="The same extra epochs without adversarial items: what a defense must beat",
    citation="hamward; missing in the CMLA paper",
    access="training",
    threat="none",
)
def control(base: Objective, *, seed: int = 0) -> AdversarialObjective:
    """Return plain fine-tuning under the same loop.

    Source: hamward.
    Differs: nothing known.

    Args:
        base: The objective that the victim was trained with.
        seed: Not used: nothing is crafted.
    """
    config = AdversarialLearning(weight=0)
    return AdversarialObjective(base=base, attack=OwnCode(steps=0), config=config, seed=seed)
