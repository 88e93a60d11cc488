"""What `fit` minimizes: an objective over the training items, one modality at a time."""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from hamward.data import RetrievalData
from hamward.models import HashModel
from hamward.registry import Registry
from hamward.types import Modality

__all__ = ["OBJECTIVES", "Objective"]


@runtime_checkable
class Objective(Protocol):
    """A training objective with buffers of its own.

    Rows are positions within the training items, 0..n-1, not within the data set.
    """

    @property
    def phases(self) -> tuple[Modality, ...]:
        """The passes over the training items of one epoch, in order."""
        ...

    def start(self, model: HashModel, data: RetrievalData, positions: NDArray[np.int64]) -> None:
        """Fill the buffers before the first epoch."""
        ...

    def loss(
        self,
        model: HashModel,
        modality: Modality,
        x: Tensor,
        *,
        rows: Int64[Tensor, " b"],
        ids: Int64[Tensor, " b"],
        epoch: int,
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch of items of one modality, and remember its outputs."""
        ...

    def end_epoch(self) -> None:
        """Update the buffers after all passes of an epoch."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return the buffers, for checkpoints."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put checkpointed buffers back."""
        ...


OBJECTIVES: Registry[Callable[..., Objective]] = Registry("victim")
