"""A contrastive dual encoder: the model that RoCMR defends, real-valued or with hash heads."""

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.losses import info_nce
from hamward.models import HashModel
from hamward.training.objective import OBJECTIVES, Phase, Step

__all__ = ["DualEncoder", "Temperature", "symmetric_contrast"]

_MOST = math.log(100)


def symmetric_contrast(
    image: Float[Tensor, "b k"],
    text: Float[Tensor, "b k"],
    matches: Float[Tensor, "b b"],
    *,
    scale: Float[Tensor, ""] | float,
    i2t: float = 0.5,
) -> Float[Tensor, ""]:
    """Return (L_i2t + L_t2i) / 2 of a batch; similarities are cosines times `scale`.

    Source: Zhang, Sun and Zhao, IJCNN 2022, INFERRED (the paper's body could not be read); the
        contrastive loss is that of van den Oord et al., 2018.

    Args:
        image: Embeddings of the pictures, (b, K), of any length.
        text: Embeddings of the texts.
        matches: 1 where picture i and text j belong together, (b, b).
        scale: 1 / tau.
        i2t: Weight of L_i2t, where pictures ask; L_t2i has the rest.
    """
    similarity = scale * F.normalize(image) @ F.normalize(text).T
    asking, asked = info_nce(similarity, matches), info_nce(similarity.T, matches.T)
    return i2t * asking.mean() + (1 - i2t) * asked.mean()


class Temperature(nn.Module):
    """The learned scale of similarities, 1 / tau: starts at 1 / 0.07, at most 100."""

    def __init__(self, start: float = 0.07) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(start)))

    def forward(self) -> Float[Tensor, ""]:
        """Return the scale."""
        return self.log_scale.clamp(max=_MOST).exp()


@OBJECTIVES.register(
    "dual-encoder",
    summary="Contrastive dual encoder: InfoNCE both ways, shared labels as soft targets",
    citation="Zhang, Sun and Zhao, IJCNN 2022 (the clean model that RoCMR hardens)",
    access="training",
)
class DualEncoder:
    """Symmetric InfoNCE over the pairs of a batch.

    With `retrieval = "cosine"` the logits are the embeddings; with "hamming" the relaxed codes
    tanh(u) are, plus a pull of |tanh(u)| to 1.

    Source: Zhang, Sun and Zhao, "Robust Cross-Modal Retrieval by Adversarial Training", IJCNN
        2022. Only its abstract is public, so all of this is INFERRED: temperature learned from
        0.07, scale at most 100, soft targets q_ij = S_ij / sum_j S_ij.
    Differs: nothing known; the hash head is hamward's.
    """

    def __init__(
        self,
        *,
        targets: Literal["labels", "pairs"] = "labels",
        temperature: float = 0.07,
        quantization: float = 0.1,
    ) -> None:
        """Set targets and weights.

        Args:
            targets: What matches an item: all that share a label, or its own partner alone, which
                needs no labels.
            temperature: Starting tau.
            quantization: Weight of the pull to codes; hash heads only.

        Raises:
            ConfigError: a value is out of range.
        """
        if not 0.01 <= temperature <= 10:
            raise ConfigError(f"temperature must be in [0.01, 10], got {temperature}")
        if quantization < 0:
            raise ConfigError(f"quantization must be at least 0, got {quantization}")
        self.targets, self.temperature, self.quantization = targets, temperature, quantization
        self.buffers: dict[str, Tensor] = {}
        self.modules = nn.ModuleDict()
        self.labels = torch.empty(0)

    @property
    def supervised(self) -> bool:
        """Whether labels decide what matches."""
        return self.targets == "labels"

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Pairs."""
        return ("pair",)

    def start(self, model: HashModel, data: RetrievalData, positions: NDArray[np.int64]) -> None:
        """Build the temperature; read the labels if they are the targets."""
        device = next(model.parameters()).device
        self.modules["temperature"] = Temperature(self.temperature).to(device)
        if self.targets == "labels":
            self.labels = data.label(positions, device=device)

    def loss(self, model: HashModel, step: Step) -> Float[Tensor, ""]:
        """Return the contrast of the batch's pairs."""
        image, text = (
            self.activate(model, model.logits(m, step.items[m], low_precision=True))
            for m in ("image", "text")
        )
        matches = self.matches(step.rows)
        total = symmetric_contrast(image, text, matches, scale=self.modules["temperature"]())
        if model.spec.retrieval == "hamming":
            total = total + self.pull(image, text)
        return total

    def pull(self, image: Tensor, text: Tensor) -> Float[Tensor, ""]:
        """Return the weighted distance of relaxed codes from codes."""
        gap = (image.abs() - 1).square().mean() + (text.abs() - 1).square().mean()
        return 0.5 * self.quantization * gap

    def activate(self, model: HashModel, logits: Tensor) -> Tensor:
        """Return embeddings: the logits, or relaxed codes of a model that hashes."""
        return torch.tanh(logits) if model.spec.retrieval == "hamming" else logits

    def matches(self, rows: Tensor) -> Float[Tensor, "b b"]:
        """Return which training items of a batch belong together."""
        if self.targets == "pairs":
            return torch.eye(len(rows), device=rows.device)
        labels = self.labels[rows]
        return (labels @ labels.T > 0).to(labels.dtype)

    def end_epoch(self) -> None:
        """Nothing to update."""
