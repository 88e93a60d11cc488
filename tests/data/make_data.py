"""A set small enough to check by hand."""

from typing import Any

import numpy as np

from hamward.data import RetrievalData, Split


def positions(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def make_parts(**changes: Any) -> dict[str, Any]:
    """Eight items: queries 0-2, database 3-7 (train 3-5, validation 6); item 1 has no word."""
    labels = np.array(
        [[1, 0], [0, 1], [1, 1], [1, 0], [0, 1], [1, 0], [0, 1], [1, 1]], dtype=np.uint8
    )
    bags = np.array(
        [[1, 0, 0], [0, 0, 0], [0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 1]],
        dtype=np.uint8,
    )
    parts = {
        "name": "eight",
        "images": np.arange(8 * 3 * 4 * 4, dtype=np.uint8).reshape(8, 3, 4, 4),
        "bags": bags,
        "texts": tuple(" ".join("abc"[j] for j in np.flatnonzero(bag)) for bag in bags),
        "labels": labels,
        "words": ("a", "b", "c"),
        "label_names": ("red", "blue"),
        "ids": np.arange(8, dtype=np.int64) * 10 + 5,
        "split": Split(
            query=positions(0, 1, 2),
            database=positions(3, 4, 5, 6, 7),
            train=positions(3, 4, 5),
            validation=positions(6),
        ),
        "groups": positions(0, 1, 2, 3, 3, 4, 5, 6),
        "sources": tuple(f"{i}.svg" for i in range(8)),
    }
    return parts | changes


def make_data(**changes: Any) -> RetrievalData:
    return RetrievalData(**make_parts(**changes))
