"""Bags of words kept as the positions of their ones; a row is dense only while it is used."""

from collections.abc import Iterable
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from hamward.errors import DataError

__all__ = ["SparseBags", "ones_of"]


@final
class SparseBags:
    """A uint8 (n, D) array of 0 and 1 in compressed rows; both arrays may be memory-mapped.

    It answers what the data layer asks of an array: shape, dtype, rows by position, and `max`,
    `sum` and `any` along the words.

    Args:
        starts: (n + 1,); the words of item i are `words[starts[i]:starts[i + 1]]`.
        words: Positions of the ones, ascending within an item.
        vocabulary: D.

    Raises:
        ValueError: the arrays do not fit each other or the vocabulary.
    """

    dtype = np.dtype(np.uint8)
    ndim = 2

    def __init__(
        self, starts: NDArray[np.int64], words: NDArray[np.uint32], *, vocabulary: int
    ) -> None:
        """See the class."""
        if starts.ndim != 1 or not len(starts) or starts[0] != 0 or starts[-1] != len(words):
            raise ValueError(f"row starts do not fit {len(words)} words")
        self._starts, self._words = starts, words
        self.shape = (len(starts) - 1, vocabulary)
        self.size = self.shape[0] * vocabulary

    def __len__(self) -> int:
        """Return the number of items."""
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        """Return rows as a dense array; `rows` is a position, a slice, positions or a mask."""
        chosen = np.arange(len(self))[rows]
        flat = np.atleast_1d(chosen)
        first, counts = self._starts[flat], self._starts[flat + 1] - self._starts[flat]
        before = np.cumsum(counts) - counts
        places = np.repeat(first - before, counts) + np.arange(int(counts.sum()))
        dense = np.zeros((len(flat), self.shape[1]), np.uint8)
        dense[np.repeat(np.arange(len(flat)), counts), self._words[places]] = 1
        return dense[0] if np.ndim(chosen) == 0 else dense

    def sum(self, axis: int | None = None, dtype: Any = None) -> Any:
        """Return the number of words of each item (axis 1), or of all."""
        if axis is None:
            return len(self._words)
        self._check(axis)
        return np.asarray(np.diff(self._starts), dtype=dtype or np.int64)

    def any(self, axis: int) -> NDArray[np.bool_]:
        """Return which items have a word (axis 1 only)."""
        has: NDArray[np.bool_] = self.sum(axis) > 0
        return has

    def max(self, axis: int | None = None, initial: int = 0) -> Any:
        """Return the largest value of each item (axis 1), or of all."""
        if axis is None:
            return np.uint8(max(initial, int(len(self._words) > 0)))
        return np.maximum(self.any(axis).astype(np.uint8), np.uint8(initial))

    def _check(self, axis: int) -> None:
        if axis != 1:
            raise ValueError(f"bags are reduced along their words (axis 1), got axis {axis}")


def ones_of(
    blocks: Iterable[NDArray[np.uint8]],
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Return row starts and word positions of dense blocks of rows, as `SparseBags` takes them.

    Raises:
        DataError: a value is neither 0 nor 1.
    """
    counts, words = [np.zeros(1, np.int64)], [np.zeros(0, np.uint32)]
    for block in blocks:
        if block.size and block.max() > 1:
            raise DataError(f"bags must hold 0 and 1 only, found {int(block.max())}")
        counts.append(np.count_nonzero(block, axis=1).astype(np.int64))
        words.append(np.nonzero(block)[1].astype(np.uint32))
    return np.concatenate(counts).cumsum(), np.concatenate(words)
