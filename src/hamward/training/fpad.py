"""FPAD's hashing model: fuzzy prototypes of classes, their codes, and networks trained to them."""

import logging
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.errors import ConfigError, DataError
from hamward.losses import prototype_contrast
from hamward.models import HashModel, frozen
from hamward.training.objective import OBJECTIVES, Phase, Step
from hamward.training.prototypes import (
    PrototypeNetwork,
    class_means,
    fuzzy_c_means,
    k_means,
    prototype_code,
    prototype_softmax,
    separation,
)
from hamward.types import MODALITIES, Modality

__all__ = ["FPAD"]

log = logging.getLogger(__name__)


@OBJECTIVES.register(
    "fpad",
    summary="Fuzzy prototypes of classes first, then networks trained to the prototypes' codes",
    citation="Yu, Liu, Cheung, Zhu, Xu and Wang, IEEE TCSVT 2025",
    access="training",
)
class FPAD:
    """FPAD without its adversarial term: FpNet, then hashing networks around its codes.

    Stage 1, for the first `prototype_share` of the steps. Before each epoch, the features f of all
    training items (what the hash heads read) give prototypes P^v, P^t and, for the joint
    z = normalize([f_v ; f_t]), P^f: k-means from the class means, then fuzzy C-means. A batch costs
    L(f_v, P^t) + L(f_t, P^v) + L(g(z), g(P^f)) / 2 + L(h_v, c) + L(h_t, c), with
    c = prototype_code and L = prototype_softmax.
    Stage 2: anchors A = sign(c) from fresh prototypes, frozen; a batch costs
    ell(h_v; own, foreign) + ell(h_t; own, foreign), with ell = prototype_contrast. The two
    networks are coupled only through A.

    Source: Yu et al., "Fuzzy-Prototype-Guided Adversarial Attack and Defense for Deep Cross-Modal
        Hashing", IEEE TCSVT 2025; all equations from the released code (yzq131/FPAD), since the
        paper's body could not be read. Adversarial term and rectification: see the defenses.
    Differs: released code: two programs of 100 and 120 epochs of SGD, here one training whose
        steps the stages share; it throws stage 1's networks away, here they go on (`restart`:
        "nothing"; "heads" draws new hash heads, "networks" is as released; the optimizer's
        moments stay in all). Fuzzifier 1.01, that is hard clusters, here calibrated
        (`fuzzifier = 1.01` for the former). Nothing keeps cluster c at class c, here a point
        belongs to clusters of its own labels only (`clusters = "free"` for the former). Class code
        of the epoch with the best training loss, last batch, dropout on; here of stage 1's last
        networks without dropout. A third of the rows is never visited and clustered as zeros,
        here all are, in eval mode. Sums over the batch, here means. No dropout on f itself, here
        after every layer of the neck. Classes without a training item have no prototype. `fit`
        keeps the best epoch, which may lie in stage 1. That gradients reach f through z is
        INFERRED.
    """

    def __init__(
        self,
        *,
        prototype_share: float = 0.5,
        clusters: Literal["labels", "free"] = "labels",
        membership: float = 0.7,
        fuzzifier: float | None = None,
        restart: Literal["nothing", "heads", "networks"] = "nothing",
        tau: float = 20.0,
    ) -> None:
        """Set the stages and the clustering.

        Args:
            prototype_share: Share of the steps that stage 1 takes.
            clusters: Whether a point may belong to any cluster, or to those of its labels.
            membership: Mean largest membership that the fuzzifier is calibrated to.
            fuzzifier: Fixed m instead, > 1 (released code: 1.01).
            restart: What stage 2 draws anew.
            tau: Scale of the similarities in both losses (released code: 20).

        Raises:
            ConfigError: a value is out of range.
        """
        for name, value, low, high in (
            ("prototype_share", prototype_share, 0.0, 1.0),
            ("membership", membership, 0.0, 1.0),
            ("tau", tau, 0.0, 1e4),
        ):
            if not low < value < high:
                raise ConfigError(f"{name} must be in ({low:g}, {high:g}), got {value}")
        if fuzzifier is not None and not 1.0001 <= fuzzifier <= 100:
            raise ConfigError(f"fuzzifier must be in [1.0001, 100], got {fuzzifier}")
        self.prototype_share, self.clusters, self.restart = prototype_share, clusters, restart
        self.membership, self.fuzzifier, self.tau = membership, fuzzifier, tau
        self.buffers: dict[str, Tensor] = {}
        self.modules = nn.ModuleDict()
        self.labels = torch.empty(0)
        self.source: tuple[RetrievalData, NDArray[np.int64]] | None = None
        self.initial: dict[str, Tensor] = {}

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Pairs: stage 1 needs the joint feature."""
        return ("pair",)

    def start(self, model: HashModel, data: RetrievalData, positions: NDArray[np.int64]) -> None:
        """Build G and empty prototypes; keep the starting weights if they are needed again.

        Raises:
            ConfigError: the encoders' features differ in width.
            DataError: the training items have fewer than two classes.
        """
        widths = {m: model.encoder(m).head.in_features for m in MODALITIES}
        if len(set(widths.values())) > 1:
            raise ConfigError(
                f"fpad compares features of pictures and words, whose widths are {widths}: give "
                "both encoders the same last layer, e.g. model.neck = [1024]"
            )
        device = next(model.parameters()).device
        labels = data.label(positions, device=device)
        self.labels = labels[:, labels.any(0)]
        classes, width = self.labels.shape[1], widths["image"]
        if classes < 2:
            raise DataError(f"fpad needs training items of at least 2 classes, got {classes}")
        self.modules["prototype"] = PrototypeNetwork(2 * width, model.code_length).to(device)
        self.source = (data, positions)
        if self.restart == "networks":
            self.initial = {k: v.detach().clone() for k, v in model.state_dict().items()}
        shapes = {"image": width, "text": width, "joint": 2 * width, "anchors": model.code_length}
        for name, columns in shapes.items():
            self.buffers[name] = torch.zeros(classes, columns, device=device)
        self.buffers["epoch"] = torch.tensor(0)
        self.buffers["stage"] = torch.tensor(1)

    def loss(self, model: HashModel, step: Step) -> Float[Tensor, ""]:
        """Return the batch's loss in the stage that the step belongs to."""
        if int(self.buffers["stage"]) == 1 and step.share < self.prototype_share:
            if int(self.buffers["epoch"]) != step.epoch:
                self.find_prototypes(model)
                self.buffers["epoch"] = torch.tensor(step.epoch)
            return self._prototype_loss(model, step)
        if int(self.buffers["stage"]) == 1:
            self._fix_anchors(model)
            self.buffers["stage"] = torch.tensor(2)
        own = {m: self._outputs(model, m, step.items[m])[1] for m in MODALITIES}
        return self.penalty("image", step.rows, own["image"]) + self.penalty(
            "text", step.rows, own["text"]
        )

    def penalty(self, modality: Modality, rows: Tensor, outputs: Tensor) -> Float[Tensor, ""]:
        """Return ell of relaxed codes that stand for the training items `rows`; stage 2."""
        own = self.labels[rows]
        anchors = self.buffers["anchors"]
        return prototype_contrast(outputs, anchors, own, far=1 - own, tau=self.tau).mean()

    def end_epoch(self) -> None:
        """Nothing: prototypes need the model, so the first step of an epoch finds them."""

    def find_prototypes(self, model: HashModel) -> None:
        """Cluster the features of all labeled training items, in eval mode, into the buffers."""
        points: dict[str, Tensor] = {m: self._all_features(model, m) for m in MODALITIES}
        points["joint"] = _joint(points["image"], points["text"])
        labeled = self.labels.any(1)
        labels = self.labels[labeled]
        allowed = labels > 0 if self.clusters == "labels" else None
        for name, every in points.items():
            features = every[labeled]
            _, hot = k_means(features, class_means(features, labels), allowed=allowed)
            found = fuzzy_c_means(
                features,
                hot,
                fuzzifier=self.fuzzifier,
                membership=self.membership,
                allowed=allowed,
            )
            self.buffers[name] = found.centers
            own = labels.gather(1, found.memberships.argmax(1, keepdim=True)).mean()
            log.info(
                "%s prototypes: m = %.4f, mean largest membership %.3f, in a cluster of own class "
                "%.3f",
                name,
                found.fuzzifier,
                float(found.memberships.amax(1).mean()),
                float(own),
            )

    def _all_features(self, model: HashModel, modality: Modality) -> Tensor:
        if self.source is None:
            raise ConfigError("start() must come before loss()")
        data, positions = self.source
        device = self.labels.device
        with torch.no_grad(), frozen(model):
            parts = np.split(positions, range(128, len(positions), 128))
            return torch.cat(
                [
                    model.features(
                        modality, data.inputs(modality, part, device=device), low_precision=True
                    )
                    for part in parts
                ]
            )

    def _prototype_loss(self, model: HashModel, step: Step) -> Tensor:
        network: PrototypeNetwork = self.modules["prototype"]  # type: ignore[assignment]
        labels, tau = self.labels[step.rows], self.tau
        f_image, h_image = self._outputs(model, "image", step.items["image"])
        f_text, h_text = self._outputs(model, "text", step.items["text"])
        image, text, joint = (self.buffers[n] for n in ("image", "text", "joint"))
        code = prototype_code(network, image, text, joint)
        g_items, g_classes = network.features(_joint(f_image, f_text)), network.features(joint)
        return (
            prototype_softmax(f_image, text, labels, tau=tau)
            + prototype_softmax(f_text, image, labels, tau=tau)
            + 0.5 * prototype_softmax(g_items, g_classes, labels, tau=tau)
            + prototype_softmax(h_image, code, labels, tau=tau)
            + prototype_softmax(h_text, code, labels, tau=tau)
        ).mean()

    def _fix_anchors(self, model: HashModel) -> None:
        """Set A = sign(c) from the networks as stage 1 leaves them, then restart as configured."""
        self.find_prototypes(model)
        network: PrototypeNetwork = self.modules["prototype"]  # type: ignore[assignment]
        with torch.no_grad(), frozen(network):
            code = prototype_code(network, *(self.buffers[n] for n in ("image", "text", "joint")))
        codes = binarize(code)
        self.buffers["anchors"] = codes.to(code.dtype)
        log.info("prototype codes: %s", separation(codes))
        if self.restart == "networks":
            model.load_state_dict(self.initial)
        elif self.restart == "heads":
            for modality in MODALITIES:
                head = model.encoder(modality).head
                nn.init.normal_(head.weight, std=0.01)
                nn.init.zeros_(head.bias)

    def _outputs(self, model: HashModel, modality: Modality, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return f and h = tanh(u)."""
        f = model.features(modality, x, low_precision=True)
        return f, torch.tanh(model.encoder(modality).head(f))


def _joint(image: Tensor, text: Tensor) -> Tensor:
    """Return z = normalize([f_v ; f_t])."""
    return F.normalize(torch.cat([image, text], dim=1))
