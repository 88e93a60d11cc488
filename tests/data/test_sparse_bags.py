"""Sparse bags answer like the dense array that they stand for."""

import numpy as np
import pytest

from hamward.data.sparse_bags import SparseBags, ones_of

DENSE = (np.random.default_rng(0).random((50, 23)) < 0.15).astype(np.uint8)
DENSE[[3, 7, 49]] = 0
SPARSE = SparseBags(*ones_of([DENSE[:20], DENSE[20:20], DENSE[20:]]), vocabulary=23)


@pytest.mark.parametrize(
    "rows",
    [4, -1, slice(3, 9), slice(None), [7, 7, 0], np.array([49, 3]), np.arange(50) % 7 == 0],
)
def test_rows_are_those_of_the_dense_array(rows: object) -> None:
    made = SPARSE[rows]
    assert made.dtype == np.uint8 and made.flags.owndata | made.flags.writeable
    assert np.array_equal(made, DENSE[rows])  # type: ignore[index]


def test_reductions_are_those_of_the_dense_array() -> None:
    assert SPARSE.shape == DENSE.shape and len(SPARSE) == 50 and SPARSE.size == DENSE.size
    assert np.array_equal(SPARSE.sum(1), DENSE.sum(1))
    assert np.array_equal(SPARSE.any(1), DENSE.any(1))
    assert np.array_equal(SPARSE.max(1, initial=0), DENSE.max(1, initial=0))
    assert SPARSE.sum() == DENSE.sum()
    assert SPARSE.max() == 1 and SparseBags(*ones_of([DENSE * 0]), vocabulary=23).max() == 0
    with pytest.raises(ValueError, match="axis 1"):
        SPARSE.sum(0)


def test_arrays_that_do_not_fit_are_refused() -> None:
    starts, words = ones_of([DENSE])
    with pytest.raises(ValueError, match="do not fit"):
        SparseBags(starts, words[:-1], vocabulary=23)
