"""SSAH: self-supervised adversarial hashing."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.losses import pairwise_likelihood, quantization, reverse_gradient
from hamward.models import HashModel, frozen
from hamward.training.objective import OBJECTIVES, Phase, Step
from hamward.training.requirements import check_not_negative, require_contrast, require_pairs
from hamward.types import MODALITIES

__all__ = ["SSAH", "LabelNetwork", "discriminator", "discriminator_loss", "semantic_likelihood"]

_WIDTH = 4096  # hidden units of the released label network


class LabelNetwork(nn.Module):
    """Labels, (n, C) -> semantic features, code logits and label logits.

    Source: the released code's LabNet: C -> 4096 -> 512 -> {K, C}.
    Differs: BatchNorm before each ReLU as in the authors' later code (CMLA) instead of local
        response normalization; features are taken after the ReLU, like those of the encoders.
    """

    def __init__(self, classes: int, *, features: int, code_length: int) -> None:
        """Build it with weights from the current random stream."""
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((classes, _WIDTH), (_WIDTH, features)):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(features, code_length)
        self.label_head = nn.Linear(features, classes)

    def forward(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features, (n, d), code logits, (n, K), and label logits, (n, C)."""
        features = self.features(labels)
        return features, self.head(features), self.label_head(features)


def discriminator(features: int) -> nn.Sequential:
    """Return a network that tells whose features it sees: d -> 512 -> 256 -> 1 logit."""
    return nn.Sequential(
        nn.Linear(features, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 1)
    )


def semantic_likelihood(
    outputs: Float[Tensor, "b d"], semantic: Float[Tensor, "n d"], similar: Float[Tensor, "b n"]
) -> Float[Tensor, ""]:
    """Mean over pairs of log(1 + e^x) - S x, x half the inner product: the terms J1 and J2.

    Source: Li et al., CVPR 2018, Eq. (1) and (2); Delta for features, Gamma for codes.
    """
    return pairwise_likelihood(0.5 * outputs @ semantic.T, similar).mean()


