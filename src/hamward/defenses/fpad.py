"""FPAD's defense: collaborative training on benign items and prototype-guided adversarial ones."""

import dataclasses
import logging
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hamward.attacks import FastEdits, Goal, References
from hamward.attacks import fpad as guide
from hamward.attacks.anchors import Pool, class_prototypes
from hamward.attacks.craft import reference_codes
from hamward.attacks.options import Form
from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.defenses.adversarial import DEFENSES, OverVictim
from hamward.defenses.sampler import AdversarialLearning, require_labeled_hashing
from hamward.defenses.texts import TextAttack, typed_edits
from hamward.errors import ConfigError
from hamward.losses import prototype_contrast
from hamward.models import HashModel, frozen
from hamward.training import FPAD, Objective, Phase, Step, modalities_in
from hamward.training.prototypes import (
    calibrated_memberships,
    class_means,
    fuzzy_c_means,
    k_means,
    separation,
)
from hamward.training.requirements import check_not_negative
from hamward.types import MODALITIES, Modality

__all__ = ["FPADObjective", "class_codes", "consistency", "fpad_defense", "published_consistency"]

log = logging.getLogger(__name__)

Rectification = Literal["off", "as-published", "differentiable"]


def published_consistency(
    mixed: Float[Tensor, "c k"],
    anchors: Float[Tensor, "c k"],
    weights: Float[Tensor, " c"],
    *,
    tau: float = 20.0,
) -> Float[Tensor, ""]:
    """Return -1/C sum_c w_c log softmax_j(tau B_c . a_j / K)_c, without a gradient.

    Source: FPAD's released code, loss_cons, where B and A are constants: it cannot train anything.
    """
    inner = tau / anchors.shape[1] * mixed.detach() @ anchors.T
    return -(weights * inner.log_softmax(1).diagonal()).mean()


def consistency(
    mixed: Float[Tensor, "c k"],
    anchors: Float[Tensor, "c k"],
    weights: Float[Tensor, " c"],
    *,
    tau: float = 20.0,
) -> Float[Tensor, ""]:
    """Return -sum_c w_c log softmax_j(tau cos(h_c, a_j))_c, differentiable in h.

    Source: hamward, in place of the published term, which passes no gradient.
    """
    cosine = F.normalize(mixed) @ F.normalize(anchors).T
    return -(weights * (tau * cosine).log_softmax(1).diagonal()).sum()


def class_codes(
    relaxed: Float[Tensor, "b k"], memberships: Float[Tensor, "b c"]
) -> Float[Tensor, "c k"]:
    """Return h_c = sum_i u_ci h_i / sum_i u_ci."""
    return memberships.T @ relaxed / memberships.sum(0)[:, None].clamp_min(1e-12)


