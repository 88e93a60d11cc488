"""RoCMR's attack: raise the contrastive loss of an item as a query, as a candidate, or both."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hamward.attacks.anchors import CodeSource, Pool, relevance
from hamward.attacks.base import ATTACKS, Goal, References, Role
from hamward.attacks.options import StepOptions, check_options
from hamward.attacks.stepping import pursue
from hamward.codes import binarize
from hamward.errors import ConfigError
from hamward.losses import unit_logits
from hamward.models import Victim
from hamward.types import Modality

__all__ = ["InfoNCE", "candidate_loss", "query_loss"]


def query_loss(
    similarity: Float[Tensor, "n m"], similar: Float[Tensor, "n m"], visible: Float[Tensor, "n m"]
) -> Float[Tensor, " n"]:
    """Return -sum_j q_ij log softmax_j(s_ij): item i asks, the references answer.

    q_ij = S_ij / sum_j S_ij, the multi-label form: without it, items of the same label are
    false negatives that the attack exploits.

    Source: InfoNCE; its use is INFERRED, RoCMR's body could not be read.

    Args:
        similarity: s, cosines over the temperature, (n, m).
        similar: S, 1 where the pair belongs together, (n, m); a row without any gives 0.
        visible: 1 where the item sees the reference, (n, m).
    """
    log_share = similarity - _logsumexp(similarity, visible)[:, None]
    similar = similar * visible
    return -(similar * log_share).sum(1) / similar.sum(1).clamp_min(1)


def candidate_loss(
    similarity: Float[Tensor, "n q"],
    similar: Float[Tensor, "n q"],
    *,
    base: Float[Tensor, " q"],
    total: Float[Tensor, " q"],
    count: Float[Tensor, " q"],
) -> Float[Tensor, " n"]:
    """Return the mean InfoNCE of q queries, each of which finds item i among its candidates.

    Query j: -sum_i q_ji log softmax_i(s_ji) over its own candidates and the item.

    Source: as `query_loss`, in the other direction.

    Args:
        similarity: s of the items and the queries, (n, q).
        similar: S, 1 where they belong together, (n, q).
        base: log-sum-exp of each query's similarities to its other candidates, (q,).
        total: Sum of the similarities to its relevant candidates, (q,).
        count: Number of these, (q,).
    """
    level = torch.logaddexp(base.expand_as(similarity), similarity)
    members = count + similar
    mean = (total + similar * similarity) / members.clamp_min(1)
    return ((level - mean) * (members > 0)).mean(1)


def _logsumexp(similarity: Tensor, visible: Tensor) -> Tensor:
    none = torch.finfo(similarity.dtype).min / 4
    return similarity.masked_fill(visible == 0, none).logsumexp(1)


@ATTACKS.register(
    "infonce",
    summary="Raise the contrastive loss of the item against a fixed set of references",
    citation="Zhang, Sun and Zhao, IJCNN 2022 (RoCMR)",
    access="gradients",
    threat="white-box, untargeted, knows query labels and reference embeddings, either side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class InfoNCE(StepOptions):
    """PGD on the multi-label InfoNCE loss, for hash models and real-valued dual encoders.

    Source: Zhang, Sun and Zhao, "Robust Cross-Modal Retrieval by Adversarial Training", IJCNN
        2022: adversarial queries and candidates in a contrastive framework.
    Differs: the paper's body could not be read, so loss, temperature and steps are INFERRED and
        results are those of a reimplementation. The temperature is 1 where such models train at
        0.07: there the log-sum-exp is that of the nearest reference, relevant or not, and the
        attack was weaker than own-code PGD on validation items. References are a fixed sample
        instead of the rest of the batch. Hash models are read through tanh(u / median |u|)
        against codes, real-valued ones through the cosine against embeddings. An item without
        relevant references leaves its own clean code or, real-valued, its sign pattern.

    Attributes:
        temperature: Divisor of the cosines.
        both: Take the mean of both losses, in which the item asks and in which it is searched,
            not just that of the goal's role.
        references: Number of sampled references.
        codes: Modality of the references that the item is compared with.
    """

    roles: ClassVar[tuple[Role, ...]] = ("query", "candidate")

    temperature: float = 1.0
    both: bool = False
    references: int = 1024
    codes: CodeSource = "other"

    def __post_init__(self) -> None:
        check_options(self, temperature=self.temperature)
        if self.references < 1:
            raise ConfigError(f"references must be at least 1, got {self.references}")

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        victim.require(self.access, "infonce")
        goal.check(victim, x, ids)
        real_valued = victim.model.spec.retrieval == "cosine"
        contrast = _Contrast.of(self, goal, x, real_valued=real_valued)

        def loss(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
            return contrast(logits if real_valued else torch.tanh(unit_logits(logits)))

        def merit(logits: Float[Tensor, "n k"]) -> Tensor:
            reached = contrast(logits if real_valued else binarize(logits).to(logits.dtype))
            return (reached.double() * 1e5).round()  # a sum in another order is no other code

        return pursue(self, victim, x, goal, ids=ids, seed=seed, loss=loss, merit=merit)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    tiny = torch.finfo(a.dtype).tiny
    lengths = (t.norm(dim=1, keepdim=True).clamp_min(tiny) for t in (a, b))
    first, second = (t / length for t, length in zip((a, b), lengths, strict=True))
    cosine: Tensor = first @ second.T
    return cosine


def _rivals(references: References, modality: Modality, *, real_valued: bool) -> Tensor:
    """Return the references in the item's own modality: what a candidate competes with."""
    codes, real = references.image, references.image_embedding
    if modality == "text":
        codes, real = references.text, references.text_embedding
    return real if real_valued and real is not None else codes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contrast:
    """The references of a batch, and the loss of embeddings against them."""

    attack: InfoNCE
    embedding: Tensor  # of the references, (m, K)
    similar: Tensor  # (n, m)
    visible: Tensor  # (n, m)
    fallback: Tensor  # own clean codes, (n, K)
    base: Tensor | None  # of each reference as a query; see `candidate_loss`
    total: Tensor | None
    count: Tensor | None

    @classmethod
    def of(cls, attack: InfoNCE, goal: Goal, x: Tensor, *, real_valued: bool) -> "_Contrast":
        pool = Pool.of(goal, attack.codes, who="infonce")
        embedding, references = pool.codes.to(x.dtype), goal.references
        if real_valued and references is not None:
            own, other = references.image_embedding, references.text_embedding
            if goal.modality == "text":
                own, other = other, own
            if own is None or other is None:
                raise ConfigError(
                    "a real-valued victim needs references with embeddings: see own_code_goal"
                )
            stack = {"own": [own], "other": [other], "both": [other, own]}[attack.codes]
            embedding = torch.cat(stack).to(x.dtype)
        similar = relevance(pool.wanted, pool.label).to(x.dtype)
        base = total = count = None
        if (attack.both or goal.role != "query") and references is not None:
            if not bool(pool.visible.all()):
                raise ConfigError("the candidate role needs references that all items see")
            rivals = _rivals(references, goal.modality, real_valued=real_valued).to(x.dtype)
            similarity = _cosine(embedding, rivals) / attack.temperature
            related = relevance(pool.label, references.label.double()).to(x.dtype)
            base = similarity.logsumexp(1)
            total, count = (related * similarity).sum(1), related.sum(1)
        return cls(
            attack=attack,
            embedding=embedding,
            similar=similar,
            visible=pool.visible.to(x.dtype),
            fallback=goal.anchor.to(x.dtype),
            base=base,
            total=total,
            count=count,
        )

    def __call__(self, embedded: Tensor) -> Tensor:
        similarity = _cosine(embedded, self.embedding) / self.attack.temperature
        values = []
        if self.attack.both or self.base is None:
            values.append(query_loss(similarity, self.similar, self.visible))
        if self.base is not None and self.total is not None and self.count is not None:
            values.append(
                candidate_loss(
                    similarity, self.similar, base=self.base, total=self.total, count=self.count
                )
            )
        value = torch.stack(values).mean(0)
        own = (embedded * self.fallback).sum(1) / embedded.norm(dim=1).clamp_min(1e-12)
        lonely = (self.similar * self.visible).sum(1) == 0
        return torch.where(lonely, -own, value)