def discriminator_loss(
    network: nn.Module,
    semantic: Float[Tensor, "b d"],
    features: Float[Tensor, "b d"],
    *,
    reversal: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of telling label features (1) from a modality's (0), mean over all 2 b.

    The discriminator descends it; the encoder behind `features` climbs it, `reversal` times as
    fast; the label network is not moved.
    """
    true = network(semantic.detach())
    made = network(reverse_gradient(features, reversal))
    return 0.5 * (F.softplus(-true).mean() + F.softplus(made).mean())


@OBJECTIVES.register(
    "ssah",
    summary="A label network leads both encoders; two discriminators align their features",
    citation="Li, Deng, Li, Liu, Gao and Tao, CVPR 2018",
    access="training",
)
@dataclass(kw_only=True)
class SSAH:
    """The published losses, with an adversarial game that reaches the encoders.

    For m in label (l), image (v), text (t), with label features F^l and relaxed codes H = tanh(u):

        L^m = alpha mean [log(1 + e^Delta) - S Delta] + gamma mean [log(1 + e^Gamma) - S Gamma]
              + eta mean ||H^m - B||^2 + beta mean ||sigmoid(label head) - L||^2
        Delta = F^l . F^m / 2, Gamma = H^l . H^m / 2, B = sign(H^v + H^t + H^l)

    Each epoch passes over the labels (label network alone), the pictures and the texts. In the
    last two F^l and H^l are those of the label network at the end of its passes, and one
    discriminator a modality learns to tell F^l (1) from F^m (0) while the encoder, behind a
    gradient reversal, learns the opposite: the min-max of the paper in one backward pass.

    Source: Li et al., "Self-Supervised Adversarial Hashing Networks for Cross-Modal Retrieval",
        CVPR 2018; the losses as restated in our notes (the paper's text was not at hand; they
        agree with the symbols of the released code), layers from the released code.
    Differs: paper (from memory): alpha = gamma = 1, eta = beta = 1e-4 on sums over pairs and
        items; released code: all five weights 1; here on means, since with sums the weight of
        an item term falls as the data grow. Here alpha = 0.02 and
        reversal = 0.1: 512 features that are not negative have inner products far above those
        of codes, and after two epochs from a pretrained trunk alpha = reversal = 1 was at a
        validation MAP of 0.36, these at 0.56. Rates and passes: the released lists of rates fall
        by 0.32 an epoch; here `fit`'s schedule. The label network takes no part in
        the game: it leads. Encoder features are those of the model's neck (BatchNorm, ReLU).
        Released code (lelan-li/SSAH), not copied: the likelihood is the square of the terms,
        sum (S x - log(1 + e^x))^2 / 2; the discriminators read features fed as arrays, so the
        "fool" loss cannot reach an encoder, and without a list of variables its optimizer
        pushes the discriminators toward the wrong answer; the image encoder's part of that
        loss sees the whole training set and the text encoder's the batch; the split is drawn
        anew, unseeded, at each start, so a reloaded model is scored on its training items; the
        epoch is watched on the queries. In the later code (CMLA) gradients do reach the encoders,
        but the text discriminator never learns, and the feature likelihood is missing.

    Attributes:
        alpha: Weight of the feature likelihood (paper: 1).
        gamma: Weight of the code likelihood (paper: 1).
        eta: Weight of the quantization.
        beta: Weight of the label prediction.
        reversal: How strongly encoders climb the discriminators' loss (paper: 1); with 0
            these learn and change nothing.
        label_passes: Passes over the labels an epoch (released code: up to 15).
    """

    alpha: float = 0.02
    gamma: float = 1.0
    eta: float = 0.05
    beta: float = 1.0
    reversal: float = 0.1
    label_passes: int = 2
    buffers: dict[str, Tensor] = field(default_factory=dict, init=False)
    modules: nn.ModuleDict = field(default_factory=nn.ModuleDict, init=False)
    labels: Tensor = field(default_factory=lambda: torch.empty(0), init=False)
    _stale: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        names = ("alpha", "gamma", "eta", "beta", "reversal")
        check_not_negative("ssah", **{name: getattr(self, name) for name in names})
        if self.label_passes < 1:
            raise ConfigError(f"ssah: label_passes must be at least 1, got {self.label_passes}")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Labels first, then image, then text."""
        passes: list[Phase] = ["label"] * self.label_passes
        return (*passes, *MODALITIES)

    def start(self, model: HashModel, data: RetrievalData, positions: NDArray[np.int64]) -> None:
        """Build label network, label heads and discriminators; fill H^l, H^v, H^t, F^l and B.

        Raises:
            ConfigError: the model lacks a modality, or its features differ in width.
            DataError: the labels tell no items apart.
        """
        require_pairs("ssah", model)
        device = next(model.parameters()).device
        self.labels = data.label(positions, device=device)
        require_contrast("ssah", self.labels)
        widths = {m: model.encoder(m).head.in_features for m in MODALITIES}
        if len(set(widths.values())) > 1:
            raise ConfigError(
                f"ssah compares features of both modalities: they have widths {widths}, set a "
                "neck, for instance model.neck = [512]"
            )
        width, classes = widths["image"], self.labels.shape[1]
        network = LabelNetwork(classes, features=width, code_length=model.code_length)
        self.modules = nn.ModuleDict({"label": network})
        for modality in MODALITIES:
            self.modules[f"{modality}_labels"] = nn.Linear(width, classes)
            self.modules[f"{modality}_discriminator"] = discriminator(width)
        self.modules.to(device)
        with torch.no_grad(), frozen(model):
            for modality in MODALITIES:
                chunks = np.split(positions, range(128, len(positions), 128))
                inputs = (data.inputs(modality, chunk, device=device) for chunk in chunks)
                self.buffers[modality] = torch.cat([model.relaxed(modality, x) for x in inputs])
        self._lead()
        self.end_epoch()

    def loss(self, model: HashModel, step: Step) -> Float[Tensor, ""]:
        """Return L^m of the batch; in image and text passes plus the discriminator's loss."""
        if step.phase == "label":
            self._stale = True
            features, logits, labels = self.modules["label"](self.labels[step.rows])
            self.buffers["features"][step.rows] = features.detach()
            return self._whole("label", step.rows, (features, torch.tanh(logits), labels))
        if self._stale:
            self._lead()
        ((modality, x),) = step.items.items()
        features = model.features(modality, x, low_precision=True)
        outputs = self.activate(model.encoder(modality).head(features))
        labels = self.modules[f"{modality}_labels"](features)
        game = discriminator_loss(
            self.modules[f"{modality}_discriminator"],
            self.buffers["features"][step.rows],
            features,
            reversal=self.reversal,
        )
        return self._whole(modality, step.rows, (features, outputs, labels)) + game

    def activate(self, logits: Tensor) -> Tensor:
        """Return what the objective works on: tanh(u)."""
        return torch.tanh(logits)

    def remember(self, modality: str, rows: Tensor, outputs: Tensor) -> None:
        """Write the relaxed codes of some training items into their buffer."""
        self.buffers[modality][rows] = outputs.detach()

    def penalty(self, modality: str, rows: Tensor, outputs: Tensor) -> Float[Tensor, ""]:
        """Return the code terms, gamma and eta, of outputs that stand for training items."""
        likelihood = semantic_likelihood(outputs, self.buffers["label"], self._similar(rows))
        distance = quantization(outputs, self.buffers["codes"][rows]).mean()
        return self.gamma * likelihood + self.eta * distance

    def end_epoch(self) -> None:
        """Set B = sign(H^v + H^t + H^l)."""
        total = self.buffers["image"] + self.buffers["text"] + self.buffers["label"]
        self.buffers["codes"] = binarize(total).to(total.dtype)

    def _whole(
        self, name: str, rows: Tensor, outputs: tuple[Tensor, Tensor, Tensor]
    ) -> Float[Tensor, ""]:
        """Return L^m of a batch; its codes enter the buffer first."""
        features, codes, labels = outputs
        self.remember(name, rows, codes)
        likelihood = semantic_likelihood(features, self.buffers["features"], self._similar(rows))
        predicted = quantization(torch.sigmoid(labels), self.labels[rows]).mean()
        return self.alpha * likelihood + self.beta * predicted + self.penalty(name, rows, codes)

    def _similar(self, rows: Tensor) -> Tensor:
        return (self.labels[rows] @ self.labels.T > 0).to(self.labels.dtype)

    def _lead(self) -> None:
        """Set F^l and H^l to what the label network says now."""
        network = self.modules["label"]
        with torch.no_grad(), frozen(network):
            parts = [network(rows)[:2] for rows in torch.split(self.labels, 1024)]
        self.buffers["features"] = torch.cat([features for features, _ in parts])
        self.buffers["label"] = torch.tanh(torch.cat([logits for _, logits in parts]))
        self._stale = False
