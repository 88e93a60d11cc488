"""What `fit` minimizes: an objective over the training items, one phase of an epoch at a time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64, Shaped
from numpy.typing import NDArray
from torch import Tensor, nn

from hamward.data import RetrievalData
from hamward.models import HashModel
from hamward.progress import SILENT, Progress
from hamward.registry import Registry
from hamward.training.ranks import ALONE, Ranks
from hamward.types import Modality

__all__ = ["OBJECTIVES", "Step", "Objective", "Phase", "modalities_in"]

Phase = Literal["image", "text", "pair", "label"]
"""A pass over the training items: pictures, texts, both together, or labels alone."""


def modalities_in(phase: Phase) -> tuple[Modality, ...]:
    """Return the modalities that a batch of a phase holds."""
    if phase == "pair":
        return ("image", "text")
    return () if phase == "label" else (phase,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The training items of one step.

    Attributes:
        phase: The pass that the step belongs to.
        items: Inputs of each modality of the phase: in [0, 1], or token ids.
        rows: Their positions within the training items, 0..n-1 (not within the data set).
        ids: Their ids in the data set.
        epoch: From 1.
        number: Steps before this one in the whole training.
        total: Steps of the whole training.
        ranks: The processes that take this step; each holds the whole batch.
        progress: Watches what takes long within the step.
    """

    phase: Phase
    items: Mapping[Modality, Shaped[Tensor, "b ..."]]
    rows: Int64[Tensor, " b"]
    ids: Int64[Tensor, " b"]
    epoch: int
    number: int
    total: int
    ranks: Ranks = ALONE
    progress: Progress = SILENT

    @property
    def share(self) -> float:
        """Share of the training that is done, in [0, 1)."""
        return self.number / max(self.total, 1)


@runtime_checkable
class Objective(Protocol):
    """A training objective with a memory and networks of its own.

    Attributes:
        phases: The passes over the training items of one epoch, in order.
        buffers: What it remembers between steps, by name; kept in checkpoints.
        modules: Networks that are trained along with the model and not part of it: label
            networks, discriminators, classifiers. Built in `start`, kept in checkpoints.

    One that has `replays`, a number, sees each batch so many times in a row. One that has
    `verdict` is asked after each validation, with the history of scores, and ends the training
    by a reason; that epoch is not kept.
    """

    buffers: dict[str, Tensor]
    modules: nn.ModuleDict

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The passes over the training items of one epoch, in order."""
        ...

    def start(self, model: HashModel, data: RetrievalData, positions: NDArray[np.int64]) -> None:
        """Fill the buffers and build the modules before the first epoch.

        Called inside a seeded fork of the random stream, so modules draw their weights freely.
        """
        ...

    def loss(self, model: HashModel, step: Step) -> Float[Tensor, ""]:
        """Return the loss of a batch, and remember its outputs."""
        ...

    def end_epoch(self) -> None:
        """Update the buffers after all passes of an epoch."""
        ...


OBJECTIVES: Registry[Callable[..., Objective]] = Registry("victim")
