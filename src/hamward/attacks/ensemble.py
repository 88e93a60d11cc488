"""What the ensemble pursues: aims of a batch, each computed once, and what codes are worth."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Float64, Int8
from torch import Tensor

from hamward.attacks.anchors import Pool, center_codes, class_prototypes, mainstay_codes, relevance
from hamward.attacks.base import Goal
from hamward.attacks.stepping import annealing
from hamward.codes import hamming_distance
from hamward.index import PackedCodes
from hamward.losses import (
    auto_temperature,
    prototype_contrast,
    soft_average_precision,
    unit_logits,
)
from hamward.metrics import average_precision, distance_counts

__all__ = ["Aim", "Worth", "aims_of"]

Loss = Callable[[Tensor, Tensor, float], Tensor]
"""(rows of the batch, their logits, share of the steps done) -> value a row, to be increased."""

_RANKED = 2048
_NEAREST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What codes are worth to the attacker: minus the tie-aware AP, or the t-AP.

    For an item that nothing in the database is relevant to: the share of bits that differ from
    the clean code.

    Attributes:
        anchor: Clean codes, (n, K).
        wanted: Labels that decide relevance, (n, C).
        codes: The reference database, packed.
        label: Its labels, (m, C).
        sign: -1 for AP, +1 for t-AP.
    """

    anchor: Int8[Tensor, "n k"]
    wanted: Float64[Tensor, "n c"]
    codes: PackedCodes
    label: Float64[Tensor, "m c"]
    sign: float

    @classmethod
    def of(cls, goal: Goal, pool: Pool, *, targeted: bool) -> "Worth":
        """Return the objective of a batch."""
        return cls(
            anchor=goal.anchor,
            wanted=pool.wanted,
            codes=PackedCodes.from_codes(pool.codes.to(torch.int8)),
            label=pool.label,
            sign=1.0 if targeted else -1.0,
        )

    def __call__(self, logits: Tensor, rows: Tensor) -> Float64[Tensor, " m"]:
        """Return what the codes of logits (or codes) are worth to rows of the batch."""
        codes = torch.where(logits >= 0, 1, -1).to(torch.int8)
        counts = distance_counts(
            codes, self.codes, query_labels=self.wanted[rows], database_labels=self.label
        )
        precision = torch.from_numpy(average_precision(counts)).to(codes.device)
        differing = (codes != self.anchor[rows]).double().mean(1)
        return torch.where(torch.isnan(precision), differing, self.sign * precision)

    def bound(self) -> Float64[Tensor, " n"]:
        """Return what no code can exceed.

        t-AP: 1. AP: that of the ranking with all R relevant items of N last,
        1/R sum_{r=1..R} r / (N - R + r) = 1 - (N - R) / R (H_N - H_{N-R}), H the harmonic numbers.
        """
        relevant = relevance(self.wanted, self.label).sum(1).long()
        highest = torch.ones_like(relevant, dtype=torch.float64)
        if self.sign > 0:
            return highest
        size = len(self.label)
        one_over = 1 / torch.arange(1, size + 1, dtype=torch.float64, device=relevant.device)
        harmonic = torch.cat([one_over.new_zeros(1), one_over.cumsum(0)])
        others = size - relevant
        tail = others / relevant.clamp_min(1) * (harmonic[size] - harmonic[others])
        return torch.where(relevant > 0, tail - 1, highest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """One thing to pursue.

    Attributes:
        loss: What is increased.
        goal: The code to leave or reach; None where no single code is meant.
    """

    loss: Loss
    goal: Goal | None = None


def aims_of(goal: Goal, pool: Pool, *, targeted: bool, seed: int) -> dict[str, Aim]:
    """Return all aims of a batch by name.

    Untargeted: away from the own code ("own-code"; "annealed": with tanh(alpha u)), from the
    "center" and "mainstay" codes of the own labels; to all foreign prototypes ("prototypes") and
    to those nearest to the clean code ("nearest-0" to "nearest-2"); down the soft AP ("ranking").
    Targeted: to the codes of the target's labels, up the soft AP.

    Args:
        goal: Of the batch.
        pool: Its references.
        targeted: Whether the wanted labels shall be reached, not left.
        seed: Breaks ties of prototypes.
    """
    anchor, sign = goal.anchor, 1.0 if targeted else -1.0
    prototypes, occur = class_prototypes(pool, seed=seed)
    own, foreign = (pool.wanted > 0) & occur, (pool.wanted == 0) & occur
    near, far = (own, foreign) if targeted else (foreign, own)

    def code(anchor: Tensor, *, toward: bool) -> Aim:
        way = 1.0 if toward else -1.0
        return Aim(
            loss=lambda rows, u, share: way * auto_temperature(u, anchor[rows]),
            goal=replace(goal, anchor=anchor, toward=toward),
        )

    def annealed(rows: Tensor, u: Tensor, share: float) -> Float[Tensor, " m"]:
        return sign * (anchor[rows] * torch.tanh(annealing(share) * u)).sum(1)

    def contrast(rows: Tensor, u: Tensor, share: float) -> Float[Tensor, " m"]:
        relaxed = torch.tanh(unit_logits(u))
        return -prototype_contrast(relaxed, prototypes.to(u.dtype), near[rows], far=far[rows])

    nearest = _nearest(anchor, prototypes, near)
    return {
        "own-code": code(anchor, toward=targeted),
        "center": code(center_codes(pool, anchor), toward=targeted),
        "mainstay": code(mainstay_codes(pool, anchor), toward=targeted),
        "annealed": Aim(loss=annealed),
        "prototypes": Aim(loss=contrast),
        **{f"nearest-{i}": code(near_one, toward=True) for i, near_one in enumerate(nearest)},
        "ranking": Aim(loss=_ranking(pool, sign)),
    }


def _nearest(
    anchor: Int8[Tensor, "n k"], prototypes: Int8[Tensor, "c k"], allowed: Bool[Tensor, "n c"]
) -> Int8[Tensor, "p n k"]:
    """Return the allowed prototypes nearest to each clean code; the complement where none is."""
    distance = hamming_distance(anchor, prototypes).double()
    values, order = torch.where(allowed, distance, torch.inf).sort(dim=1, stable=True)
    made = []
    for place in (min(i, len(prototypes) - 1) for i in range(_NEAREST)):
        found = torch.isfinite(values[:, place, None])
        made.append(torch.where(found, prototypes[order[:, place]], -anchor))
    return torch.stack(made)


def _ranking(pool: Pool, sign: float) -> Loss:
    """Return the soft AP over an even sample of the references as a loss."""
    chosen = slice(None, None, max(1, -(-len(pool.label) // _RANKED)))
    codes = pool.codes[chosen]
    hits = relevance(pool.wanted, pool.label[chosen])

    def loss(rows: Tensor, u: Tensor, share: float) -> Float[Tensor, " m"]:
        relaxed = torch.tanh(unit_logits(u))
        return sign * soft_average_precision(relaxed, codes.to(u.dtype), hits[rows].to(u.dtype))

    return loss
