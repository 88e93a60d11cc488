"""What a random ranking scores: the floor under every retrieval number."""

import numpy as np
from numpy.typing import NDArray

from hamward.errors import DataError

__all__ = ["expected_average_precision", "group_counts", "relevant_counts"]


def expected_average_precision(relevant: NDArray[np.int64], *, size: int) -> NDArray[np.float64]:
    """Return the exact mean AP of one query over all orders of its database.

    With n items of which r are relevant, rank k is relevant with probability r / n, and then each
    of the k - 1 ranks before it with probability p = (r - 1) / (n - 1). Hence
    E[AP] = 1/n sum_k (1 + (k - 1) p) / k = p + (1 - p) H_n / n, H_n the n-th harmonic number.
    It lies a little above the share r / n that is often taken for it.

    Args:
        relevant: Number of relevant database items per query, each in 1..size.
        size: Number of database items n; all are ranked.

    Returns:
        float64, the shape of `relevant`.

    Raises:
        DataError: a count outside 1..size (AP is undefined without relevant items).

    Example:
        >>> expected_average_precision(np.array([1, 2]), size=2).tolist()
        [0.75, 1.0]
    """
    if relevant.size and not (relevant.min() >= 1 and relevant.max() <= size):
        raise DataError(
            f"relevant counts must be in 1..{size}, got "
            f"{int(relevant.min())}..{int(relevant.max())}"
        )
    harmonic = float((1.0 / np.arange(1, size + 1)).sum())
    before = (relevant - 1) / max(size - 1, 1)
    expected: NDArray[np.float64] = before + (1 - before) * harmonic / size
    return expected


def group_counts(
    query_groups: NDArray[np.int64], database_groups: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Count the database items of each query's group, (q,).

    Example:
        >>> group_counts(np.array([3, 4]), np.array([3, 5, 3])).tolist()
        [2, 0]
    """
    known = np.sort(database_groups)
    return np.searchsorted(known, query_groups, "right") - np.searchsorted(known, query_groups)


def relevant_counts(
    query_labels: NDArray[np.uint8], database_labels: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Count the database items that share a label with each query, (q,)."""
    counts = np.empty(len(query_labels), dtype=np.int64)
    columns = database_labels.astype(np.float32).T
    for start in range(0, len(query_labels), 256):  # bounds the memory for large databases
        shared = query_labels[start : start + 256].astype(np.float32) @ columns
        counts[start : start + 256] = (shared > 0).sum(1)
    return counts
