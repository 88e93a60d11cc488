"""List files of the DeepHash repositories: a path and its labels on each line."""

import re
from pathlib import Path

import numpy as np

from hamward.data.readers.fixed_split import merge_splits
from hamward.data.readers.lines import Problems, read_lines
from hamward.data.readers.located import Missing, locate_pictures
from hamward.data.source import Source
from hamward.errors import DataError

__all__ = ["read_deephash_list"]

_LINE = re.compile(r"(?P<path>.*?\S)(?P<labels>(?:\s+[01])+)\s*")
_LISTS = {"query": "test.txt", "database": "database.txt", "train": "train.txt"}


def read_deephash_list(
    root: Path, *, skip_bad: bool = False, pictures: Path | None = None, missing: Missing = "error"
) -> Source:
    """Read train.txt, test.txt and database.txt with lines `path 0 1 0 ...`.

    A path listed for training and in the database is one item; a path listed in test.txt and
    elsewhere is an error. An item's id counts the lines of test.txt, database.txt and train.txt
    before its own. The lists have no texts and no label names, so texts are empty and labels are
    numbered from 0.

    Args:
        root: Folder that holds the three lists.
        skip_bad: Leave out bad lines, missing pictures and copies of queries.
        pictures: Folder that the paths start from, when it is not `root`.
        missing: What to do when pictures are missing (see `locate_pictures`).

    Raises:
        DataError: lists are missing, damaged or contradict each other.
    """
    root = Path(root)
    problems = Problems(skip_bad=skip_bad)
    places = {name: root / file for name, file in _LISTS.items() if (root / file).is_file()}
    if not {"query", "database"} <= places.keys():
        raise DataError(
            f"{root} must hold test.txt and database.txt (and train.txt), found "
            f"{', '.join(sorted(p.name for p in root.glob('*.txt'))) or 'no .txt file'}"
        )
    rows: dict[str, list[str]] = {}
    labels_of: dict[str, str] = {}
    line_of: dict[tuple[str, int], int] = {}
    starts: dict[str, int] = {}
    width = total = 0
    for name, file in places.items():
        rows[name], starts[name] = [], total - 1
        seen = set()
        lines = read_lines(file)
        total += len(lines)
        for line, text in enumerate(lines, start=1):
            if not text.strip():
                continue
            match = _LINE.fullmatch(text)
            if match is None:
                problems.report(file, line, f"expected 'path 0 1 0 ...', found {text[:60]!r}")
                continue
            path, labels = match["path"].strip(), "".join(match["labels"].split())
            width = width or len(labels)
            if len(labels) != width:
                problems.report(file, line, f"expected {width} labels, found {len(labels)}")
            elif labels_of.setdefault(path, labels) != labels:
                problems.report(file, line, f"{path} has other labels elsewhere")
            elif path in seen:
                problems.report(file, line, f"{path} is listed twice")
            else:
                seen.add(path)
                line_of[name, len(rows[name])] = line
                rows[name].append(path)

    items, split = merge_splits(rows, places=places, lines=line_of, problems=problems)
    paths = [rows[name][row] for name, row in items]
    found, keep = locate_pictures(
        paths,
        [Path(pictures)] if pictures is not None else [root, root.parent],
        missing=missing,
        place_of=lambda position: (places[items[position][0]], line_of[items[position]]),
        problems=problems,
    )
    position = np.cumsum(keep) - 1
    bits = np.array([[int(c) for c in labels_of[path]] for path in paths], dtype=np.uint8)
    return Source(
        name=root.name,
        ids=np.array([starts[item[0]] + line_of[item] for item in items], dtype=np.int64)[keep],
        pictures=found,
        texts=("",) * int(keep.sum()),
        labels=bits.reshape(len(paths), width)[keep],
        label_names=tuple(map(str, range(width))),
        split={name: position[mine[keep[mine]]] for name, mine in split.items()},
        files=tuple(places.values()),
        counts={"items": int(keep.sum())} | {name: len(mine) for name, mine in rows.items()},
        skipped=tuple(problems.skipped),
    )
