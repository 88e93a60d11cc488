"""Buckets of tied items, and the sum of precisions over one of them.

Source: McSherry and Najork, ECIR 2008; the closed form replaces the sum over the positions of a
bucket by a difference of harmonic numbers H_m = 1 + 1/2 + ... + 1/m.
"""

from dataclasses import dataclass
from typing import Literal, Self, final

import numpy as np

from hamward.errors import ConfigError
from hamward.metrics.counts import DistanceCounts

__all__ = ["Buckets", "Ties", "bucket_sums", "over_hits", "prefix_sums", "row_chunks"]

Ties = Literal["expected", "optimistic", "pessimistic"]

_CHUNK_CELLS = 1 << 22


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cut:
    """The bucket that holds the last kept item, one per query: all (q,)."""

    items: np.ndarray
    relevant: np.ndarray
    before: np.ndarray
    found: np.ndarray
    kept: np.ndarray
    position: np.ndarray


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Buckets:
    """Tied items of each distance, what precedes them, and how much of them a cut-off keeps.

    Attributes:
        items: (q, K + 1) items tied at each distance.
        relevant: (q, K + 1) relevant items among them.
        before: (q, K + 1) items that rank before the bucket.
        found: (q, K + 1) relevant items that rank before the bucket.
        kept_each: (q, K + 1) items of the bucket above the cut-off.
        kept: (q,) items above the cut-off.
        longest: Length of the longest ranking.
    """

    items: np.ndarray
    relevant: np.ndarray
    before: np.ndarray
    found: np.ndarray
    kept_each: np.ndarray
    kept: np.ndarray
    longest: int

    @classmethod
    def cut(cls, counts: DistanceCounts, k: int | None) -> Self:
        """Cut each ranking after its first k items."""
        if k is not None and k < 1:
            raise ConfigError(f"k must be at least 1 or None for the whole ranking, got {k}")
        through, relevant_through = counts.items.cumsum(1), counts.relevant.cumsum(1)
        sizes = through[:, -1]
        kept = sizes if k is None else np.minimum(sizes, k)
        before = through - counts.items
        return cls(
            items=counts.items,
            relevant=counts.relevant,
            before=before,
            found=relevant_through - counts.relevant,
            kept_each=np.clip(kept[:, None] - before, 0, counts.items),
            kept=kept,
            longest=int(sizes.max(initial=0)),
        )

    def at_cut(self) -> Cut:
        """Return the bucket of the last kept item of each query."""
        position = (self.before + self.items >= self.kept[:, None]).argmax(1)

        def pick(values: np.ndarray) -> np.ndarray:
            picked: np.ndarray = np.take_along_axis(values, position[:, None], axis=1)[:, 0]
            return picked

        return Cut(
            items=pick(self.items),
            relevant=pick(self.relevant),
            before=pick(self.before),
            found=pick(self.found),
            kept=pick(self.kept_each),
            position=position,
        )


def bucket_sums(buckets: Buckets, harmonic: np.ndarray, ties: Ties) -> np.ndarray:
    """Return the sum of relevance times precision over the kept items of each bucket."""
    n, r, m = buckets.items, buckets.relevant, buckets.kept_each
    before, found = buckets.before, buckets.found
    if ties == "expected":
        return _expected_sum(n, r, (before, found), m, harmonic)
    if ties == "optimistic":
        return _run_sum(np.minimum(m, r), (before, found), harmonic)
    misses = np.minimum(n - r, m)
    return _run_sum(m - misses, (before + misses, found), harmonic)


def _expected_sum(
    n: np.ndarray,
    r: np.ndarray,
    start: tuple[np.ndarray, np.ndarray],
    m: np.ndarray,
    harmonic: np.ndarray,
) -> np.ndarray:
    """Return the expected sum over the first m of n tied items, r of them relevant.

    Position t is relevant with probability r / n, and then (t - 1) (r - 1) / (n - 1) of the tied
    items before it are. Summing over t leaves one difference of harmonic numbers.
    """
    before, found = start
    rho = np.maximum(r - 1, 0) / np.maximum(n - 1, 1)
    steps = harmonic[before + m] - harmonic[before]
    sums: np.ndarray = r / np.maximum(n, 1) * (m * rho + (found + 1 - rho * (before + 1)) * steps)
    return sums


def _run_sum(
    run: np.ndarray, start: tuple[np.ndarray, np.ndarray], harmonic: np.ndarray
) -> np.ndarray:
    """Return the sum of precisions of a run of relevant items."""
    before, found = start
    sums: np.ndarray = run + (found - before) * (harmonic[before + run] - harmonic[before])
    return sums


def over_hits(buckets: Buckets, harmonic: np.ndarray, sums: np.ndarray, ties: Ties) -> np.ndarray:
    """Return AP with the number of kept relevant items as divisor.

    The cut leaves j of the last bucket's relevant items, a hypergeometric number. Given j, the
    kept part is a bucket of its own; the expectation is over j, the bounds are over its values.
    (Relevant items first need not be best: a late hit lowers a mean of precisions.)
    """
    last = buckets.at_cut()
    complete = np.where(np.arange(sums.shape[1]) < last.position[:, None], sums, 0.0).sum(1)
    lowest = np.maximum(0, last.kept - (last.items - last.relevant))
    highest = np.minimum(last.kept, last.relevant)
    score = np.empty(len(sums))
    for rows in row_chunks(len(sums), int((highest - lowest).max(initial=0)) + 1):
        width = int((highest - lowest)[rows].max(initial=0)) + 1
        j = np.minimum(lowest[rows, None] + np.arange(width), highest[rows, None])
        n, r, m, before, found = (
            values[rows, None]
            for values in (last.items, last.relevant, last.kept, last.before, last.found)
        )
        if ties == "expected":
            inside = _expected_sum(m, j, (before, found), m, harmonic)
        elif ties == "optimistic":
            inside = _run_sum(j, (before, found), harmonic)
        else:
            inside = _run_sum(j, (before + m - j, found), harmonic)
        each = (complete[rows, None] + inside) / np.maximum(found + j, 1)
        if ties == "expected":
            score[rows] = (_hypergeometric(n, r, m, j) * each).sum(1)
        else:
            score[rows] = each.max(1) if ties == "optimistic" else each.min(1)
    return score


def _hypergeometric(n: np.ndarray, r: np.ndarray, m: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Return P(j relevant among m of n tied items) along rows of consecutive j.

    Neighbors' ratios are summed as logarithms and the row is normalized, which needs no factorial
    of a large number. A row repeats its last j to its end; repeats get probability 0.
    """
    now = j[:, :-1]
    is_next = j[:, 1:] > now
    up = np.where(is_next, (r - now) * (m - now), 1)
    down = np.where(is_next, (now + 1) * (n - r - m + now + 1), 1)
    logs = np.zeros(j.shape)
    np.cumsum(np.log(up) - np.log(down), axis=1, out=logs[:, 1:])
    weights = np.exp(logs - logs.max(1, keepdims=True))
    weights[:, 1:][~is_next] = 0.0
    probability: np.ndarray = weights / weights.sum(1, keepdims=True)
    return probability


def prefix_sums(values: np.ndarray) -> np.ndarray:
    """Return the sums of the first 0, 1, ..., n values."""
    return np.concatenate([[0.0], values.cumsum()])


def row_chunks(rows: int, width: int) -> list[slice]:
    """Split rows so that a chunk of them, `width` cells each, stays within bounded memory."""
    step = max(1, _CHUNK_CELLS // max(1, width))
    return [slice(start, start + step) for start in range(0, rows, step)]
