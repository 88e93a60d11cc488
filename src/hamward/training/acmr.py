"""ACMR: adversarial cross-modal retrieval, real-valued and with codes."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.losses import reverse_gradient
from hamward.models import HashModel
from hamward.training.objective import OBJECTIVES, Phase, Step
from hamward.training.requirements import check_not_negative, require_contrast, require_pairs

__all__ = [
    "ACMR",
    "label_loss",
    "modality_classifier",
    "modality_loss",
    "reversal_schedule",
    "saturation_loss",
    "structure_loss",
]


def label_loss(
    predicted: Float[Tensor, "b c"], labels: Float[Tensor, "b c"], *, single: bool
) -> Float[Tensor, ""]:
    """Label prediction of one modality, L_imd: mean over items of the cross-entropy.

    Softmax over the classes where each item has one label; else one binary cross-entropy a
    label, summed over the labels.
    """
    if single:
        return -(labels * F.log_softmax(predicted, 1)).sum(1).mean()
    per_label = F.binary_cross_entropy_with_logits(predicted, labels, reduction="none")
    return per_label.sum(1).mean()


def structure_loss(
    anchors: Float[Tensor, "b k"],
    others: Float[Tensor, "b k"],
    similar: Bool[Tensor, "b b"],
    *,
    margin: float,
    repulsion: float,
    hard: bool = False,
) -> Float[Tensor, ""]:
    """Attract similar pairs, push others beyond a margin: L_imi of one modality as anchors.

    mean over S_ij = 1 of l2(a_i, o_j) + repulsion x mean over S_ij = 0 of
    max(0, margin - l2(a_i, o_j)): the contrastive form of the paper's "triplets", whose sum
    over (i, j, k) separates into these. With `hard` the second mean takes only the nearest
    dissimilar item of each anchor. A mean over nothing is 0.

    Source: Wang et al., ACM MM 2017, L_imi,V and L_imi,T; l2 is not squared.
    """
    distance = torch.cdist(anchors, others, compute_mode="donot_use_mm_for_euclid_dist")
    attraction = (distance * similar).sum() / similar.sum().clamp(min=1)
    hinge = F.relu(margin - distance) * ~similar
    if hard:
        count = (~similar).any(1).sum()
        return attraction + repulsion * hinge.amax(1).sum() / count.clamp(min=1)
    return attraction + repulsion * hinge.sum() / (~similar).sum().clamp(min=1)


def modality_classifier(width: int) -> nn.Sequential:
    """Return a network that tells pictures (0) from texts (1): m -> m/4 -> 2 logits."""
    hidden = max(width // 4, 2)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 2))


def modality_loss(
    classifier: nn.Module,
    image: Float[Tensor, "b k"],
    text: Float[Tensor, "b k"],
    *,
    reversal: float,
    learns: bool = True,
) -> Float[Tensor, ""]:
    """Cross-entropy of the modality classifier, L_adv: -mean log D(v) - mean log(1 - D(t)).

    The classifier descends it; both encoders climb it, `reversal` times as fast. A classifier
    that does not learn in this step still judges.
    """
    points = reverse_gradient(torch.cat([image, text]), reversal)
    if learns:
        logits = classifier(points)
    else:
        fixed = {name: value.detach() for name, value in classifier.named_parameters()}
        logits = torch.func.functional_call(classifier, fixed, (points,))
    truth = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    truth[len(image) :] = 1
    return 2 * F.cross_entropy(logits, truth)


def saturation_loss(codes: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Mean over items and bits of (|h| - 1)^2."""
    return (codes.abs() - 1).square().mean()


def reversal_schedule(share: float) -> float:
    """Return l(p) = 2 / (1 + exp(-10 p)) - 1 at the share p of the training, from 0 to almost 1."""
    return 2 / (1 + math.exp(-10 * share)) - 1


