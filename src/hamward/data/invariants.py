"""What must hold for a retrieval set, said in sentences."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hamward.data.split import SPLIT_NAMES
from hamward.errors import DataError

if TYPE_CHECKING:
    from hamward.data.retrieval_data import RetrievalData
    from hamward.data.sparse_bags import SparseBags

__all__ = ["check_shapes", "check_values"]


def check_shapes(data: "RetrievalData") -> None:
    """Check shapes, types, names and positions, without reading the items.

    Raises:
        DataError: the first thing that does not hold, with the value seen.
    """
    n = len(data.ids)
    _check_array("ids", data.ids, dtype=np.int64, shape=(n,))
    side = data.images.shape[-1] if data.images.ndim else 0
    _check_array("images", data.images, dtype=np.uint8, shape=(n, 3, side, side))
    _check_array("bags", data.bags, dtype=np.uint8, shape=(n, len(data.words)))
    _check_array("labels", data.labels, dtype=np.uint8, shape=(n, len(data.label_names)))
    if not data.label_names and not data.words:
        raise DataError("there are neither labels nor words: nothing can be relevant to anything")
    if data.split.searched_query == bool(data.label_names):
        raise DataError(
            "queries must lie in the database exactly where there are no labels (relevance by own "
            f"pair), got {len(data.label_names)} labels and searched_query="
            f"{data.split.searched_query}"
        )
    if data.groups is not None:
        _check_array("groups", data.groups, dtype=np.int64, shape=(n,))
    for name in ("texts", "sources", "creators", "text_inputs"):
        values = getattr(data, name)
        if values is not None and len(values) != n:
            raise DataError(f"{name} has {len(values)} entries for {n} items")
    for name in ("words", "label_names"):
        values = getattr(data, name)
        if len(set(values)) != len(values):
            twice = sorted({value for value in values if values.count(value) > 1})
            raise DataError(f"{name} must be distinct, these occur twice: {twice[:5]}")
    used = [part for part in map(data.split.__getitem__, SPLIT_NAMES) if len(part)]
    last = max(int(part[-1]) for part in used)
    first = min(int(part[0]) for part in used)
    if first < 0 or last >= n:
        raise DataError(f"split positions must be in [0, {n}), found {first}..{last}")


def check_values(data: "RetrievalData") -> None:
    """Check what can only be seen by reading all items.

    Raises:
        DataError: the first thing that does not hold, with the value seen.
    """
    for name, array in (("bags", data.bags), ("labels", data.labels)):
        if array.size and array.max() > 1:
            raise DataError(f"{name} must hold 0 and 1 only, found {int(array.max())}")
    values, counts = np.unique(data.ids, return_counts=True)
    if (counts > 1).any():
        raise DataError(
            f"ids must be unique, {int((counts > 1).sum())} occur more than once, first "
            f"{values[counts > 1][:5].tolist()}"
        )
    if data.label_names and not data.labels.any():
        raise DataError("no item has a label: nothing can be relevant to anything")


def _check_array(
    name: str,
    array: "NDArray[Any] | SparseBags",
    *,
    dtype: type[np.generic],
    shape: tuple[int, ...],
) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise DataError(
            f"{name} must be {np.dtype(dtype).name} {shape}, got {array.dtype} {array.shape}"
        )
