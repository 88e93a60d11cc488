"""Hubs: database items that stand in the lists of many queries, exact under ties.

Source: k-occurrence N_k and its skewness, Radovanovic, Nanopoulos and Ivanovic, JMLR 2010.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int8
from torch import Tensor

from hamward.codes import hamming_distance
from hamward.errors import ShapeError
from hamward.metrics._buckets import Buckets, row_chunks
from hamward.metrics.counts import DistanceCounts
from hamward.metrics.similarity import cosine_levels

__all__ = ["expected_ranks", "k_occurrence", "skewness"]

Codes = Int8[Tensor, "_ k"] | Float[Tensor, "_ k"]


def k_occurrence(counts: DistanceCounts, query: Codes, items: Codes, *, k: int) -> np.ndarray:
    """Return the expected number of top-k lists that each item stands in.

    All orders of tied items are equally likely: an item among n tied at the cut, of which the
    list shows m, counts m / n. Over the whole database the sum is the number of queries times k.

    Args:
        counts: Of the queries and the whole database, from the same codes.
        query: (q, K) codes, or real-valued embeddings.
        items: (m, K) of the database items asked for.
        k: Length of a list; above the database size, all of it.

    Returns:
        float64 (m,), in [0, q].

    Raises:
        ShapeError: counts and codes do not fit.
        ConfigError: k is below 1.

    Example:
        >>> counts = DistanceCounts(
        ...     items=np.array([[1, 3, 1]]), relevant=np.array([[1, 0, 0]]), code_length=2
        ... )
        >>> query = torch.tensor([[1, 1]], dtype=torch.int8)
        >>> items = torch.tensor([[1, 1], [1, -1], [-1, -1]], dtype=torch.int8)
        >>> k_occurrence(counts, query, items, k=2).round(3).tolist()
        [1.0, 0.333, 0.0]
    """
    buckets = Buckets.cut(counts, k)
    shown = buckets.kept_each / np.maximum(buckets.items, 1)
    lists = np.zeros(len(items))
    for rows, distances in _distances(counts, query, items):
        lists += np.take_along_axis(shown[rows], distances, axis=1).sum(0)
    return lists


def expected_ranks(
    counts: DistanceCounts, query: Codes, items: Codes, *, among: np.ndarray | None = None
) -> np.ndarray:
    """Return the mean rank of each item over the queries, 1 for the nearest.

    An item that ties with n - 1 others after c nearer ones has the rank c + (n + 1) / 2.

    Args:
        counts: Of the queries and the whole database, from the same codes.
        query: (q, K) codes, or real-valued embeddings.
        items: (m, K) of the database items asked for.
        among: bool (q, m), the queries that count for an item; None is all.

    Returns:
        float64 (m,); NaN for an item without such a query.

    Raises:
        ShapeError: counts and codes do not fit.
    """
    rank = counts.items.cumsum(1) - counts.items + (counts.items + 1) / 2
    total, seen = np.zeros((2, len(items)))
    for rows, distances in _distances(counts, query, items):
        weight = np.ones(distances.shape) if among is None else among[rows]
        total += (np.take_along_axis(rank[rows], distances, axis=1) * weight).sum(0)
        seen += weight.sum(0)
    return np.where(seen > 0, total / np.maximum(seen, 1), np.nan)


def skewness(values: np.ndarray) -> float:
    """Return the third standardized moment; 0 where all values are equal.

    Of N_k over a database: large and positive where few items are in most lists.

    Example:
        >>> round(skewness(np.array([0.0, 0.0, 0.0, 4.0])), 4)
        1.1547
    """
    centered = values - values.mean()
    spread = float(np.sqrt(np.square(centered).mean()))
    return float((centered**3).mean() / spread**3) if spread > 1e-12 else 0.0


def _distances(
    counts: DistanceCounts, query: Codes, items: Codes
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the columns of `counts` that the items fall in, some queries at a time."""
    if len(query) != len(counts):
        raise ShapeError(f"counts are of {len(counts)} queries, got codes of {len(query)}")
    if query.dtype == torch.int8 and query.shape[1] != counts.code_length:
        raise ShapeError(
            f"counts are of codes with {counts.code_length} bits, got {query.shape[1]}"
        )
    real_valued = query.is_floating_point()
    if real_valued:
        query, items = (torch.nn.functional.normalize(x.double(), dim=1) for x in (query, items))
    for rows in row_chunks(len(query), len(items)):
        if real_valued:
            held = cosine_levels(query[rows], items, levels=counts.code_length + 1)
        else:
            held = hamming_distance(query[rows], items).long()
        yield rows, held.cpu().numpy()
