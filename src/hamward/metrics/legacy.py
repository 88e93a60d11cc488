"""MAP as the field's code computes it, so that published tables can be compared.

Both conventions sort, so both depend on the order in which the database is stored: at 16 bits that
moves MAP by as much as many reported gains. `mean_average_precision` does not; report that.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, final, get_args

import numpy as np
import torch

from hamward.codes import hamming_distance
from hamward.errors import ConfigError, DataError, unknown_name
from hamward.metrics._task import Codes, Labels, RetrievalTask
from hamward.metrics.ranking import Normalizer

__all__ = ["LegacyScore", "first_k_relevant_map", "stable_order_map"]

_CHUNK_PAIRS = 1 << 23


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyScore:
    """A MAP under one of the field's conventions.

    Attributes:
        value: The mean.
        convention: Which one.
        k: The cut-off of that convention; None is the whole ranking.
        normalizer: What divides the sum of precisions; None where the convention fixes it.
        queries: Queries that divide the sum.
        without_relevant: Queries without relevant items.
    """

    value: float
    convention: Literal["stable order", "first k relevant"]
    k: int | None
    normalizer: Normalizer | None
    queries: int
    without_relevant: int


def stable_order_map(
    query_codes: Codes,
    database_codes: Codes,
    *,
    query_labels: Labels,
    database_labels: Labels,
    k: int | None = None,
    normalizer: Normalizer = "hits",
) -> LegacyScore:
    """Return MAP@k with ties in database order and the list cut after k items.

    Source: CalcTopMap of DJSRH, JDSH and DeepHash-pytorch, with normalizer "hits".
    Differs: their sort is not stable, so their ties follow no rule. They skip a query without a
    hit but count it in the mean; here it scores 0, which is the same number, but a query without
    any relevant item leaves the mean (multiply by queries / (queries + without_relevant) for
    theirs).

    Args:
        query_codes: (q, K).
        database_codes: (n, K), in the order that breaks ties.
        query_labels: (q, C) multi-hot.
        database_labels: (n, C) multi-hot.
        k: Length of the list; None is the whole database.
        normalizer: As in `average_precision`.

    Returns:
        The score with its protocol.

    Raises:
        ShapeError, DataError: as in `distance_counts`.
        DataError: no query has a relevant item.
        ConfigError: k is below 1, or an unknown normalizer.
    """
    if normalizer not in get_args(Normalizer):
        raise unknown_name("normalizer", normalizer, get_args(Normalizer))
    if k is not None and k < 1:
        raise ConfigError(f"k must be at least 1 or None for the whole ranking, got {k}")
    task = RetrievalTask.check(query_codes, database_codes, query_labels, database_labels)
    total, answered = 0.0, 0
    for relevant in _ranked_relevance(task):
        every = relevant.sum(1)
        listed = relevant[:, :k]
        divisor = {
            "relevant": every,
            "min": np.minimum(every, listed.shape[1]),
            "hits": listed.sum(1),
        }[normalizer]
        total += float((_precision_sums(listed) / np.maximum(divisor, 1)).sum())
        answered += int((every > 0).sum())
    if answered == 0:
        raise DataError(f"none of the {len(task.query)} queries has a relevant item")
    return LegacyScore(
        value=total / answered,
        convention="stable order",
        k=k,
        normalizer=normalizer,
        queries=answered,
        without_relevant=len(task.query) - answered,
    )


def first_k_relevant_map(
    query_codes: Codes,
    database_codes: Codes,
    *,
    query_labels: Labels,
    database_labels: Labels,
    k: int | None = None,
) -> LegacyScore:
    """Return the mean precision at the first min(k, R) relevant items, wherever they rank.

    Source: calc_map_k of DCMH, CPAH, DADH, DCMHT and EQB2A. For k below R this is not MAP@k: the
    list is not cut after k items. Without k it is the MAP of the whole list.
    Differs: their sort is not stable, so their ties follow no rule. As there, a query without
    relevant items adds 0 and is counted in the mean.

    Args:
        query_codes: (q, K).
        database_codes: (n, K), in the order that breaks ties.
        query_labels: (q, C) multi-hot.
        database_labels: (n, C) multi-hot.
        k: How many relevant items count; None is all.

    Returns:
        The score with its protocol.

    Raises:
        ShapeError, DataError: as in `distance_counts`.
        DataError: there is no query.
        ConfigError: k is below 1.
    """
    if k is not None and k < 1:
        raise ConfigError(f"k must be at least 1 or None for all relevant items, got {k}")
    task = RetrievalTask.check(query_codes, database_codes, query_labels, database_labels)
    if len(task.query) == 0:
        raise DataError("there is no query to average over")
    total, without = 0.0, 0
    for relevant in _ranked_relevance(task):
        every = relevant.sum(1)
        used = every if k is None else np.minimum(every, k)
        first = relevant & (relevant.cumsum(1) <= used[:, None])
        total += float((_precision_sums(first) / np.maximum(used, 1)).sum())
        without += int((every == 0).sum())
    return LegacyScore(
        value=total / len(task.query),
        convention="first k relevant",
        k=k,
        normalizer=None,
        queries=len(task.query),
        without_relevant=without,
    )


def _ranked_relevance(task: RetrievalTask) -> Iterator[np.ndarray]:
    """Yield the relevance of the ranked lists, bool (chunk, n), some queries at a time."""
    database = task.database.rows(0, len(task.database)).cpu()
    query_labels = torch.from_numpy(task.query_labels).float()
    database_labels = torch.from_numpy(task.database_labels).float()
    small = np.min_scalar_type(task.query.code_length)  # numpy sorts 8 and 16 bits by radix
    step = max(1, _CHUNK_PAIRS // len(database))
    for start in range(0, len(task.query), step):
        stop = min(start + step, len(task.query))
        distances = hamming_distance(task.query.rows(start, stop).cpu(), database).numpy()
        relevant = (query_labels[start:stop] @ database_labels.T > 0).numpy()
        order = distances.astype(small).argsort(axis=1, kind="stable")
        yield np.take_along_axis(relevant, order, axis=1)


def _precision_sums(relevant: np.ndarray) -> np.ndarray:
    """Return the sum over relevant positions of the precision there, (q,)."""
    precision = relevant.cumsum(1) / np.arange(1, relevant.shape[1] + 1)
    sums: np.ndarray = np.where(relevant, precision, 0.0).sum(1)
    return sums