@OBJECTIVES.register(
    "acmr",
    summary="Label prediction and distances, with a modality classifier behind a reversal",
    citation="Wang, Yang, Xu, Hanjalic and Shen, ACM MM 2017",
    access="training",
)
@dataclass(kw_only=True)
class ACMR:
    """The published losses and a min-max game that is really played, in one backward pass.

    alpha L_imi + beta L_imd + L_adv, the modality classifier behind a gradient reversal of
    reversal x l(p): it descends L_adv, the encoders climb it. "Adversarial" means this game; it
    promises nothing against perturbed items: ACMR is a victim.

    The model decides the mode. With retrieval "cosine" points are z = sqrt(K) u / |u|, which
    carries what cosine retrieval sees and no more. With "hamming" (ACMR-H) they are the relaxed
    codes z = tanh(u), and a quantization term pulls |z| to 1. Label head and modality classifier
    read z; distances are between directions z / |z|, in [0, 2], where Euclidean distance ranks
    as cosine and, for codes, as Hamming distance does. (Distances of z itself would pull relaxed
    codes to 0.)

    Source: Wang et al., "Adversarial Cross-Modal Retrieval", ACM MM 2017, L_emb and L_adv as
        transcribed in our notes; mu, lambda, means and ACMR-H are choices of those notes.
    Differs: paper: projectors of fixed features that end in tanh, here the whole encoders, and
        directions instead; paper: sums, here means; paper: alpha, beta, lambda searched in
        [0.01, 100], here fixed on validation; paper: L_reg, sum of norms, here `fit`'s weight
        decay; multi-label items get binary cross-entropies instead of a softmax. The label
        head starts from the log-odds of the labels: from 0, rare labels push all relaxed codes
        one way until tanh is flat (validation MAP 0.23 instead of 0.60 on fixed features).
        Released demo, not copied: the game is not played (embedding variables are trained
        without the domain loss, the classifier's with nothing else, and the one operation that
        joins them is never run: `reversal = 0` here is what it trains); the label head is in no
        list of variables, so encoders fit a random one; the hinge is one over batch totals;
        negatives are mined on raw features inside one modality, and a positive is taken where
        all cosines are negative; the "distance map" of its contrastive form is no distance; the
        discriminator has no non-linearity; data are never shuffled and the last batch is
        dropped, from the test set too; the script's evaluation crashes, and so does a batch
        that lacks the last class.

    Attributes:
        alpha: Weight of the structure, L_imi.
        beta: Weight of the label prediction, L_imd.
        margin: mu, the distance beyond which dissimilar points leave each other alone.
        repulsion: lambda, weight of dissimilar pairs.
        hard: Push only the nearest dissimilar item of each anchor.
        reversal: Peak of the reversed gradient; 0 leaves the classifier without effect.
        quantization: Weight of (|h| - 1)^2, summed over bits; codes only.
        classifier_every: The classifier learns in every so many steps (the paper's k).
    """

    alpha: float = 1.0
    beta: float = 1.0
    margin: float = 1.0
    repulsion: float = 1.0
    hard: bool = False
    reversal: float = 1.0
    quantization: float = 0.01
    classifier_every: int = 1
    buffers: dict[str, Tensor] = field(default_factory=dict, init=False)
    modules: nn.ModuleDict = field(default_factory=nn.ModuleDict, init=False)
    labels: Tensor = field(default_factory=lambda: torch.empty(0), init=False)
    single: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        names = ("alpha", "beta", "repulsion", "reversal", "quantization")
        check_not_negative("acmr", **{name: getattr(self, name) for name in names})
        if not 0 < self.margin <= 2:
            raise ConfigError(f"acmr: margin must be in (0, 2], got {self.margin}")
        if self.classifier_every < 1:
            raise ConfigError(
                f"acmr: classifier_every must be at least 1, got {self.classifier_every}"
            )

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Pictures and texts together."""
        return ("pair",)

    def start(self, model: HashModel, data: RetrievalData, positions: NDArray[np.int64]) -> None:
        """Build the label head and the modality classifier.

        Raises:
            ConfigError: the model lacks a modality.
            DataError: the labels tell no items apart.
        """
        require_pairs("acmr", model)
        device = next(model.parameters()).device
        self.labels = data.label(positions, device=device)
        require_contrast("acmr", self.labels)
        self.single = bool((self.labels.sum(1) == 1).all())
        head = nn.Linear(model.code_length, self.labels.shape[1])
        with torch.no_grad():  # rare labels must not push all points one way, into saturation
            rate = self.labels.mean(0).clamp(1e-3, 1 - 1e-3)
            head.bias.copy_(rate.log() if self.single else rate.logit())
        classifier = modality_classifier(model.code_length)
        self.modules = nn.ModuleDict({"label_head": head, "classifier": classifier}).to(device)

    def points(self, model: HashModel, logits: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Return the points of the common space: scaled unit vectors, or relaxed codes."""
        if model.spec.retrieval == "hamming":
            return torch.tanh(logits)
        return F.normalize(logits) * math.sqrt(model.code_length)

    def loss(self, model: HashModel, step: Step) -> Float[Tensor, ""]:
        """Return the loss of a batch of pairs."""
        image, text = (
            self.points(model, model.logits(m, step.items[m], low_precision=True))
            for m in ("image", "text")
        )
        labels = self.labels[step.rows]
        return self._embedding(image, text, labels, model=model) + modality_loss(
            self.modules["classifier"],
            image,
            text,
            reversal=self.reversal * reversal_schedule(step.share),
            learns=step.number % self.classifier_every == 0,
        )

    def end_epoch(self) -> None:
        """Nothing is remembered between epochs."""

    def _embedding(
        self, image: Tensor, text: Tensor, labels: Tensor, *, model: HashModel
    ) -> Float[Tensor, ""]:
        """Return L_emb, with the quantization where there are codes."""
        similar = labels @ labels.T > 0
        head = self.modules["label_head"]
        total = torch.zeros((), device=image.device, dtype=image.dtype)
        for own, other in ((image, text), (text, image)):
            total = total + self.alpha * structure_loss(
                F.normalize(own),
                F.normalize(other),
                similar,
                margin=self.margin,
                repulsion=self.repulsion,
                hard=self.hard,
            )
            total = total + self.beta * label_loss(head(own), labels, single=self.single)
            if model.spec.retrieval == "hamming":
                total = total + self.quantization * model.code_length * saturation_loss(own)
        return total
