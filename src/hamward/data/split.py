"""Which items ask, which are searched, which are learned from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hamward.errors import ConfigError, DataError
from hamward.random import permutation

__all__ = [
    "SPLIT_NAMES",
    "Split",
    "SplitName",
    "carve_groups",
    "split_digest",
    "take_groups",
    "thin",
]

SplitName = Literal["query", "database", "train", "validation"]
SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Sorted int64 positions. The arrays are kept as read-only views.

    Attributes:
        query: Items that ask; never in the database, but for `searched_query`.
        database: Items that are searched. As in the field, it includes train and validation.
        train: Items to learn from, without the validation items.
        validation: Items held out of train to choose settings.
        searched_train: Whether train and validation lie in the database; else none of their items
            does, which is what DeepHash's MIRFlickr protocol asks for.
        searched_query: Whether the queries lie in the database. They must where a query's only
            answer is its own other side (a picture's own caption), and must not elsewhere.
    """

    query: NDArray[np.int64]
    database: NDArray[np.int64]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    searched_train: bool = True
    searched_query: bool = False

    def __post_init__(self) -> None:
        for name in SPLIT_NAMES:
            positions = getattr(self, name)
            _check_positions(name, positions)
            view = positions.view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        if self.searched_query:
            _check_inside("query", self.query, self.database, "their own pairs are searched")
            for name in ("train", "validation"):
                _check_disjoint(name, getattr(self, name), "query", self.query)
        else:
            _check_disjoint("query", self.query, "database", self.database)
        _check_disjoint("train", self.train, "validation", self.validation)
        for name in ("train", "validation"):
            if not self.searched_train:
                _check_disjoint(name, getattr(self, name), "query", self.query)
                _check_disjoint(name, getattr(self, name), "database", self.database)
                continue
            _check_inside(
                name,
                getattr(self, name),
                self.database,
                "the database includes train and validation",
            )
        for name in ("query", "database"):
            if not len(getattr(self, name)):
                raise DataError(f"split {name!r} is empty: retrieval needs queries and a database")

    def __getitem__(self, name: SplitName) -> NDArray[np.int64]:
        """Return the positions of a split by its name."""
        if name not in SPLIT_NAMES:
            raise ConfigError(f"unknown split {name!r}: known: {', '.join(SPLIT_NAMES)}")
        positions: NDArray[np.int64] = getattr(self, name)
        return positions


def carve_groups(
    candidates: NDArray[np.int64], groups: NDArray[np.int64], *, size: int, seed: int
) -> NDArray[np.int64]:
    """Choose `size` candidates, whole groups at a time.

    Only groups that lie wholly among the candidates are taken, so no look-alike of a chosen item
    stays outside. Groups come in random order; one that no longer fits is passed over.

    Args:
        candidates: Sorted positions to choose from.
        groups: Group of every item of the set, (n,).
        size: How many to choose.
        seed: Any integer.

    Returns:
        Sorted positions, (size,).

    Raises:
        ConfigError: the groups, taken in that order, do not add up to exactly `size`.
    """
    taken = take_groups(candidates, groups, size=size, seed=seed, stream="validation groups")
    if len(taken) < size:
        raise ConfigError(
            f"cannot carve {size} validation items in whole groups: {len(taken)} of "
            f"{len(candidates)} training items fit; ask for fewer"
        )
    return taken


def take_groups(
    candidates: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    size: int,
    seed: int,
    stream: str,
) -> NDArray[np.int64]:
    """Choose at most `size` candidates as `carve_groups` does; fewer where no group fits."""
    chosen = np.zeros(len(groups), dtype=bool)
    chosen[candidates] = True
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    whole = np.bincount(inverse, weights=chosen, minlength=len(names)) == counts
    left = size
    taken = np.zeros(len(names), dtype=bool)
    for group in permutation(len(names), seed=seed, stream=stream).tolist():
        if whole[group] and counts[group] <= left:
            taken[group] = True
            left -= int(counts[group])
    return np.flatnonzero(taken[inverse]).astype(np.int64)


def thin(positions: NDArray[np.int64], size: int | None) -> NDArray[np.int64]:
    """Keep at most `size` positions, evenly spaced, so that a sorted set keeps its mixture.

    Example:
        >>> thin(np.arange(10), 4).tolist()
        [0, 3, 6, 9]
    """
    if size is None or size >= len(positions):
        return positions
    keep = np.linspace(0, len(positions) - 1, size).round().astype(np.int64)
    return positions[keep]


def as_positions(positions: ArrayLike | Sequence[int], *, size: int) -> NDArray[np.int64]:
    """Return positions as int64, refusing what does not exist (negative ones would wrap)."""
    array = np.asarray(positions)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise DataError(
            f"positions must be one-dimensional integers, got {array.dtype} {array.shape}"
        )
    if array.size and not (array.min() >= 0 and array.max() < size):
        raise DataError(
            f"positions must be in [0, {size}), got {int(array.min())}..{int(array.max())}"
        )
    return array.astype(np.int64, copy=False)


def split_digest(split: Split, ids: NDArray[np.int64]) -> str:
    """Return a sha256 over which ids are in which split: equal for equal splits of one set."""
    sha = hashlib.sha256(f"searched_train {split.searched_train}\n".encode())
    if split.searched_query:
        sha.update(b"searched_query True\n")
    for name in SPLIT_NAMES:
        mine = np.sort(ids[split[name]]).astype("<i8")
        sha.update(f"{name} {len(mine)}\n".encode())
        sha.update(mine.data)
    return sha.hexdigest()


def _check_positions(name: str, positions: NDArray[np.int64]) -> None:
    if positions.ndim != 1 or positions.dtype != np.int64:
        raise DataError(
            f"split {name!r} must be one-dimensional int64 positions, got {positions.dtype} "
            f"{positions.shape}"
        )
    if len(positions) > 1 and not (np.diff(positions) > 0).all():
        raise DataError(f"split {name!r} must be sorted without repetition: use np.unique")


def _check_inside(
    name: str, positions: NDArray[np.int64], database: NDArray[np.int64], reason: str
) -> None:
    outside = np.setdiff1d(positions, database)
    if outside.size:
        raise DataError(
            f"{outside.size} {name} positions are not in the database, first "
            f"{outside[:5].tolist()}: {reason}"
        )


def _check_disjoint(
    name: str, positions: NDArray[np.int64], other_name: str, other: NDArray[np.int64]
) -> None:
    common = np.intersect1d(positions, other, assume_unique=True)
    if common.size:
        raise DataError(
            f"{name} and {other_name} share {common.size} items, first positions "
            f"{common[:5].tolist()}: they must be disjoint"
        )
