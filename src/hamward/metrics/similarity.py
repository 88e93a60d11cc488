"""Counts for real-valued embeddings: cosine similarity in fine steps, nothing sorted."""

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from hamward.errors import ConfigError, ShapeError
from hamward.metrics._task import (
    Groups,
    Labels,
    Matches,
    check_labels,
    check_relevance,
    matches_of,
)
from hamward.metrics.counts import DistanceCounts

__all__ = ["cosine_levels", "similarity_counts"]

_CHUNK_PAIRS = 1 << 22


def similarity_counts(
    query: Float[Tensor, "q d"],
    database: Float[Tensor, "n d"],
    *,
    query_labels: Labels | None = None,
    database_labels: Labels | None = None,
    query_groups: Groups | None = None,
    database_groups: Groups | None = None,
    levels: int = 8192,
) -> DistanceCounts:
    """Count the items and the relevant items at each level of cosine distance of each query.

    Cosine distance (1 - cos) / 2 is cut into equal levels. Items on one level count as tied, so
    every tie-aware metric of Hamming rankings holds here too, and its optimistic and
    pessimistic ends show what the levels hide.

    Args:
        query: (q, d) embeddings of any length but zero.
        database: (n, d) embeddings, on the same device.
        query_labels: (q, C) multi-hot; a label is set where it is above 0.
        database_labels: (n, C) multi-hot.
        query_groups: (q,) whole numbers, instead of labels: equal groups are relevant.
        database_groups: (n,) whole numbers.
        levels: Number of levels.

    Returns:
        The counts, with `code_length` = levels - 1.

    Raises:
        ShapeError: sizes do not fit, the database is empty, or a value is not finite.
        DataError: no item of the database has a label, labels contain NaN, or no query has an
            item of its group.
        ConfigError: levels is below 2, or neither labels nor groups are given.

    Example:
        >>> x, labels = torch.eye(2), torch.eye(2)
        >>> counts = similarity_counts(x, x, query_labels=labels, database_labels=labels, levels=3)
        >>> counts.relevant
        array([[1, 0, 0],
               [1, 0, 0]])
    """
    if levels < 2:
        raise ConfigError(f"levels must be at least 2, got {levels}")
    if query.shape[1] != database.shape[1]:
        raise ShapeError(
            f"query embeddings have {query.shape[1]} dimensions, those of the database "
            f"{database.shape[1]}: encode both with the same victim"
        )
    for name, x in (("query", query), ("database", database)):
        if not bool(torch.isfinite(x).all()):
            raise ShapeError(f"{name} embeddings hold values that are not finite")
    if not len(database):
        raise ShapeError("the database is empty: there is nothing to rank")
    device = query.device
    wanted = have = None
    matches: Matches | None = None
    if check_relevance(query_labels, database_labels, query_groups, database_groups):
        assert query_groups is not None and database_groups is not None
        matches = matches_of(query_groups, database_groups, len(query), len(database))
    else:
        assert query_labels is not None and database_labels is not None
        asked, known = check_labels(query_labels, database_labels, len(query), len(database))
        wanted = torch.from_numpy(asked).to(device, torch.float32)
        have = torch.from_numpy(known).to(device, torch.float32).T.contiguous()
    unit, others = (torch.nn.functional.normalize(x.double(), dim=1) for x in (query, database))
    items = np.zeros((len(query), levels), np.int64)
    relevant = np.zeros_like(items)
    step = max(1, _CHUNK_PAIRS // max(1, len(database)))
    for start in range(0, len(query), step):
        rows = slice(start, min(start + step, len(query)))
        level = cosine_levels(unit[rows], others, levels=levels)
        bins = level + torch.arange(len(level), device=device).unsqueeze(1) * levels
        size = len(level) * levels
        if matches is not None:
            first, last = np.searchsorted(matches[0], (start, start + len(level)))
            mine = torch.from_numpy(matches[0][first:last] - start).to(device)
            hit_bins = bins[mine, torch.from_numpy(matches[1][first:last]).to(device)]
        else:
            assert wanted is not None and have is not None
            hit_bins = bins[wanted[rows] @ have > 0]
        items[rows] = torch.bincount(bins.flatten(), minlength=size).view(-1, levels).cpu().numpy()
        counted = torch.bincount(hit_bins, minlength=size)
        relevant[rows] = counted.view(-1, levels).cpu().numpy()
    return DistanceCounts(items=items, relevant=relevant, code_length=levels - 1)


def cosine_levels(
    query: Float64[Tensor, "q d"], items: Float64[Tensor, "n d"], *, levels: int
) -> Int64[Tensor, "q n"]:
    """Return the level of cosine distance (1 - cos) / 2 of each pair of unit vectors."""
    distance = (1 - query @ items.T).div_(2).clamp_(0, 1)
    return distance.mul_(levels - 1).round_().long()
