"""DJSRH: unsupervised cross-modal hashing towards a joint-semantics affinity matrix."""

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
from hamward.models import HashModel, frozen
from hamward.models.efficientnet_lite import EfficientNetLite0
from hamward.training.objective import OBJECTIVES, Phase, Step

__all__ = ["DJSRH", "djsrh_loss", "joint_affinity"]


def joint_affinity(
    image: Float[Tensor, "b d"],
    text: Float[Tensor, "b w"],
    *,
    beta: float,
    eta: float = 0.4,
    mu: float = 1.5,
) -> Float[Tensor, "b b"]:
    """Return S = mu [(1 - eta) S~ + eta S~ S~^T / b], S~ = beta S_I + (1 - beta) S_T.

    S_I and S_T are 2 cos - 1 of image features and of texts. The second term compares items by
    their neighborhoods; it is divided by the batch size b, so S depends on the batch.

    Source: Su, Zhong and Zhang, ICCV 2019, as in the released code.

    Args:
        image: Features of the batch's pictures from a frozen network, (b, d).
        text: Bags of words, (b, D). An empty one has cosine 0 with everything, itself included.
        beta: Share of the pictures.
        eta: Share of the second-order term.
        mu: Stretch.
    """
    parts = []
    for rows in (image, text):
        unit = F.normalize(rows)
        parts.append(2 * unit @ unit.T - 1)
    first = beta * parts[0] + (1 - beta) * parts[1]
    return mu * ((1 - eta) * first + eta * first @ first.T / len(first))


def djsrh_loss(
    image: Float[Tensor, "b k"],
    text: Float[Tensor, "b k"],
    affinity: Float[Tensor, "b b"],
    *,
    intra: tuple[float, float] = (0.1, 0.1),
) -> Float[Tensor, ""]:
    """Return lam1 mse(B_I B_I', S) + mse(B_I B_T', S) + lam2 mse(B_T B_T', S), rows normalized.

    Source: Su, Zhong and Zhang, ICCV 2019, as in the released code.

    Args:
        image: Relaxed codes of the pictures, (b, K).
        text: Relaxed codes of the texts, (b, K).
        affinity: S, (b, b).
        intra: lam1 and lam2.
    """
    b_image, b_text = F.normalize(image), F.normalize(text)
    total = F.mse_loss(b_image @ b_text.T, affinity)
    for weight, rows in zip(intra, (b_image, b_text), strict=True):
        total = total + weight * F.mse_loss(rows @ rows.T, affinity)
    return total


@OBJECTIVES.register(
    "djsrh",
    summary="Unsupervised: codes reproduce similarities of frozen features and of words",
    citation="Su, Zhong and Zhang, ICCV 2019",
    access="training",
)
class DJSRH:
    """Deep joint-semantics reconstructing hashing; it never looks at a label.

    Source: Su, Zhong and Zhang, "Deep Joint-Semantics Reconstructing Hashing for Large-Scale
        Unsupervised Cross-Modal Retrieval", ICCV 2019, and its code (zs-zhong/DJSRH): codes are
        tanh(sqrt(t) u) in epoch t = 1, 2, ...
    Differs: released code: F_I from a second, frozen AlexNet, computed for every batch on augmented
        pictures; here from EfficientNet-Lite0 with its ImageNet weights, once, on the pictures as
        they are. For a trunk that starts from these weights that is its frozen copy; a trunk from
        scratch has no features that mean anything, so it gets the same ones (`features = "trunk"`
        takes the model's own starting weights, for another pretrained trunk).
        Released settings: MIRFlickr beta 0.9, NUS-WIDE 0.6, lam 0.1; Wikipedia beta 0.3, lam 0.3.
        Here beta 0.3: on openclipart27 the ranking by S~ itself has a validation MAP of 0.62 from
        beta 0 to 0.3, 0.57 at 0.6 and 0.34 at 0.9 (chance 0.13), since words say more there.
    """

    def __init__(
        self,
        *,
        beta: float = 0.3,
        eta: float = 0.4,
        mu: float = 1.5,
        intra_image: float = 0.1,
        intra_text: float = 0.1,
        features: Literal["lite0", "trunk"] = "lite0",
    ) -> None:
        """Set the weights.

        Args:
            beta: Share of the pictures in the affinity.
            eta: Share of its second-order term.
            mu: Its stretch.
            intra_image: lam1.
            intra_text: lam2.
            features: Where F_I comes from.

        Raises:
            ConfigError: a value is out of range.
        """
        for name, value, high in (
            ("beta", beta, 1.0),
            ("eta", eta, 1.0),
            ("mu", mu, 100.0),
            ("intra_image", intra_image, 1e6),
            ("intra_text", intra_text, 1e6),
        ):
            if not 0 <= value <= high:
                raise ConfigError(f"{name} must be in [0, {high:g}], got {value}")
        self.beta, self.eta, self.mu = beta, eta, mu
        self.intra = (intra_image, intra_text)
        self.features = features
        self.buffers: dict[str, Tensor] = {}
        self.modules = nn.ModuleDict()

    @property
    def supervised(self) -> bool:
        """No: it never reads a label."""
        return False

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Pairs."""
        return ("pair",)

    def start(self, model: HashModel, data: RetrievalData, positions: NDArray[np.int64]) -> None:
        """Compute F_I of all training items.

        Raises:
            ArtifactError: the package with the weights of EfficientNet-Lite0 is not installed.
        """
        device = next(model.parameters()).device
        network: nn.Module = model.encoder("image").trunk
        if self.features == "lite0":
            lite = EfficientNetLite0()
            lite.load_pretrained()
            network = lite.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad(), frozen(network):
            parts = np.split(positions, range(128, len(positions), 128))
            found = torch.cat([network(data.inputs("image", p, device=device)) for p in parts])
        self.buffers["features"] = found.float()

    def loss(self, model: HashModel, step: Step) -> Float[Tensor, ""]:
        """Return the distance of the batch's codes to its affinities."""
        affinity = joint_affinity(
            self.buffers["features"][step.rows],
            step.items["text"],
            beta=self.beta,
            eta=self.eta,
            mu=self.mu,
        )
        scale = math.sqrt(step.epoch)
        image, text = (
            torch.tanh(scale * model.logits(m, step.items[m], low_precision=True))
            for m in ("image", "text")
        )
        return djsrh_loss(image, text, affinity, intra=self.intra)

    def end_epoch(self) -> None:
        """Nothing to update."""