@final
@dataclass(kw_only=True)
class FPADObjective(OverVictim):
    """FPAD's second stage over a trained victim.

    For each modality alone, with fixed anchors A and h = tanh(u):

        ell(h; own, foreign) + alpha ell(h'; own, foreign) + rectification

    ell is `losses.prototype_contrast`. Samples x' come from FPAD's attack on the same anchors,
    every `refresh` epochs for all training items. With `adaptive`, an item whose earlier sample
    still fools the network of now gets `attacks.fpad.reduced_budget`.

    Rectification, per round and modality: features of the clean training items, in eval mode,
    give a fuzzy cluster a class; the memberships U of clean and adversarial features in them give
    w_c = mean_i |U_ci - U'_ci|, omega = w / sum w. Per batch: the class codes of clean and
    adversarial rows together, weighted by their memberships, through `consistency` with omega,
    or through `published_consistency`, which shows in the loss and moves nothing.

    Source: Yu et al., "Fuzzy-Prototype-Guided Adversarial Attack and Defense for Deep Cross-Modal
        Hashing", IEEE TCSVT 2025; all equations from the released code (yzq131/FPAD), since the
        paper's body could not be read.
    Differs: anchors are the class codes of a victim that FPAD trained, where its run kept them,
        else `anchors.class_prototypes` of the training codes of both modalities together (the
        two networks meet in A alone). It fine-tunes the victim, here from adversarial samples at
        once; the released code trains new networks, 10 of 120 epochs without any, then afresh
        every 5 epochs. Images are attacked in eval mode (there: in train mode), with the nominal
        radius 8/255 in [0, 1] (there 4/255). Budgets are reduced per item (there: by majority of
        a batch); first samples get the full budget. Memberships of clean and adversarial items
        are measured in one feature space, that of the network in training (there: by
        prototypes of networks that were thrown away), for each modality by itself; the fuzzifier
        is calibrated. The published B of a class is made by stage 1's label network, here it is
        h_c in both forms. Samples are kept in half precision.

    The base's loss is not used. The seed is that of ties in anchors, too.

    Attributes:
        attack: What crafts.
        alpha: Weight of the adversarial term.
        rectification: "off", "as-published" (inert) or "differentiable".
        adaptive: Reduce budgets.
        membership: Mean largest membership that the fuzzifier is calibrated to.
    """

    attack: guide.FPAD
    alpha: float = 0.5
    rectification: Rectification = "differentiable"
    adaptive: bool = True
    membership: float = 0.7
    typed: FastEdits | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.config.refresh < 1:
            raise ConfigError(f"refresh must be at least 1, got {self.config.refresh}")
        if not 0 < self.membership < 1:
            raise ConfigError(f"membership must be in (0, 1), got {self.membership}")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One pass a modality that the base trains."""
        trained = {m for phase in self.base.phases for m in modalities_in(phase)}
        return tuple(m for m in MODALITIES if m in trained)

    def check_victim(self, model: HashModel, data: RetrievalData) -> None:
        """Refuse what has no codes of labeled items.

        Raises:
            ConfigError: see `require_labeled_hashing`.
        """
        require_labeled_hashing("prototypes of classes", model, data)

    def loss(self, model: HashModel, step: Step) -> Float[Tensor, ""]:
        """Return the loss of a batch of one modality; the first of a round crafts its samples."""
        if "fpad/anchors" not in self.buffers:
            self.buffers["fpad/anchors"] = self._find_anchors(model)
        ((modality, x),) = step.items.items()
        anchors, labels = self.buffers["fpad/anchors"], self._labels()[step.rows]
        moved = self.config.weight > 0 and modality in self.config.modalities
        if moved:
            round_ = (step.epoch - 1) // self.config.refresh
            if self.buffers.get(f"round/{modality}") != round_:
                self._craft_all(model, modality, round_, step=step)
        tau, far = self.attack.tau, 1 - labels
        h = torch.tanh(model.logits(modality, x, low_precision=True))
        total = prototype_contrast(h, anchors, labels, far=far, tau=tau).mean()
        if not moved:
            return total
        x_adv = self.sampler.kept(modality, step.rows).to(x.dtype)
        h_adv = torch.tanh(model.logits(modality, x_adv, low_precision=True))
        robust = prototype_contrast(h_adv, anchors, labels, far=far, tau=tau).mean()
        total = total + self.alpha * robust
        if self.rectification == "off":
            return total
        kept = self.buffers[f"fpad/memberships/{modality}"][:, step.rows].flatten(0, 1)
        mixed = class_codes(torch.cat([h, h_adv]), kept)
        rectify = consistency if self.rectification == "differentiable" else published_consistency
        return total + rectify(mixed, anchors, self.buffers[f"fpad/omega/{modality}"], tau=tau)

    def end_epoch(self) -> None:
        """Nothing: the base's loss is not used."""

    def _labels(self) -> Float[Tensor, "n c"]:
        """Return labels of the classes that the training items have."""
        labels = self.sampler.labels
        return labels[:, labels.any(0)]

    def _find_anchors(self, model: HashModel) -> Float[Tensor, "c k"]:
        kept = self.base.buffers if isinstance(self.base, FPAD) else {}
        if "stage" in kept and int(kept["stage"]) == 2:
            anchors = kept["anchors"]
        else:
            data, positions = self.sampler.started()
            labels, made = self._labels().double(), reference_codes(model, data, positions)
            codes = torch.cat([made[m] for m in model.modalities]).to(labels.device)
            label = labels.repeat(len(model.modalities), 1)
            pool = Pool(
                codes=codes.double(),
                label=label,
                visible=label.new_ones(1, len(label)),
                wanted=label.new_zeros(1, label.shape[1]),
            )
            anchors = class_prototypes(pool, seed=self.seed)[0].to(self.sampler.labels.dtype)
        log.info("anchors: %s", separation(binarize(anchors)))
        return anchors.clone()

    def _craft_all(self, model: HashModel, modality: Modality, round_: int, *, step: Step) -> None:
        """Craft the samples of a round, and measure how far memberships move with them."""
        typed = self.typed if modality == "text" else None
        first, made, features = f"round/{modality}" not in self.buffers, [], []
        for rows, x, ids in self.sampler.batches(modality, step.progress):
            goal = self._goal(model, modality, x, rows)
            budgets = [(1.0, self.attack.steps)] * len(rows)
            if self.adaptive and not first and typed is None:
                budgets = self._budgets(model, modality, rows, x.dtype)
            x_adv = x.clone()
            for budget in sorted(set(budgets)):  # a dozen levels at most
                chosen = torch.tensor([b == budget for b in budgets], device=x.device)
                x_adv[chosen] = self.sampler.craft(
                    model,
                    x[chosen],
                    goal.select(chosen),
                    ids=ids[chosen],
                    number=round_,
                    size=self.sampler.size(step),
                    attack=typed or self.attack.reduced(*budget),
                    ranks=step.ranks,
                )
            made.append(x_adv.half())
            if self.rectification != "off":
                with torch.no_grad(), frozen(model):
                    features.append(torch.stack([model.features(modality, v) for v in (x, x_adv)]))
        self.sampler.keep(modality, torch.cat(made), round_)
        if features:
            self._measure(modality, torch.cat(features, dim=1))

    def _goal(self, model: HashModel, modality: Modality, x: Tensor, rows: Tensor) -> Goal:
        """Return the goal of leaving one's classes, the anchors being the references."""
        anchors = binarize(self.buffers["fpad/anchors"])
        labels = self.sampler.labels
        classes = torch.eye(labels.shape[1], device=labels.device)[labels.any(0)]
        goal = self.sampler.goal(model, modality, x, rows=rows, number=0, references=False)
        references = References(image=anchors, text=anchors, label=classes)
        return dataclasses.replace(goal, references=references)

    def _budgets(
        self, model: HashModel, modality: Modality, rows: Tensor, dtype: torch.dtype
    ) -> list[tuple[float, int]]:
        """Return the budgets of items from what the network makes of their earlier samples."""
        with torch.no_grad(), frozen(model):
            h = torch.tanh(model.logits(modality, self.sampler.kept(modality, rows).to(dtype)))
        own = self._labels()[rows]
        return guide.item_budgets(
            h,
            self.buffers["fpad/anchors"],
            own,
            foreign=1 - own,
            modality=modality,
            steps=self.attack.steps,
        )

    def _measure(self, modality: Modality, features: Float[Tensor, "2 n d"]) -> None:
        """Set memberships and omega from the features of clean and adversarial items."""
        labels = self._labels()
        labeled = labels.any(1)
        points, allowed = features[0][labeled], labels[labeled] > 0
        _, hot = k_means(points, class_means(points, labels[labeled]), allowed=allowed)
        found = fuzzy_c_means(points, hot, membership=self.membership, allowed=allowed)
        memberships = calibrated_memberships(
            features.flatten(0, 1), found.centers, membership=self.membership
        ).view(2, len(labels), -1)
        moved = (memberships[0] - memberships[1]).abs().mean(0)
        self.buffers[f"fpad/memberships/{modality}"] = memberships
        self.buffers[f"fpad/omega/{modality}"] = moved / moved.sum().clamp_min(1e-12)


