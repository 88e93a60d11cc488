"""CSQ: central similarity quantization. Each class has a center, items go to theirs."""

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int8
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.models import HashModel
from hamward.random import item_uniform
from hamward.training.image_memory import image_outputs
from hamward.training.objective import OBJECTIVES, Phase, Step
from hamward.types import Modality

__all__ = ["CSQ", "class_centers", "csq_loss", "hadamard", "item_centers"]

_CANDIDATES = 256


def hadamard(size: int) -> Int8[Tensor, "k k"]:
    """Return Sylvester's Hadamard matrix; its rows differ in half of their places.

    Raises:
        ConfigError: the size is no power of two.
    """
    if size < 1 or size & (size - 1):
        raise ConfigError(f"a Hadamard matrix of size {size}: must be a power of two")
    matrix = torch.ones(1, 1, dtype=torch.int8)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def class_centers(
    classes: int,
    code_length: int,
    *,
    source: Literal["hadamard", "random"] = "hadamard",
    seed: int = 0,
) -> Int8[Tensor, "c k"]:
    """Return one code a class, far from each other.

    "hadamard": the first C rows of [H; -H], for K a power of two and C <= 2K. "random": balanced
    random rows (K // 2 of their bits are +1), each the one of 256 candidates that is farthest
    from its nearest predecessor.

    Source: Yuan et al., CVPR 2020, Sec. 3.2.
    Differs: the released code draws random rows without looking at the distances between them.

    Args:
        classes: C.
        code_length: K.
        source: Hadamard or random rows.
        seed: Seed of random rows.

    Raises:
        ConfigError: Hadamard rows are asked for and do not exist, or K is too short for C
            different rows.
    """
    if source == "hadamard":
        if code_length & (code_length - 1) or classes > 2 * code_length:
            raise ConfigError(
                "centers = 'hadamard' needs a code_length that is a power of two and at least "
                f"half of the {classes} classes, got {code_length}: choose another or centers = "
                "'random'"
            )
        rows = hadamard(code_length)
        return torch.cat([rows, -rows])[:classes]
    chosen = torch.empty(0, code_length)
    for number in range(classes):
        draws = torch.arange(number * _CANDIDATES, (number + 1) * _CANDIDATES)
        order = item_uniform(draws, (code_length,), seed=seed, stream="centers").argsort(1)
        candidates = torch.where(order < code_length // 2, 1.0, -1.0)
        nearest = (candidates @ chosen.T).amax(1) if number else torch.zeros(_CANDIDATES)
        best = int(nearest.argmin())
        if number and nearest[best] == code_length:
            raise ConfigError(
                f"code_length {code_length} is too short for centers of {classes} classes: it "
                f"has {math.comb(code_length, code_length // 2)} balanced codes"
            )
        chosen = torch.cat([chosen, candidates[best : best + 1]])
    return binarize(chosen)


def item_centers(
    labels: Float[Tensor, "n c"], centers: Float[Tensor, "c k"], ties: Float[Tensor, " k"]
) -> Float[Tensor, "n k"]:
    """Return the center of each item: bit by bit the majority of its classes' centers.

    Args:
        labels: Multi-hot.
        centers: Of the classes, in {-1, +1}.
        ties: Bits for places without a majority, the same for all items.
    """
    votes = labels @ centers
    return torch.where(votes == 0, ties, binarize(votes).to(centers.dtype))


def csq_loss(
    logits: Float[Tensor, "b k"], centers: Float[Tensor, "b k"], *, weight: float
) -> Float[Tensor, ""]:
    """Return BCE((u + 1) / 2, (c + 1) / 2) + weight mean (|u| - 1)^2 for u = tanh(logits).

    (tanh z + 1) / 2 is the logistic function of 2z, which makes the first term exact for any
    logit.

    Source: Yuan et al., CVPR 2020, Eq. (3) to (6), as in DeepHash-pytorch, CgAT and SAAT.

    Args:
        logits: Of the batch.
        centers: Of its items, in {-1, +1}.
        weight: Of the quantization term.
    """
    central = F.binary_cross_entropy_with_logits(2 * logits, (centers + 1) / 2)
    return central + weight * (torch.tanh(logits).abs() - 1).square().mean()


@OBJECTIVES.register(
    "csq",
    summary="Pictures alone: each goes to the Hadamard center of its classes",
    citation="Yuan et al., CVPR 2020",
    access="training",
)
class CSQ:
    """Central similarity quantization over pictures.

    Source: Yuan et al., "Central Similarity Quantization for Efficient Image and Video
        Retrieval", CVPR 2020; as in DeepHash-pytorch, CgAT and SAAT.
    Differs: weight of the quantization 1e-4 as in DeepHash-pytorch and CgAT, 0.05 in SAAT. Where
        Hadamard rows do not exist (more than 2K classes, K no power of two) others draw random
        ones or fail; here it is an error that names the option for random rows, which are kept
        apart. CgAT draws the bits of ties at every construction, so that its robust phase has
        other centers than the clean one; here a seed decides, which is an option of the method
        and kept with the model. The codes' optimizers are SGD or
        RMSprop, here what `fit` runs. The paper's own settings: UNKNOWN.
    """

    def __init__(
        self,
        *,
        quantization: float = 1e-4,
        centers: Literal["hadamard", "random"] = "hadamard",
        center_seed: int = 0,
    ) -> None:
        """Set the weight and how centers are made.

        Args:
            quantization: Weight of the quantization term.
            centers: "hadamard" refuses where there are no such rows; see `class_centers`.
            center_seed: Seed of random centers and of the bits of ties.

        Raises:
            ConfigError: the weight is negative.
        """
        if quantization < 0:
            raise ConfigError(f"quantization must be at least 0, got {quantization}")
        self.quantization, self.centers, self.center_seed = quantization, centers, center_seed
        self.buffers: dict[str, Tensor] = {}
        self.modules = nn.ModuleDict()
        self.labels = torch.empty(0)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Pictures."""
        return ("image",)

    def check(self, data: RetrievalData, *, code_length: int) -> None:
        """Refuse data that there are no centers for.

        Raises:
            ConfigError: see `class_centers`.
        """
        self._class_centers(len(data.label_names), code_length)

    def start(self, model: HashModel, data: RetrievalData, positions: NDArray[np.int64]) -> None:
        """Make the centers, and remember the outputs of the model as it is."""
        device = next(model.parameters()).device
        self.labels = data.label(positions, device=device)
        classes, code_length = self.labels.shape[1], model.code_length
        coins = item_uniform(
            torch.zeros(1, dtype=torch.int64), (code_length,), seed=self.center_seed, stream="ties"
        )
        ties = binarize(coins - 0.5)[0]
        self.buffers["centers"] = self._class_centers(classes, code_length).to(device).float()
        self.buffers["ties"] = ties.to(device).float()
        self.buffers["image"] = image_outputs(model, data, positions, self.activate)

    def _class_centers(self, classes: int, code_length: int) -> Int8[Tensor, "c k"]:
        return class_centers(classes, code_length, source=self.centers, seed=self.center_seed)

    def activate(self, logits: Tensor) -> Tensor:
        """Return what the objective works on: the logits, whose tanh is u."""
        return logits

    def loss(self, model: HashModel, step: Step) -> Float[Tensor, ""]:
        """Return the CSQ loss of the batch."""
        logits = model.logits("image", step.items["image"], low_precision=True)
        self.remember("image", step.rows, logits)
        return self.penalty("image", step.rows, logits)

    def remember(self, modality: Modality, rows: Tensor, outputs: Tensor) -> None:
        """Keep outputs; the loss does not read them, defenses take their reference codes."""
        self.buffers[modality][rows] = outputs.detach()

    def penalty(self, modality: Modality, rows: Tensor, outputs: Tensor) -> Float[Tensor, ""]:
        """Return the loss of logits that stand for the training pictures `rows`."""
        centers = item_centers(self.labels[rows], self.buffers["centers"], self.buffers["ties"])
        return csq_loss(outputs, centers.to(outputs.dtype), weight=self.quantization)

    def end_epoch(self) -> None:
        """Do nothing: centers stay."""
