"""Reference codes of whole batches by matrix products: voted, central, mainstay, per class."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64, Int8, Int64
from torch import Tensor

from hamward.attacks.base import Goal
from hamward.errors import ConfigError
from hamward.random import item_uniform

__all__ = [
    "CodeSource",
    "Pool",
    "center_codes",
    "class_prototypes",
    "draw_by_label",
    "mainstay_codes",
    "relevance",
    "vote",
]

CodeSource = Literal["other", "own", "both"]
"""Codes of the retrieved modality, of the attacked item's own, or of both, stacked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The reference items of a batch as attacks on codes need them.

    Attributes:
        codes: (m, K) of the wanted modality; both modalities stacked give (2m, K).
        label: (m, C).
        visible: 1 where an item may see the reference, (n, m).
        wanted: Labels that the code shall speak for, (n, C): the items' own, or the targets'.
    """

    codes: Float64[Tensor, "m k"]
    label: Float64[Tensor, "m c"]
    visible: Float64[Tensor, "n m"]
    wanted: Float64[Tensor, "n c"]

    @classmethod
    def of(cls, goal: Goal, source: CodeSource, *, who: str, targeted: bool = False) -> "Pool":
        """Return the references of a goal.

        Raises:
            ConfigError: the goal lacks references, labels or target labels, or it wants to
                approach its anchor, which these attacks replace.
        """
        wanted = wanted_labels(goal, who=who, targeted=targeted)
        references = goal.references
        if references is None or len(references.label) == 0:
            raise ConfigError(f"{who} needs a goal with reference items, got none")
        own, other = references.image, references.text
        if goal.modality == "text":
            own, other = other, own
        codes = {"own": own, "other": other, "both": torch.cat([other, own])}[source]
        label = references.label.double()
        visible = torch.ones(len(wanted), len(label), dtype=torch.float64, device=label.device)
        if references.group is not None and goal.group is not None:
            visible = (goal.group[:, None] == references.group[None]).double()
        times = 2 if source == "both" else 1
        return cls(
            codes=codes.double(),
            label=label.repeat(times, 1),
            visible=visible.repeat(1, times),
            wanted=wanted.double(),
        )


def wanted_labels(goal: Goal, *, who: str, targeted: bool) -> Float[Tensor, "n c"]:
    """Return the labels that an attack reads from its goal.

    Raises:
        ConfigError: they are absent, or the goal has a code to approach.
    """
    if goal.toward:
        raise ConfigError(f"{who} finds its own code: it cannot approach the goal's anchor")
    wanted = goal.target_label if targeted else goal.label
    if wanted is None:
        which = "target_label, (n, C): see hamward.attacks.targets" if targeted else "label, (n, C)"
        raise ConfigError(f"{who} needs a goal with {which}, got None")
    return wanted


def relevance(label: Float64[Tensor, "n c"], others: Float64[Tensor, "m c"]) -> Tensor:
    """Return 1.0 where labels are shared, (n, m)."""
    return (label @ others.T > 0).double()


def vote(
    weights: Float64[Tensor, "n m"], codes: Float64[Tensor, "m k"], ties: Int8[Tensor, "n k"]
) -> Int8[Tensor, "n k"]:
    """Return the sign of each weighted sum of codes; bits without a majority come from `ties`.

    With 0/1 weights: component voting, the code with the smallest mean distance to the chosen.

    Source: DHTA (Bai et al., ECCV 2020), bit by bit.
    """
    return _sign(weights @ codes, ties)


def _sign(sums: Tensor, ties: Int8[Tensor, "n k"]) -> Int8[Tensor, "n k"]:
    """+1, -1, or the bit of `ties` where rounding is all that is left of a sum."""
    signs = torch.where(sums > 0, 1, -1).to(torch.int8)
    return torch.where(sums.abs() <= 1e-12, ties, signs)


def center_codes(pool: Pool, ties: Int8[Tensor, "n k"], *, jaccard: bool = False) -> Tensor:
    """Return the code near the items that share a wanted label and far from the others, (n, K).

    sign( mean_pos w_j b_j - mean_neg b_j ), w_j = 1 or the Jaccard index of the labels; over all
    codes it has the largest mean inner product with pos minus that with neg (w = 1).

    Source: CgAT (Wang et al., WWW 2023), released code.
    Differs: means instead of N_neg sum_pos - N_pos sum_neg, the same sign while both sets have
        items, and defined when one is empty. Ties, and items without labels (for which the
        released code has no attack), take their bits from `ties`.

    Args:
        pool: References and wanted labels.
        ties: Codes to fall back on.
        jaccard: Weigh positives by the Jaccard index; the released code computes these weights
            and then overwrites them by 1.
    """
    similar = relevance(pool.wanted, pool.label)
    near, far = similar * pool.visible, (1 - similar) * pool.visible
    weights = near / _at_least_one(near.sum(1, keepdim=True))
    if jaccard:
        shared = pool.wanted @ pool.label.T
        union = pool.wanted.sum(1, keepdim=True) + pool.label.sum(1) - shared
        weights = weights * shared / _at_least_one(union)
    labeled = (near.sum(1, keepdim=True) > 0).double()
    weights = weights - labeled * far / _at_least_one(far.sum(1, keepdim=True))
    return vote(weights, pool.codes, ties)


def mainstay_codes(pool: Pool, ties: Int8[Tensor, "n k"]) -> Tensor:
    """Return SAAT's mainstay codes, (n, K).

    sign( sum_j w1_j b_j - sum_j w2_j b_j ), w1 the cosine of the labels, w2 = 1 where no label
    is shared, each normalized to the sum 1. For an item without labels: -sign(mean code).

    Source: SAAT (Yuan et al., IEEE TIFS 2023), released code.
    Differs: ties take their bits from `ties`.
    """
    lengths = pool.wanted.norm(dim=1, keepdim=True) * pool.label.norm(dim=1)
    cosine = pool.wanted @ pool.label.T / (lengths + 1e-8) * pool.visible
    far = (1 - relevance(pool.wanted, pool.label)) * pool.visible
    near, far = (w / w.sum(1, keepdim=True).clamp_min(1e-300) for w in (cosine, far))
    return vote(near - far, pool.codes, ties)


def class_prototypes(pool: Pool, *, seed: int) -> tuple[Int8[Tensor, "c k"], Bool[Tensor, " c"]]:
    """Return a code per class, sign(sum of the codes with its label), and which classes occur.

    Ties are broken by a coin that depends on (seed, class, bit) alone.

    Source: the anchors that fpad.md proposes for victims without learned prototypes.

    Raises:
        ConfigError: references are grouped, so that items would need prototypes of their own.
    """
    if not bool(pool.visible.all()):
        raise ConfigError("class prototypes need references that all items see, got groups")
    classes = torch.arange(pool.label.shape[1], device=pool.label.device)
    coin = item_uniform(classes, (pool.codes.shape[1],), seed=seed, stream="prototypes") < 0.5
    ties = torch.where(coin, -1, 1).to(torch.int8)
    return vote(pool.label.T.contiguous(), pool.codes, ties), pool.label.sum(0) > 0


def draw_by_label(
    pool: Pool, *, count: int, ids: Int64[Tensor, " n"], seed: int
) -> Float64[Tensor, "n m"]:
    """Choose references with the wanted labels at random, without replacement: 1 where chosen.

    References with exactly the wanted labels come first; where they are fewer than `count`,
    those with the next larger Jaccard index follow, and none that shares no label.

    Raises:
        ConfigError: no reference shares a label with some target.
    """
    shared = pool.wanted @ pool.label.T
    union = pool.wanted.sum(1, keepdim=True) + pool.label.sum(1) - shared
    overlap = shared / _at_least_one(union) * pool.visible
    empty = int((overlap.sum(1) == 0).sum())
    if empty:
        raise ConfigError(
            f"no reference shares a label with {empty} of {len(ids)} target labels: choose "
            "targets among the labels of the references"
        )
    # Jaccard indices of C labels differ by at least 1 / C^2, more than the draw can move them.
    draw = item_uniform(ids, (len(pool.label),), seed=seed, stream="references")
    rank = overlap + draw / (2 * max(pool.label.shape[1], 1) ** 2)
    best = torch.where(overlap > 0, rank, -1.0).topk(min(count, rank.shape[1]), dim=1)
    return torch.zeros_like(rank).scatter_(1, best.indices, (best.values > 0).double())


def _at_least_one(counts: Tensor) -> Tensor:
    return counts.clamp_min(1)