@DEFENSES.register(
    "fpad",
    summary="Train around class codes on clean items and on samples that leave them",
    citation="Yu, Liu, Cheung, Zhu, Xu and Wang, IEEE TCSVT 2025",
    access="training",
    threat="white-box l_inf on images, feature-space l_inf or typed edits on texts",
)
def fpad_defense(
    base: Objective,
    *,
    seed: int = 0,
    eps: float = 8 / 255,
    text: TextAttack = "feature-space",
    text_eps: float = 0.05,
    edits: int = 3,
    steps: int = 20,
    form: Form = "scale-free",
    alpha: float = 0.5,
    refresh: int = 1,
    adaptive: bool = True,
    rectification: Rectification = "differentiable",
    membership: float = 0.7,
    tau: float = 20.0,
    modalities: tuple[Modality, ...] = ("image", "text"),
    warmup: float = 0.0,
) -> FPADObjective:
    """Return FPAD's collaborative training over a trained victim; see `FPADObjective`.

    Args:
        base: The objective that the victim was trained with.
        seed: Seed of the attack.
        eps: Image radius (released code: 4/255, written as 8/255 of [-1, 1]).
        text: What texts meet: the attack, in feature space, or typed edits of words, which leave
            the clean code; the validation attacks them in feature space either way.
        text_eps: Radius on bags of words, in feature space.
        edits: Most insertions and most deletions of words.
        steps: Inner steps (released code: 20).
        form: Scale-free, or the constant steps on tanh(u) of `fpad-as-coded`.
        alpha: Weight of the adversarial term (released code: 0.5).
        refresh: Craft anew every so many epochs (released code: 5 of 120).
        adaptive: Reduce the budget of items that earlier samples still fool.
        rectification: "off", "as-published" (no gradient) or "differentiable".
        membership: Mean largest membership of the fuzzy clusters.
        tau: Temperature of the losses and of the attack.
        modalities: Sides that are perturbed.
        warmup: See `AdversarialLearning`.

    Raises:
        ConfigError: a value is out of range.
    """
    check_not_negative("fpad", alpha=alpha)
    published = form == "published"
    attack = guide.FPAD(
        eps=eps,
        text_eps=text_eps,
        steps=steps,
        step_size=3 / 8 if published else 0.4,  # as `fpad-as-coded` and `fpad` have them
        text_step_size=0.12 if published else 0.4,
        random_start=published,
        form=form,
        tau=tau,
    )
    config = AdversarialLearning(
        weight=float(alpha > 0), refresh=refresh, modalities=modalities, warmup=warmup
    )
    return FPADObjective(
        base=base,
        attack=attack,
        config=config,
        seed=seed,
        alpha=alpha,
        rectification=rectification,
        adaptive=adaptive,
        membership=membership,
        typed=typed_edits(edits) if text == "edits" else None,
    )
