"""The input of every ranking metric, checked once: codes, and what decides relevance."""

from dataclasses import dataclass
from typing import Self, TypeAlias, final

import numpy as np
from jaxtyping import Int8, Shaped
from torch import Tensor

from hamward.errors import ConfigError, DataError, ShapeError
from hamward.index import PackedCodes

__all__ = [
    "Codes",
    "Groups",
    "Labels",
    "Matches",
    "RetrievalTask",
    "check_labels",
    "check_relevance",
    "matches_of",
]

Codes: TypeAlias = Int8[Tensor, "_ _"] | PackedCodes
Labels: TypeAlias = Shaped[Tensor, "_ _"] | Shaped[np.ndarray, "_ _"]
Groups: TypeAlias = Shaped[Tensor, " _"] | Shaped[np.ndarray, " _"]
Matches: TypeAlias = tuple[np.ndarray, np.ndarray]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RetrievalTask:
    """Queries, a database, and the labels that decide what is relevant; they fit each other.

    Attributes:
        query: Packed query codes.
        database: Packed database codes, not empty, of the same length, on the same device.
        query_labels: bool (q, C).
        database_labels: bool (n, C), not all false.
    """

    query: PackedCodes
    database: PackedCodes
    query_labels: np.ndarray
    database_labels: np.ndarray

    @classmethod
    def check(
        cls,
        query_codes: Codes,
        database_codes: Codes,
        query_labels: Labels,
        database_labels: Labels,
    ) -> Self:
        """Pack the codes and binarize the labels.

        Raises:
            ShapeError: code lengths, label counts, item counts or devices do not fit, or the
                database is empty.
            DataError: no item of the database has a label, or labels contain NaN.
        """
        query, database = cls._check_codes(query_codes, database_codes)
        query_set, database_set = check_labels(
            query_labels, database_labels, len(query), len(database)
        )
        return cls(
            query=query, database=database, query_labels=query_set, database_labels=database_set
        )

    @classmethod
    def unlabeled(cls, query_codes: Codes, database_codes: Codes) -> Self:
        """Pack the codes of a task whose relevance is not in labels: one label nobody has.

        Raises:
            ShapeError: code lengths or devices do not fit, or the database is empty.
        """
        query, database = cls._check_codes(query_codes, database_codes)
        return cls(
            query=query,
            database=database,
            query_labels=np.zeros((len(query), 1), bool),
            database_labels=np.zeros((len(database), 1), bool),
        )

    @staticmethod
    def _check_codes(query_codes: Codes, database_codes: Codes) -> tuple[PackedCodes, PackedCodes]:
        query, database = _packed(query_codes), _packed(database_codes)
        if query.code_length != database.code_length:
            raise ShapeError(
                f"query codes have {query.code_length} bits, database codes "
                f"{database.code_length}: encode both with the same victim"
            )
        if query.bytes.device != database.bytes.device:
            raise ShapeError(
                f"query codes are on {query.bytes.device}, database codes on "
                f"{database.bytes.device}: move both to one device"
            )
        if not len(database):
            raise ShapeError("the database is empty: there is nothing to rank")
        return query, database


def check_relevance(
    query_labels: Labels | None,
    database_labels: Labels | None,
    query_groups: Groups | None,
    database_groups: Groups | None,
) -> bool:
    """Return whether groups decide what is relevant, not labels.

    Raises:
        ConfigError: neither both labels nor both groups are given, or both kinds are.
    """
    labels = (query_labels is not None, database_labels is not None)
    groups = (query_groups is not None, database_groups is not None)
    if (any(labels), any(groups)) == (True, True) or not (all(labels) or all(groups)):
        raise ConfigError(
            "relevance needs query_labels and database_labels, or query_groups and "
            "database_groups, and not both kinds"
        )
    return all(groups)


def matches_of(query_groups: Groups, database_groups: Groups, queries: int, items: int) -> Matches:
    """Return the pairs (query row, database row) of equal groups, ordered by query.

    Raises:
        ShapeError: not one whole number an item.
        DataError: no query has an item of its group in the database.
    """
    asked = _whole_numbers(query_groups, "query", queries)
    known = _whole_numbers(database_groups, "database", items)
    order = np.argsort(known, kind="stable")
    first = np.searchsorted(known[order], asked, side="left")
    counts = np.searchsorted(known[order], asked, side="right") - first
    if queries and not counts.any():
        raise DataError("no query has an item of its group in the database: nothing is relevant")
    rows = np.repeat(np.arange(queries), counts)
    within = np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts)
    return rows, order[np.repeat(first, counts) + within]


def check_labels(
    query_labels: Labels, database_labels: Labels, queries: int, items: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return which labels are set, bool (q, C) and (n, C).

    Raises:
        ShapeError: numbers of items or labels do not fit, or the database is empty.
        DataError: no item of the database has a label, or labels contain NaN.
    """
    if items == 0:
        raise ShapeError("the database is empty: there is nothing to rank")
    query_set = _set_labels(query_labels, "query", queries)
    database_set = _set_labels(database_labels, "database", items)
    if query_set.shape[1] != database_set.shape[1]:
        raise ShapeError(
            f"query labels have {query_set.shape[1]} columns, database labels "
            f"{database_set.shape[1]}"
        )
    if not database_set.any():
        raise DataError("no item of the database has a label above 0: nothing can be relevant")
    return query_set, database_set


def _packed(codes: Codes) -> PackedCodes:
    return codes if isinstance(codes, PackedCodes) else PackedCodes.from_codes(codes)


def _whole_numbers(groups: Groups, split: str, items: int) -> np.ndarray:
    values = groups.detach().cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)
    if values.shape != (items,) or not np.issubdtype(values.dtype, np.integer):
        raise ShapeError(
            f"{split} groups must be whole numbers ({items},), one for each code, got "
            f"{values.dtype} {values.shape}"
        )
    return values


def _set_labels(labels: Labels, split: str, items: int) -> np.ndarray:
    """Return which labels are set, bool (n, C)."""
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim != 2 or len(values) != items or values.shape[1] < 1:
        raise ShapeError(
            f"{split} labels must be (n, C) multi-hot for {items} codes, got {values.shape}"
        )
    if np.issubdtype(values.dtype, np.floating) and np.isnan(values).any():
        raise DataError(f"{split} labels contain NaN")
    is_set: np.ndarray = values > 0
    return is_set
