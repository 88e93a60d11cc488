"""Splits that the source fixes: rows of several lists become items, each once."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hamward.data.readers.lines import Problems

__all__ = ["merge_splits"]


def merge_splits(
    rows: Mapping[str, Sequence[Hashable]],
    *,
    places: Mapping[str, Path],
    lines: Mapping[tuple[str, int], int] | None = None,
    problems: Problems,
) -> tuple[list[tuple[str, int]], dict[str, NDArray[np.int64]]]:
    """Give every item one position, although training items are usually listed twice.

    Most files list the training items again in the database; concatenating the lists would make
    two items of one. An item of the query list that is listed again for training or in the
    database is an error, because its own copy would be retrieved at distance 0.

    Args:
        rows: What identifies each row ("query", "database", "train"), such as its path.
        places: File of each list, for messages.
        lines: Line of each (list, row), for messages; by default the row, from 1.
        problems: With `skip_bad`, the training and database copies of queries are left out.

    Returns:
        The items as (list, row), queries first, then the database, then training items that the
        database lacks; and the positions of each split.

    Raises:
        DataError: a query is also a training or database item.
    """
    items: list[tuple[str, int]] = []
    split: dict[str, NDArray[np.int64]] = {}
    queries = {key: row for row, key in enumerate(rows.get("query", ()))}
    free: defaultdict[Hashable, list[int]] = defaultdict(list)
    for name in ("query", "database", "train"):
        if name not in rows:
            continue
        positions = []
        for row, key in enumerate(rows[name]):
            if name != "query" and key in queries:
                problems.report(
                    places[name],
                    lines[name, row] if lines is not None else row + 1,
                    f"row {row + 1} of {name} is also row {queries[key] + 1} of query; queries "
                    "must not be trained on or retrieved",
                )
            elif name == "train" and free[key]:
                positions.append(free[key].pop())
            else:
                if name == "database":
                    free[key].insert(0, len(items))
                positions.append(len(items))
                items.append((name, row))
        split[name] = np.array(positions, dtype=np.int64)
    return items, split
