"""Deep image hashing: a batch of pictures against the remembered outputs of all of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from hamward.data import RetrievalData
from hamward.models import HashModel, frozen
from hamward.training.objective import Phase, Step
from hamward.types import Modality

__all__ = ["ImageMemory", "PairLoss", "image_outputs"]

PairLoss = Callable[
    [Float[Tensor, "b k"], Float[Tensor, "n k"], Float[Tensor, "b n"]], Float[Tensor, ""]
]
"""Outputs of a batch (with graph), of all training pictures, and S in {0, 1} -> loss."""


def image_outputs(
    model: HashModel,
    data: RetrievalData,
    positions: NDArray[np.int64],
    activate: Callable[[Tensor], Tensor],
) -> Float[Tensor, "n k"]:
    """Return the activated logits of pictures in eval mode, without a graph."""
    device = next(model.parameters()).device
    with torch.no_grad(), frozen(model):
        return torch.cat(
            [
                activate(model.logits("image", data.inputs("image", chunk, device=device)))
                for chunk in np.split(positions, range(128, len(positions), 128))
            ]
        )


def _always_one(number: int) -> float:
    return 1.0


@final
@dataclass(kw_only=True)
class ImageMemory:
    """The frame that DPSH, DPH and HashNet share.

    Relaxed outputs u = tanh(scale x logits) of all training pictures are remembered; a batch
    first replaces its own, then is compared with all of them.

    Source: the victims of ProS-GAN, THA, CgAT and SAAT (all by or after X. Wang).
    Differs: they start the memory at zero or at random, here from the outputs of the model that
        training starts from, which matters when epochs are few.

    Attributes:
        pair_loss: The method's loss.
        scale: Continuation: factor of the logits after so many steps.
        buffers: "image", the memory U, (n, K).
        modules: None.
        labels: Of the training items.
    """

    pair_loss: PairLoss
    scale: Callable[[int], float] = _always_one
    buffers: dict[str, Tensor] = field(default_factory=dict, init=False)
    modules: nn.ModuleDict = field(default_factory=nn.ModuleDict, init=False)
    labels: Tensor = field(default_factory=lambda: torch.empty(0), init=False)
    factor: float = field(default=1.0, init=False)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Pictures."""
        return ("image",)

    def start(self, model: HashModel, data: RetrievalData, positions: NDArray[np.int64]) -> None:
        """Remember the outputs of the model as it is."""
        self.labels = data.label(positions, device=next(model.parameters()).device)
        self.factor = self.scale(0)
        self.buffers["image"] = image_outputs(model, data, positions, self.activate)

    def activate(self, logits: Tensor) -> Tensor:
        """Return relaxed outputs at the current scale."""
        return torch.tanh(self.factor * logits)

    def loss(self, model: HashModel, step: Step) -> Float[Tensor, ""]:
        """Return the loss of the batch; its outputs enter the memory first."""
        self.factor = self.scale(step.number)
        outputs = self.activate(model.logits("image", step.items["image"], low_precision=True))
        self.remember("image", step.rows, outputs)
        return self.penalty("image", step.rows, outputs)

    def remember(self, modality: Modality, rows: Tensor, outputs: Tensor) -> None:
        """Write the outputs of some training pictures into the memory."""
        self.buffers[modality][rows] = outputs.detach()

    def penalty(self, modality: Modality, rows: Tensor, outputs: Tensor) -> Float[Tensor, ""]:
        """Return the loss of outputs that stand for the training pictures `rows`."""
        similar = (self.labels[rows] @ self.labels.T > 0).to(outputs.dtype)
        return self.pair_loss(outputs, self.buffers[modality], similar)

    def end_epoch(self) -> None:
        """Do nothing: the memory is updated in every step."""
