"""AACH: black-box attack on cross-modal Hamming retrieval through a triplet surrogate."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor, nn

from hamward.attacks.base import ATTACKS, Goal, ascend, check_steps
from hamward.attacks.budget import Budget
from hamward.attacks.surrogate import (
    learn_surrogate,
    other_modality,
    places,
    ranked_by,
    refuse_toward,
    relaxed_database,
    same_type,
    surrogate_fit,
)
from hamward.codes import binarize, hamming_distance
from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.models import HashModel, Victim, frozen, save_model
from hamward.models.victim import Access
from hamward.progress import SILENT, Progress
from hamward.random import item_uniform
from hamward.training.objective import Phase, Step
from hamward.types import MODALITIES, Modality

__all__ = ["AACH", "FittedAACH", "Triplets", "reversal_loss", "triplet_loss"]


def triplet_loss(
    distances: Float[Tensor, "a p"],
    near: Bool[Tensor, "a p"],
    far: Bool[Tensor, "a p"],
    *,
    margin: float,
) -> Float[Tensor, ""]:
    """Return the mean of max(0, d(A, P) - d(A, N) + beta) over all triplets of a batch.

    A triplet is an anchor (row) with one near and one far item (columns). 0 without triplets.

    Source: Li et al., ICCV 2021, L_tri; RECONSTRUCTED from reading notes.

    Args:
        distances: Relaxed Hamming distances, (a, p).
        near: Which columns are positives of a row.
        far: Which columns are its negatives.
        margin: beta, in bits.
    """
    hinge = (distances[:, :, None] - distances[:, None, :] + margin).clamp_min(0)
    valid = near[:, :, None] & far[:, None, :]
    return (hinge * valid).sum() / valid.sum().clamp_min(1)


def reversal_loss(
    relaxed: Float[Tensor, "n k"],
    near: Float[Tensor, "n p k"],
    far: Float[Tensor, "n q k"],
    *,
    margin: float,
    quantization: float,
) -> Float[Tensor, " n"]:
    """Return J = mean max(0, d(A, N) - d(A, P) + beta) + weight mean (h - sign h)^2 per item.

    Source: Li et al., ICCV 2021, J_tri and J_q; RECONSTRUCTED from reading notes.

    Args:
        relaxed: Relaxed surrogate codes h of the perturbed anchors.
        near: Relaxed codes of each anchor's positives.
        far: Relaxed codes of each anchor's negatives.
        margin: beta, in bits.
        quantization: Weight of the second term.
    """
    code_length = relaxed.shape[1]
    to_near, to_far = (
        (code_length - torch.einsum("nk,nmk->nm", relaxed, others)) / 2 for others in (near, far)
    )
    hinge = (to_far[:, None, :] - to_near[:, :, None] + margin).clamp_min(0)
    return hinge.mean((1, 2)) + quantization * _gap(relaxed).mean(1)


def _gap(relaxed: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    return (relaxed - torch.where(relaxed >= 0, 1.0, -1.0)).square()


class Triplets:
    """Objective: what stands near the top of an item's list is nearer than what stands far down.

    A step takes a batch of submitted items and a pool of database items (some near each
    submitted one, the rest drawn from all). All triplets among them count, with submitted
    items as anchors and, read along the columns of the same lists, with database items.
    """

    def __init__(
        self,
        modality: Modality,
        standing: Int64[Tensor, "m n"],
        *,
        listed: int,
        options: "AACH",
        seed: int,
    ) -> None:
        self.buffers: dict[str, Tensor] = {}
        self.modules = nn.ModuleDict()
        self.modality = modality
        self.standing = standing
        self.options = options
        self.seed = seed
        self.near_count, self.far_start = options.cuts(listed)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The submitted modality; the other one is fetched for the pool."""
        return (self.modality,)

    def start(self, model: HashModel, data: RetrievalData, positions: NDArray[np.int64]) -> None:
        """Remember the public contents of the database."""
        self.data = data
        self.order = self.standing.argsort(dim=1, stable=True)[:, : self.near_count]

    def pool(self, rows: Int64[Tensor, " b"], number: int) -> Int64[Tensor, " p"]:
        """Return the database items of a step, as positions within the database."""
        draws, size = self.options.draws, self.standing.shape[1]
        at_random = partial(item_uniform, seed=self.seed)
        near = at_random(rows, (draws,), stream=f"aach near {number}") * self.near_count
        any_item = at_random(rows, (draws,), stream=f"aach any {number}") * size
        top = self.order[rows].gather(1, near.long())
        found: Tensor = torch.unique(torch.cat([top.flatten(), any_item.long().flatten()]))
        return found

    def loss(self, model: HashModel, step: Step) -> Float[Tensor, ""]:
        """Return both triplet losses and both quantization losses of a batch."""
        rows = step.rows.cpu()
        pool = self.pool(rows, step.number)
        x = step.items[self.modality]
        other = other_modality(self.modality)
        database = self.data.split.database[pool.numpy()]
        anchors = torch.tanh(model.logits(self.modality, x, low_precision=True))
        others = model.relaxed(other, self.data.inputs(other, database, device=x.device))
        distances = (anchors.shape[1] - anchors @ others.T) / 2
        standing = self.standing[rows][:, pool].to(x.device)
        near, far = standing < self.near_count, standing >= self.far_start
        margin = self.options.margin * anchors.shape[1]
        return (
            triplet_loss(distances, near, far, margin=margin)
            + triplet_loss(distances.T, near.T, far.T, margin=margin)
            + self.options.quantization * (_gap(anchors).mean() + _gap(others).mean())
        )

    def end_epoch(self) -> None:
        """Do nothing."""


