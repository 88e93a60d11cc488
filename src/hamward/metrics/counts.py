"""How many items, and how many relevant ones, lie at each Hamming distance of each query.

Every tie-aware metric is a function of these counts: nothing is ever sorted.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
import torch

from hamward.codes import hamming_distance
from hamward.errors import ConfigError, ShapeError
from hamward.metrics._task import (
    Codes,
    Groups,
    Labels,
    RetrievalTask,
    check_relevance,
    matches_of,
)

__all__ = ["DistanceCounts", "distance_counts"]

_QUERIES_AT_A_TIME = 128
_CHUNK_PAIRS = 1 << 24


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DistanceCounts:
    """Items and relevant items of each query at each distance.

    Attributes:
        items: int64 (q, K + 1); column d counts the database items at distance d.
        relevant: int64 (q, K + 1); those of them that are relevant to the query.
        code_length: K.

    Example:
        >>> counts = DistanceCounts(
        ...     items=np.array([[2, 3, 4]]), relevant=np.array([[1, 2, 1]]), code_length=2
        ... )
        >>> counts.select([0, 0]).relevant.sum(1).tolist()
        [4, 4]
    """

    items: np.ndarray
    relevant: np.ndarray
    code_length: int

    def __post_init__(self) -> None:
        for name, counts in (("items", self.items), ("relevant", self.relevant)):
            if counts.ndim != 2 or counts.shape[1] != self.code_length + 1:
                raise ShapeError(
                    f"{name} must be (q, {self.code_length + 1}) for code_length "
                    f"{self.code_length}, got {counts.shape}"
                )
            if counts.dtype != np.int64:
                raise ShapeError(f"{name} must be int64, got {counts.dtype}")
        if len(self.items) != len(self.relevant):
            raise ShapeError(f"items has {len(self.items)} queries, relevant {len(self.relevant)}")
        if not ((self.relevant >= 0) & (self.relevant <= self.items)).all():
            raise ShapeError("relevant must lie between 0 and items at every distance")

    def __len__(self) -> int:
        return len(self.items)

    def select(self, rows: Any) -> Self:
        """Return the counts of some queries.

        Args:
            rows: Anything that indexes the rows of a numpy array and keeps them rows: a slice,
                positions or a boolean mask.
        """
        return type(self)(
            items=self.items[rows], relevant=self.relevant[rows], code_length=self.code_length
        )


def distance_counts(
    query_codes: Codes,
    database_codes: Codes,
    *,
    query_labels: Labels | None = None,
    database_labels: Labels | None = None,
    query_groups: Groups | None = None,
    database_groups: Groups | None = None,
    threads: int | None = None,
) -> DistanceCounts:
    """Count the items and the relevant items at each Hamming distance of each query.

    An item is relevant if it shares a positive label with the query or, given groups instead of
    labels, if it is of the query's group (a caption and its own picture are a group of two). On
    the CPU a compiled kernel counts (its first call compiles, for some seconds); elsewhere torch
    does, in chunks. The counts are exact and depend neither on the device nor on the threads.

    Args:
        query_codes: (q, K) codes, or packed.
        database_codes: (n, K) codes, or packed, on the same device.
        query_labels: (q, C) multi-hot, any real dtype; a label is set where it is above 0.
        database_labels: (n, C) multi-hot.
        query_groups: (q,) whole numbers, instead of labels.
        database_groups: (n,) whole numbers.
        threads: CPU threads; default `torch.get_num_threads()`.

    Returns:
        The counts of all queries, on the CPU.

    Raises:
        ShapeError: code lengths, label counts, item counts or devices do not fit, or the database
            is empty.
        DataError: no item of the database has a label, labels contain NaN, or no query has an
            item of its group.
        ConfigError: threads is below 1, or neither labels nor groups are given.

    Example:
        >>> codes = torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)
        >>> labels = torch.eye(2)
        >>> distance_counts(codes, codes, query_labels=labels, database_labels=labels).relevant
        array([[1, 0, 0],
               [1, 0, 0]])
    """
    threads = torch.get_num_threads() if threads is None else threads
    if threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    if check_relevance(query_labels, database_labels, query_groups, database_groups):
        assert query_groups is not None and database_groups is not None
        task = RetrievalTask.unlabeled(query_codes, database_codes)
    else:
        assert query_labels is not None and database_labels is not None
        task = RetrievalTask.check(query_codes, database_codes, query_labels, database_labels)
    if task.query.bytes.device.type == "cpu":
        items, relevant = _count_compiled(task, threads)
    else:
        items, relevant = _count_torch(task)
    if query_groups is not None and database_groups is not None:
        relevant = _count_matches(task, query_groups, database_groups)
    return DistanceCounts(items=items, relevant=relevant, code_length=task.query.code_length)


def _count_compiled(task: RetrievalTask, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Count with the compiled kernel, some queries to a thread at a time."""
    from hamward.metrics._kernel import WORDS, bit_planes, count_pairs

    q, n, k = len(task.query), len(task.database), task.query.code_length
    planes = bit_planes(task.database.bytes.numpy())
    label_planes = bit_planes(np.packbits(task.database_labels, axis=1))
    bits = np.unpackbits(task.query.bytes.numpy(), axis=1)
    masks = np.where(bits, np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0))
    label_ids = task.query_labels.nonzero()[1]
    label_starts = np.concatenate([[0], task.query_labels.sum(1).cumsum()])
    items, relevant = np.zeros((2, q, k + 1), np.int64)

    def count(first: int) -> None:
        rows = slice(first, first + _QUERIES_AT_A_TIME)
        starts = label_starts[first : first + _QUERIES_AT_A_TIME + 1]
        count_pairs(
            planes, label_planes, masks[rows], starts, label_ids, items[rows], relevant[rows]
        )

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(count, range(0, q, _QUERIES_AT_A_TIME)))
    # The items that fill the last block are zero codes: they lie at the query's own weight.
    items[np.arange(q), bits.sum(1, dtype=np.int64)] -= -n % (64 * WORDS)
    return items, relevant


