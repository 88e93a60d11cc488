"""Prototype codes: a network learns which code lies amid the items that carry a label."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float, Int8, Int64
from torch import Tensor, nn

from hamward.attacks.craft import encode
from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.errors import AccessError, ConfigError
from hamward.losses import pairwise_likelihood, quantization
from hamward.models import HashModel
from hamward.progress import SILENT, Progress
from hamward.types import Modality

__all__ = [
    "CodesOf",
    "Pairing",
    "PrototypeNet",
    "Prototypes",
    "circle",
    "prototype_loss",
    "step_decay",
    "train_prototypes",
    "training_codes",
]

CodesOf = Literal["other", "own", "both"]
"""Whose training codes prototypes lie amid: the retrieved modality's, the attacked one's, both."""

Pairing = Literal["logistic", "circle"]


class Prototypes(nn.Module, ABC):
    """Target labels of items -> what a generator reads of them, and relaxed prototype codes."""

    @abstractmethod
    def conditions(
        self, label: Float[Tensor, "n c"], *, ids: Int64[Tensor, " n"], seed: int
    ) -> tuple[Float[Tensor, "n ..."], Float[Tensor, "n k"]]:
        """Return (what the generator reads, relaxed prototype codes)."""


class PrototypeNet(Prototypes):
    """Multi-hot labels -> a semantic vector, a relaxed prototype code and the labels again.

    Source: Wang, Zhang, Wu, Shen and Lu, CVPR 2021, released code: Linear-ReLU-Linear, then
        one Linear and tanh for the code, one Linear and sigmoid for the labels.
    """

    def __init__(
        self, *, labels: int, code_length: int, hidden: int = 4096, features: int = 512
    ) -> None:
        super().__init__()
        self.labels, self.code_length = labels, code_length
        self.feature = nn.Sequential(
            nn.Linear(labels, hidden), nn.ReLU(), nn.Linear(hidden, features)
        )
        self.hashing = nn.Linear(features, code_length)
        self.classifier = nn.Linear(features, labels)

    def forward(
        self, label: Float[Tensor, "t c"]
    ) -> tuple[Float[Tensor, "t f"], Float[Tensor, "t k"], Float[Tensor, "t c"]]:
        """Return (semantic vector, relaxed prototype code, estimated labels)."""
        feature = self.feature(label)
        estimate = torch.sigmoid(self.classifier(feature))
        return feature, torch.tanh(self.hashing(feature)), estimate

    def conditions(
        self, label: Float[Tensor, "n c"], *, ids: Int64[Tensor, " n"], seed: int
    ) -> tuple[Float[Tensor, "n f"], Float[Tensor, "n k"]]:
        """Return (semantic vector, relaxed prototype code); nothing is drawn."""
        feature, relaxed, _ = self(label)
        return feature, relaxed


def circle(
    prototypes: Float[Tensor, "t k"], codes: Float[Tensor, "n k"], similar: Float[Tensor, "t n"]
) -> Float[Tensor, ""]:
    """Circle-type loss over all pairs, divided by the batch.

    (LSE_N([s + 2]_+ s) + LSE_P(-[2 - s]_+ s)) / T with s_ij = p_i . B_j / K, brackets detached;
    a batch without pairs of a kind has no such term.

    Source: Wang, Xu, Zhang and Li, THA, as in its released code; also the TMM form of ProS-GAN.
    Differs: released code drops the pairs of each target with the training items up to its own
        number in the batch (a mask for square matrices); here all pairs count.
    """
    s = prototypes @ codes.T / codes.shape[1]
    alike = similar > 0
    total = prototypes.new_zeros(())
    for pairs, sign in ((~alike, 1.0), (alike, -1.0)):
        if bool(pairs.any()):
            weight = (2 + sign * s.detach()).clamp_min(0)
            total = total + torch.logsumexp((sign * weight * s)[pairs], dim=0)
    return total / len(prototypes)


def prototype_loss(
    prototypes: Float[Tensor, "t k"],
    estimate: Float[Tensor, "t c"],
    label: Float[Tensor, "t c"],
    *,
    codes: Float[Tensor, "n k"],
    code_labels: Float[Tensor, "n c"],
    pairing: Pairing = "logistic",
    pair_weight: float = 1.0,
    quantization_weight: float = 1e-4,
) -> Float[Tensor, ""]:
    """Return pair_weight J1 + J2 + quantization_weight J3 of a batch of target labels.

    J1 = mean_ij [log(1 + e^theta_ij) - S_ij theta_ij], theta = p.B/2, or `circle`;
    J2 = MSE of the estimated labels; J3 = mean_i ||sign(p_i) - p_i||^2.

    Source: released code of ProS-GAN (weights 1 and 1e-4) and of TA-DCH (5 and 1e-3).
    """
    similar = (label @ code_labels.T > 0).to(prototypes.dtype)
    if pairing == "circle":
        pairs = circle(prototypes, codes, similar)
    else:
        pairs = pairwise_likelihood(0.5 * prototypes @ codes.T, similar).mean()
    loose = quantization(prototypes, binarize(prototypes.detach())).mean()
    return pair_weight * pairs + (estimate - label).square().mean() + quantization_weight * loose


def step_decay(step: int, total: int) -> float:
    """Return the factor of the learning rate: 1, from half of the steps 0.1, from 3/4 0.01."""
    return 0.1 ** ((step >= total / 2) + (step >= total * 3 / 4))


def train_prototypes(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, ...]],
    *,
    codes: Int8[Tensor, "n k"],
    code_labels: Float[Tensor, "n c"],
    steps: int,
    learning_rate: float,
    pairing: Pairing = "logistic",
    pair_weight: float = 1.0,
    quantization_weight: float = 1e-4,
    progress: Progress = SILENT,
    label: str = "prototypes",
) -> None:
    """Train a prototype network in place and leave it frozen, in eval mode.

    Adam with betas 0.5 and 0.999, `step_decay`; each batch against all training codes.

    Args:
        net: Maps a batch to (feature, relaxed prototype, estimated labels).
        batches: `steps` batches; the first tensor of each is the target labels.
        codes: Training codes.
        code_labels: Their labels.
        steps: Number of batches.
        learning_rate: Of the first half.
        pairing: Pairwise term.
        pair_weight: Its weight.
        quantization_weight: Weight of the quantization term.
        progress: Watches the steps.
        label: Name for the progress display.
    """
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate, betas=(0.5, 0.999), fused=True)
    fixed = codes.to(code_labels.dtype)
    net.train()
    with torch.enable_grad():
        for step, batch in enumerate(progress.track(batches, total=steps, label=label)):
            optimizer.param_groups[0]["lr"] = learning_rate * step_decay(step, steps)
            _, prototypes, estimate = net(*batch)
            loss = prototype_loss(
                prototypes,
                estimate,
                batch[0],
                codes=fixed,
                code_labels=code_labels,
                pairing=pairing,
                pair_weight=pair_weight,
                quantization_weight=quantization_weight,
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    net.requires_grad_(False).eval()


def training_codes(
    model: HashModel, data: RetrievalData, modality: Modality, codes_of: CodesOf
) -> tuple[Int8[Tensor, "n k"], Float[Tensor, "n c"]]:
    """Return the codes and labels of the training items that prototypes shall lie amid.

    Args:
        model: Makes the codes.
        data: Its training items are encoded.
        modality: Modality of the attacked items.
        codes_of: "other" modality, "own", or "both" stacked.

    Raises:
        ConfigError: another word.
        AccessError: the model does not encode the modality that is asked for.
    """
    other: Modality = "text" if modality == "image" else "image"
    wanted = {"other": [other], "own": [modality], "both": [modality, other]}
    if codes_of not in wanted:
        raise ConfigError(f"codes_of must be one of {list(wanted)}, got {codes_of!r}")
    missing = [m for m in wanted[codes_of] if m not in model.modalities]
    if missing:
        raise AccessError(
            f"codes_of={codes_of!r} needs {missing[0]} codes, but this model encodes "
            f"{list(model.modalities)}: set codes_of = 'own'"
        )
    weight = next(model.parameters())
    held = torch.cat([encode(model, data, m, data.split.train) for m in wanted[codes_of]])
    codes = (binarize(held) if held.is_floating_point() else held).to(weight.device)
    label = data.label(data.split.train).to(weight)
    return codes, torch.cat([label] * len(wanted[codes_of]))