@ATTACKS.register(
    "aach",
    summary="Learn a triplet surrogate from M ranked lists, then reverse its ranking",
    citation="Li, Gao, Deng, Liu and Huang, ICCV 2021; a reconstruction",
    access="ranks",
    threat="black-box (M ranked lists), untargeted, label-free, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class AACH:
    """Submit M items, learn a surrogate from what is ranked near and far, attack that.

    THIS IS A RECONSTRUCTION. The paper's equations, tables, architectures, margin, weights,
    rates, budget and optimizer were not available; its numbers must not be compared with ours.

    Source: Li, Gao, Deng, Liu and Huang, "Adversarial Attack on Deep Cross-Modal Hamming
        Retrieval", ICCV 2021, known from its abstract and two reading notes.
    Differs: known of the paper: M pairs are submitted, Hamming distances between the received
        codes make triplets in both directions, triplet loss with a constant margin plus a
        quantization loss, then the same with the inequality reversed on the perturbation, which
        starts at 0. UNKNOWN, chosen here: which and how many triplets (nearest tenth against
        farthest three tenths of a list, drawn anew each step), beta = K/4, weight 0.1, l_inf
        budget, sign steps. INFERRED: M equals the number of attacked items; here the M items are
        training items, which the victim knows and of which none is attacked later, and the
        positives and negatives of an attacked item come from the surrogate. The victim here shows
        ranked lists instead of codes, in one direction: triplets with database items as anchors
        are read along the columns of the same M lists, so that M submissions do for both
        directions. The attacker looks at the pictures or texts that lists name (public contents
        of the database), never at their codes.

    Attributes:
        eps: Image radius in [0, 1].
        text_eps: Radius for bags of words (feature space).
        steps: Gradient steps on the surrogate.
        step_size: First step relative to the radius.
        queries: M, submitted items of the attacked modality.
        top_k: How many items a list shows; None is the whole database. Unlisted items count as
            far.
        near: Share of a list whose items are positives.
        far: Share of a list, from its end, whose items are negatives.
        margin: beta as a share of K.
        quantization: Weight of the quantization loss.
        draws: Near items and random items a submitted item adds to the pool of a step.
        neighbors: Positives and negatives of each attacked item, spread over its near and far.
        code_length: Bits K of the surrogate; ranks do not tell the victim's.
        image_network: Image trunk of the surrogate; its ImageNet weights are used where there
            are some.
        epochs: Passes over the submitted items.
        batch_size: Submitted items a step.
        image_rate: Peak learning rate of the image surrogate.
        text_rate: Peak learning rate of the text surrogate.
    """

    name: ClassVar[str] = "aach"
    access: ClassVar[Access] = "ranks"
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES
    targeted: ClassVar[bool] = False

    eps: float = 8 / 255
    text_eps: float = 0.05
    steps: int = 100
    step_size: float = 0.1
    queries: int = 300
    top_k: int | None = None
    near: float = 0.1
    far: float = 0.3
    margin: float = 0.25
    quantization: float = 0.1
    draws: int = 4
    neighbors: int = 16
    code_length: int = 32
    image_network: str = "efficientnet-lite0"
    epochs: int = 30
    batch_size: int = 32
    image_rate: float = 1e-3
    text_rate: float = 1e-3

    def __post_init__(self) -> None:
        check_steps(self.steps)
        self.budget("image"), self.budget("text"), surrogate_fit(self)
        if not (self.near > 0 and self.far > 0 and self.near + self.far <= 1):
            raise ConfigError(
                "near and far must be positive and at most 1 together, got "
                f"{self.near:g} and {self.far:g}"
            )
        for name in ("draws", "neighbors", "code_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.step_size <= 0:
            raise ConfigError(f"step_size must be positive, got {self.step_size:g}")

    @property
    def query_limit(self) -> int:
        """M: all that the attack ever submits."""
        return self.queries

    def budget(self, modality: Modality) -> Budget:
        """Return the l_inf ball of radius eps (images) or text_eps (bags of words)."""
        return Budget(eps=self.eps if modality == "image" else self.text_eps)

    def cuts(self, listed: int) -> tuple[int, int]:
        """Return where the near part of a list ends and where its far part starts."""
        return max(round(self.near * listed), 1), listed - max(round(self.far * listed), 1)

    def fit(
        self,
        victim: Victim,
        data: RetrievalData,
        modality: Modality,
        *,
        seed: int,
        progress: Progress = SILENT,
    ) -> "FittedAACH":
        """Submit M items, learn the surrogate, return the attack on it.

        Raises:
            AccessError: the victim has no index.
            QueryLimitError: the ledger allows fewer than M submissions.
            ConfigError: there are fewer than M training items.
        """
        listed = ranked_by(victim, data, "aach", top_k=self.top_k)
        size = len(data.split.database)
        learned = learn_surrogate(
            self,
            victim,
            data,
            modality,
            modalities=MODALITIES,
            code_length=self.code_length,
            answer=partial(victim.ranks, modality, k=listed),
            objective=lambda lists: Triplets(
                modality, places(lists, size), listed=listed, options=self, seed=seed
            ),
            seed=seed,
            progress=progress,
        ).model
        return FittedAACH(
            options=self,
            model=learned,
            database=relaxed_database(learned, data, other_modality(modality)),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedAACH:
    """AACH with its surrogate; the victim is asked nothing more.

    Of the iterates of an item the one is kept whose surrogate code has the most bits of the code
    that its negatives share and its positives do not, and among equals the lowest J.

    Attributes:
        options: As configured.
        model: The surrogate.
        database: Its relaxed codes of the retrieved modality, (n, K).
    """

    access: ClassVar[Access] = "ranks"
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES
    targeted: ClassVar[bool] = False
    needs_references: ClassVar[bool] = False

    options: AACH
    model: HashModel = field(repr=False)
    database: Float[Tensor, "n k"] = field(repr=False)

    def budget(self, modality: Modality) -> Budget:
        """Return the budget of the options."""
        return self.options.budget(modality)

    def save(self, folder: Path) -> None:
        """Write the surrogate as `load_model` reads it."""
        save_model(folder, self.model, surrogate_of="aach")

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        goal.check(victim, x, ids)
        refuse_toward(goal, "aach")
        options, modality, x = self.options, goal.modality, x.detach()
        surrogate = same_type(self.model, x)
        with torch.no_grad(), frozen(surrogate):
            own = binarize(surrogate.logits(modality, x))
        near, far = self._neighbors(own)
        near, far = near.to(x), far.to(x)
        wanted = binarize(far.mean(1) - near.mean(1))

        def loss(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
            return -reversal_loss(
                torch.tanh(logits),
                near,
                far,
                margin=options.margin * logits.shape[1],
                quantization=options.quantization,
            )

        budget = self.budget(modality)
        own_victim = Victim(model=surrogate)
        with own_victim.attacked():
            return ascend(
                own_victim,
                x,
                Goal(modality=modality, anchor=wanted, toward=True),
                loss=loss,
                budget=budget,
                steps=options.steps if budget.eps > 0 else 0,
                step_size=options.step_size * budget.eps,
                start=x,
            )

    def _neighbors(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return relaxed codes of each item's positives and negatives, (n, m, K)."""
        ranked = hamming_distance(codes.cpu(), binarize(self.database))
        order = ranked.argsort(dim=1, stable=True)
        size = order.shape[1]
        near_count, far_start = self.options.cuts(size)
        spread = torch.linspace(0, 1, self.options.neighbors)
        at_near = (spread * (near_count - 1)).long()
        at_far = far_start + (spread * (size - 1 - far_start)).long()
        return self.database[order[:, at_near]], self.database[order[:, at_far]]
