"""Tie-aware ranking metrics in closed form, from the counts of each distance.

K + 1 distances for thousands of items leave almost every item tied. All orders of tied items are
equally likely here, so a score is an expectation that no database order can move, and its bounds
over all tie orders stand beside it.

Source: McSherry and Najork, ECIR 2008 (tie-aware metrics); He et al., CVPR 2018 (for hashing).
Differs: He et al.'s released code scores a query without relevant items 0; here it is NaN and
leaves every mean, which reports how many left.

A cut-off k above the database size means the whole ranking, in every function.
"""

from dataclasses import dataclass
from typing import Literal, final, get_args

import numpy as np

from hamward.errors import ConfigError, DataError, unknown_name
from hamward.metrics._buckets import Buckets, Ties, bucket_sums, over_hits, prefix_sums, row_chunks
from hamward.metrics.counts import DistanceCounts

__all__ = [
    "Normalizer",
    "PrecisionRecallCurve",
    "RadiusPrecision",
    "RankingScore",
    "Ties",
    "average_precision",
    "bootstrap_interval",
    "chance_map",
    "hit_at",
    "mean_average_precision",
    "ndcg_at",
    "precision_at",
    "precision_recall_curve",
    "precision_within_radius",
    "recall_at",
]

Normalizer = Literal["relevant", "min", "hits"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RankingScore:
    """A mean over queries with its protocol.

    Attributes:
        value: The mean under `ties`.
        optimistic: The largest mean that any order of tied items gives.
        pessimistic: The smallest.
        queries: Queries in the mean.
        skipped: Queries without relevant items, left out.
        k: Cut-off; None is the whole ranking.
        normalizer: What divides the sum of precisions, see `average_precision`.
        ties: What `value` is.
    """

    value: float
    optimistic: float
    pessimistic: float
    queries: int
    skipped: int
    k: int | None
    normalizer: Normalizer
    ties: Ties


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RadiusPrecision:
    """Precision of a hash lookup.

    Attributes:
        value: Mean precision among the items within the radius, 0 for an empty ball.
        empty_rate: Share of the queries in the mean whose ball is empty.
        radius: Largest distance that the lookup returns.
        queries: Queries in the mean.
        skipped: Queries without relevant items, left out.
    """

    value: float
    empty_rate: float
    radius: int
    queries: int
    skipped: int


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrecisionRecallCurve:
    """Hash-lookup curve: means over queries at each radius 0..K.

    Attributes:
        precision: (K + 1,) mean precision within the radius, 0 for an empty ball.
        recall: (K + 1,) mean recall within the radius.
        empty_rate: (K + 1,) share of the queries whose ball is empty.
        queries: Queries in the means.
        skipped: Queries without relevant items, left out.
    """

    precision: np.ndarray
    recall: np.ndarray
    empty_rate: np.ndarray
    queries: int
    skipped: int


def average_precision(
    counts: DistanceCounts,
    *,
    k: int | None = None,
    normalizer: Normalizer = "min",
    ties: Ties = "expected",
) -> np.ndarray:
    """Return the average precision of each query, exactly, without sorting.

    With R relevant items in all and P(i) the precision after i items, AP@k is the sum of P(i)
    over the relevant items among the first k, divided by

    - "relevant": R, so that AP@k cannot reach 1 when k < R;
    - "min": min(R, k); the two agree for the whole ranking;
    - "hits": the relevant items among the first k, as most hashing code does. One lucky hit then
      gives 1, and a tie at the cut-off makes the divisor random: the expectation is exact all the
      same.

    Args:
        counts: From `distance_counts`.
        k: Cut-off; None is the whole ranking.
        normalizer: The divisor.
        ties: "expected" averages over all orders of tied items; "optimistic" and "pessimistic" are
            the largest and the smallest AP that any of these orders gives.

    Returns:
        float64 (q,) in [0, 1]; NaN for a query without relevant items.

    Raises:
        ConfigError: k is below 1, or an unknown normalizer or tie rule.

    Example:
        >>> counts = DistanceCounts(
        ...     items=np.array([[2, 3, 4]]), relevant=np.array([[1, 2, 1]]), code_length=2
        ... )
        >>> average_precision(counts).round(10).tolist()
        [0.6391865079]
    """
    if normalizer not in get_args(Normalizer):
        raise unknown_name("normalizer", normalizer, get_args(Normalizer))
    if ties not in get_args(Ties):
        raise unknown_name("tie rule", ties, get_args(Ties))
    buckets = Buckets.cut(counts, k)
    harmonic = prefix_sums(1.0 / np.arange(1, buckets.longest + 1))
    sums = bucket_sums(buckets, harmonic, ties)
    total = counts.relevant.sum(1)
    if normalizer == "hits":
        score = over_hits(buckets, harmonic, sums, ties)
    else:
        divisor = total if normalizer == "relevant" else np.minimum(total, buckets.kept)
        score = sums.sum(1) / np.maximum(divisor, 1)
    return np.where(total > 0, score, np.nan)


def mean_average_precision(
    counts: DistanceCounts,
    *,
    k: int | None = None,
    normalizer: Normalizer = "min",
    ties: Ties = "expected",
) -> RankingScore:
    """Return the mean of `average_precision` over the queries with a relevant item.

    Raises:
        DataError: no query has a relevant item.
        ConfigError: as in `average_precision`.
    """
    answered = _answered(counts)
    means: dict[Ties, float] = {
        rule: float(average_precision(answered, k=k, normalizer=normalizer, ties=rule).mean())
        for rule in get_args(Ties)
    }
    if ties not in means:
        raise unknown_name("tie rule", ties, means)
    # Without ties all three are equal, but for rounding.
    means["expected"] = float(np.clip(means["expected"], means["pessimistic"], means["optimistic"]))
    return RankingScore(
        value=means[ties],
        optimistic=means["optimistic"],
        pessimistic=means["pessimistic"],
        queries=len(answered),
        skipped=len(counts) - len(answered),
        k=k,
        normalizer=normalizer,
        ties=ties,
    )


def chance_map(
    counts: DistanceCounts, *, k: int | None = None, normalizer: Normalizer = "min"
) -> RankingScore:
    """Return the exact MAP of a random ranking of the same database.

    A victim whose codes carry nothing scores this, and not 0. It is the tie-aware MAP with all
    items at one distance.

    Raises:
        DataError: no query has a relevant item.
        ConfigError: as in `average_precision`.
    """
    items, relevant = np.zeros((2, len(counts), 2), np.int64)
    items[:, 0], relevant[:, 0] = counts.items.sum(1), counts.relevant.sum(1)
    tied = DistanceCounts(items=items, relevant=relevant, code_length=1)
    return mean_average_precision(tied, k=k, normalizer=normalizer)


def precision_at(counts: DistanceCounts, k: int) -> np.ndarray:
    """Return the expected share of relevant items among the first k, (q,).

    NaN for a query without relevant items. The divisor is min(k, database size).

    Raises:
        ConfigError: k is below 1.
    """
    buckets = Buckets.cut(counts, k)
    return _unless_skipped(counts, _expected_hits(buckets) / np.maximum(buckets.kept, 1))


def recall_at(counts: DistanceCounts, k: int) -> np.ndarray:
    """Return the expected share of all relevant items that the first k hold, (q,).

    NaN for a query without relevant items.

    Raises:
        ConfigError: k is below 1.
    """
    hits = _expected_hits(Buckets.cut(counts, k))
    return _unless_skipped(counts, hits / np.maximum(counts.relevant.sum(1), 1))


def hit_at(counts: DistanceCounts, k: int) -> np.ndarray:
    """Return the probability that a relevant item is among the first k, (q,).

    NaN for a query without relevant items.

    Raises:
        ConfigError: k is below 1.
    """
    buckets = Buckets.cut(counts, k)
    last = buckets.at_cut()
    # C(n - r, m) / C(n, m) is a product over the smaller of r and m.
    factors, other = np.minimum(last.relevant, last.kept), np.maximum(last.relevant, last.kept)
    missed = np.empty(len(counts))
    for rows in row_chunks(len(counts), int(factors.max(initial=0)) + 1):
        i = np.arange(factors[rows].max(initial=0))
        n = last.items[rows, None]
        ratio = np.maximum(n - other[rows, None] - i, 0) / np.maximum(n - i, 1)
        missed[rows] = np.where(i < factors[rows, None], ratio, 1.0).prod(1)
    return _unless_skipped(counts, np.where(last.found > 0, 1.0, 1.0 - missed))


def ndcg_at(counts: DistanceCounts, k: int) -> np.ndarray:
    """Return the expected NDCG of the first k with gain 1 for a relevant item, (q,).

    NaN for a query without relevant items. The discount of rank i is 1 / log2(i + 1).

    Raises:
        ConfigError: k is below 1.
    """
    buckets = Buckets.cut(counts, k)
    discount = prefix_sums(1.0 / np.log2(np.arange(2, buckets.longest + 2)))
    spread = discount[buckets.before + buckets.kept_each] - discount[buckets.before]
    gain = (buckets.relevant / np.maximum(buckets.items, 1) * spread).sum(1)
    ideal = discount[np.minimum(counts.relevant.sum(1), buckets.kept)]
    return _unless_skipped(counts, gain / np.maximum(ideal, 1.0))


def precision_recall_curve(counts: DistanceCounts) -> PrecisionRecallCurve:
    """Return mean precision and mean recall of hash lookups at each radius 0..K.

    A ball is a set, so there are no ties: nothing here is an expectation over orders.

    Raises:
        DataError: no query has a relevant item.
    """
    answered = _answered(counts)
    items, relevant = answered.items.cumsum(1), answered.relevant.cumsum(1)
    return PrecisionRecallCurve(
        precision=(relevant / np.maximum(items, 1)).mean(0),
        recall=(relevant / relevant[:, -1:]).mean(0),
        empty_rate=(items == 0).mean(0),
        queries=len(answered),
        skipped=len(counts) - len(answered),
    )


def precision_within_radius(counts: DistanceCounts, *, radius: int = 2) -> RadiusPrecision:
    """Return the mean precision of the hash lookup with a radius, 0 for an empty ball.

    Raises:
        DataError: no query has a relevant item.
        ConfigError: radius is not in [0, K].
    """
    if not 0 <= radius <= counts.code_length:
        raise ConfigError(f"radius must be in [0, {counts.code_length}], got {radius}")
    curve = precision_recall_curve(counts)
    return RadiusPrecision(
        value=float(curve.precision[radius]),
        empty_rate=float(curve.empty_rate[radius]),
        radius=radius,
        queries=curve.queries,
        skipped=curve.skipped,
    )


def bootstrap_interval(
    values: np.ndarray, *, seed: int, level: float = 0.95, draws: int = 2000
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean over queries.

    Args:
        values: (q,) one score per query; NaN is left out, as in the mean.
        seed: Same seed, same interval.
        level: Coverage aimed at.
        draws: Resamples of the queries.

    Returns:
        The lower and the upper end.

    Raises:
        DataError: all values are NaN.
        ConfigError: level is not in (0, 1), or draws is below 1.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level must be in (0, 1), got {level}")
    if draws < 1:
        raise ConfigError(f"draws must be at least 1, got {draws}")
    scores = values[~np.isnan(values)]
    if scores.size == 0:
        raise DataError("there is no score to resample: all values are NaN")
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    for rows in row_chunks(draws, scores.size):
        chosen = generator.integers(scores.size, size=(len(means[rows]), scores.size))
        means[rows] = scores[chosen].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _expected_hits(buckets: Buckets) -> np.ndarray:
    share: np.ndarray = buckets.relevant / np.maximum(buckets.items, 1)
    hits: np.ndarray = (buckets.kept_each * share).sum(1)
    return hits


def _unless_skipped(counts: DistanceCounts, scores: np.ndarray) -> np.ndarray:
    return np.where(counts.relevant.any(1), scores, np.nan)


def _answered(counts: DistanceCounts) -> DistanceCounts:
    """Return the counts of the queries that have a relevant item."""
    answered = counts.select(counts.relevant.any(1))
    if len(answered) == 0:
        raise DataError(
            f"none of the {len(counts)} queries has a relevant item: do query and database share "
            "labels?"
        )
    return answered