def _count_matches(
    task: RetrievalTask, query_groups: Groups, database_groups: Groups
) -> np.ndarray:
    """Count the few relevant pairs one by one; no other pair is looked at."""
    q, columns = len(task.query), task.query.code_length + 1
    rows, found = matches_of(query_groups, database_groups, q, len(task.database))
    asked, known = task.query.bytes.cpu().numpy(), task.database.bytes.cpu().numpy()
    relevant = np.zeros(q * columns, np.int64)
    for start in range(0, len(rows), _CHUNK_PAIRS // 64):
        part = slice(start, start + _CHUNK_PAIRS // 64)
        distance = np.bitwise_count(asked[rows[part]] ^ known[found[part]]).sum(1, dtype=np.int64)
        relevant += np.bincount(rows[part] * columns + distance, minlength=q * columns)
    return relevant.reshape(q, columns)


def _count_torch(task: RetrievalTask) -> tuple[np.ndarray, np.ndarray]:
    """Count with torch alone, in chunks of pairs, on the device of the codes."""
    q, n, columns = len(task.query), len(task.database), task.query.code_length + 1
    device = task.query.bytes.device
    query_labels = torch.from_numpy(task.query_labels).to(device, torch.float32)
    database_labels = torch.from_numpy(task.database_labels).to(device, torch.float32)
    codes = task.query.rows(0, q)
    first_bin = torch.arange(q, device=device).unsqueeze(1) * columns
    items, relevant = torch.zeros((2, q * columns), dtype=torch.int64, device=device)
    step = max(1, _CHUNK_PAIRS // max(1, q))
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        bins = first_bin + hamming_distance(codes, task.database.rows(rows.start, rows.stop))
        is_relevant = query_labels @ database_labels[rows].T > 0
        items += torch.bincount(bins.flatten(), minlength=q * columns)
        relevant += torch.bincount(bins[is_relevant], minlength=q * columns)
    return items.reshape(q, columns).cpu().numpy(), relevant.reshape(q, columns).cpu().numpy()
