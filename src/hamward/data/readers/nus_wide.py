"""NUS-WIDE from the owners' archives."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hamward.data.readers.lines import Problems, check_choice, find, read_bits, read_lines
from hamward.data.readers.located import Missing, locate_pictures
from hamward.data.source import Source
from hamward.errors import DataError

__all__ = ["read_nus_wide"]

logger = logging.getLogger(__name__)

Subset = Literal["tc10", "tc21", "tc21-text", "all"]
Duplicates = Literal["keep", "drop", "error"]
TextFrom = Literal["bag", "all_tags"]
_LINE = re.compile(r"\s*(?:.+[\\/])?\d+_(\d+)\.jpg\s*", re.IGNORECASE)
_CONCEPTS = {"tc10": 10, "tc21": 21, "tc21-text": 21, "all": 81}
_USUAL = {"tc10": 186_577, "tc21": 195_834, "tc21-text": 190_421, "all": 269_648}


def read_nus_wide(
    root: Path,
    *,
    skip_bad: bool = False,
    subset: Subset = "tc21",
    duplicates: Duplicates = "keep",
    texts: TextFrom = "bag",
    pictures: Path | None = None,
    features: Path | None = None,
    missing: Missing = "error",
    labels: Path | None = None,
) -> Source:
    r"""Read Groundtruth, NUS_WID_Tags and ImageList, all unpacked.

    Layout: Groundtruth/AllLabels/Labels_<concept>.txt (81 files, one 0 or 1 a line),
    NUS_WID_Tags/AllTags1k.txt (1,000 values 0 or 1 a line) and TagList1k.txt (its words),
    ImageList/Imagelist.txt (lines `actor\0001_2124494179.jpg`), and optionally the pictures in
    Flickr/<concept>/. All have 269,648 lines in the same order; an item's id is its line.

    TC10 and TC21 are the concepts with most items *in the files given* (no list of names is
    published with them); the chosen names are the label names, in alphabetical order, and are
    logged with their counts. An item belongs to a subset when it has one of its concepts.

    AllTags81 is never read: it says which users typed a concept's name, which is not ground
    truth. TrainTestLabels are not read either: Labels_lake_Train.txt is known to be broken.

    Args:
        root: Folder that holds Groundtruth/, NUS_WID_Tags/ and ImageList/.
        skip_bad: Leave out items with a bad line or a missing picture instead of stopping.
        subset: "tc10", "tc21", "tc21-text" (TC21 items with at least one of the 1,000 words), or
            "all" 81 concepts and all items.
        duplicates: Rows that share a Flickr id: "keep" them in one group (so that a split can
            keep them on one side), "drop" them all as ambiguous, or stop with an "error".
        texts: Raw strings of the "bag"'s words, or "all_tags" of NUS_WID_Tags/All_Tags.txt.
        pictures: Folder of the pictures; by default Flickr/, images/ or `root`.
        features: A .npy or text file of picture features, one row for each line of
            Imagelist.txt; pictures are then not looked for.
        missing: What to do when pictures are missing (see `locate_pictures`).
        labels: Folder of the Labels_*.txt files, when it is elsewhere.

    Raises:
        DataError: files are missing, damaged, of different lengths, or not ground truth.
        ConfigError: an unknown option value.
    """
    check_choice("subset", subset, Subset)
    check_choice("duplicates", duplicates, Duplicates)
    check_choice("texts", texts, TextFrom)
    root = Path(root)
    problems = Problems(skip_bad=skip_bad)
    label_files = _label_files(root, labels)
    listing = find(root, ("ImageList/Imagelist.txt", "Imagelist.txt"), what="NUS-WIDE image list")
    tags = find(root, ("NUS_WID_Tags/AllTags1k.txt", "AllTags1k.txt"), what="NUS-WIDE tags")
    tag_names = find(
        root,
        ("NUS_WID_Tags/TagList1k.txt", "TagList1k.txt", "ConceptsList/TagList1k.txt"),
        what="NUS-WIDE words",
    )
    words = tuple(line.strip() for line in read_lines(tag_names) if line.strip())

    names, flickr_ids = _read_listing(listing, problems)
    keep = flickr_ids >= 0
    repeated = _repeated(flickr_ids)
    if repeated.any() and duplicates == "error":
        first = int(np.argmax(repeated))
        raise DataError(
            f"{listing}:{first + 1}: picture {flickr_ids[first]} is listed more than once "
            f"({int(repeated.sum())} such rows); use duplicates='drop' or 'keep'"
        )
    if duplicates == "drop":
        for row in np.flatnonzero(repeated & keep):
            problems.note(listing, int(row) + 1, f"picture {flickr_ids[row]} is listed again")
        keep &= ~repeated

    chosen, chosen_files = _choose_concepts(label_files, len(names), subset)
    if subset != "all":
        keep &= chosen.any(axis=1)
    bags = read_bits(tags, rows=len(names), columns=len(words), keep=keep)
    rows = np.flatnonzero(keep)
    if subset == "tc21-text":
        with_text = bags.any(axis=1)
        rows, bags = rows[with_text], bags[with_text]

    files = [listing, tags, tag_names, *label_files]
    row_features = None
    if features is not None:
        row_features = _read_features(Path(features), len(names))[rows]
        files.append(Path(features))
        missing = "text-only"
    found, present = locate_pictures(
        [names[row] for row in rows],
        [Path(pictures)] if pictures is not None else [root / "Flickr", root / "images", root],
        missing=missing,
        place_of=lambda position: (listing, int(rows[position]) + 1),
        problems=problems,
    )
    if not present.all():
        rows, bags = rows[present], bags[present]
    if texts == "all_tags":
        all_tags = find(root, ("NUS_WID_Tags/All_Tags.txt", "All_Tags.txt"), what="NUS-WIDE texts")
        files.append(all_tags)
        strings = _read_all_tags(all_tags, flickr_ids, rows)
    else:
        strings = tuple(" ".join(words[i] for i in np.flatnonzero(bag)) for bag in bags)
    return Source(
        name=f"nus-wide-{subset}",
        ids=rows + 1,
        pictures=found,
        texts=strings,
        bags=bags,
        words=words,
        labels=chosen[rows],
        label_names=tuple(_concept(file) for file in chosen_files),
        groups=_groups(flickr_ids)[rows] if repeated[rows].any() else None,
        features=row_features,
        files=tuple(files),
        counts={
            "items": len(rows),
            "items usually reported": _USUAL[subset],
            "rows": len(names),
            "rows usually reported": _USUAL["all"],
            "rows that share a picture id": int(repeated.sum()),
            "pictures missing": int((~present).sum()),
            "without word": int((~bags.any(axis=1)).sum()),
        },
        skipped=tuple(problems.skipped),
    )


def _label_files(root: Path, folder: Path | None) -> list[Path]:
    """Return the 81 files of the ground truth, by name."""
    if folder is None:
        try:
            folder = find(root, ("Groundtruth/AllLabels", "AllLabels"), what="NUS-WIDE labels")
        except DataError as error:
            for name in ("AllTags81.txt", "TrainTestLabels"):
                for other in root.glob(f"**/{name}"):
                    raise DataError(f"{error}. {_refusal(other)}") from error
            raise
    folder = Path(folder)
    if "alltags81" in folder.name.casefold() or "traintest" in folder.name.casefold():
        raise DataError(_refusal(folder))
    files = sorted(folder.glob("Labels_*.txt"), key=_concept)
    if any(re.search(r"_(Train|Test)$", file.stem) for file in files):
        raise DataError(_refusal(folder))
    if len(files) != 81:
        raise DataError(
            f"{folder} holds {len(files)} files Labels_<concept>.txt, expected 81; unpack "
            "Groundtruth/AllLabels completely"
        )
    return files


def _refusal(file: Path) -> str:
    if "alltags81" in file.name.casefold():
        return (
            f"{file} is no substitute: it holds the user tags that equal a concept's name, not "
            "the ground truth. Labels must come from Groundtruth/AllLabels"
        )
    return (
        f"{file} is no substitute: Labels_lake_Train.txt is known to disagree with the ground "
        "truth. Labels must come from Groundtruth/AllLabels"
    )


def _concept(file: Path) -> str:
    return file.stem.removeprefix("Labels_")


def _read_listing(file: Path, problems: Problems) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names, and the Flickr ids with -1 for a bad line."""
    names = read_lines(file)
    ids = np.full(len(names), -1, dtype=np.int64)
    for row, name in enumerate(names):
        if match := _LINE.fullmatch(name):
            ids[row] = int(match[1])
        else:
            problems.report(
                file, row + 1, f"expected folder\\0001_<flickr id>.jpg, found {name[:60]!r}"
            )
    if not names:
        raise DataError(f"{file} is empty; it must list 269,648 pictures")
    return names, ids


def _repeated(ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    _, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    result: NDArray[np.bool_] = (counts[inverse] > 1) & (ids >= 0)
    return result


def _groups(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number rows by the line of the first row with the same picture."""
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    result: NDArray[np.int64] = (first[inverse] + 1).astype(np.int64)
    return result


def _choose_concepts(
    files: Sequence[Path], rows: int, subset: Subset
) -> tuple[NDArray[np.uint8], list[Path]]:
    """Return the columns of the most frequent concepts, ties by name, in order of the names."""
    columns = [read_bits(file, rows=rows, columns=1)[:, 0] for file in files]
    counts = Counter({i: int(column.sum()) for i, column in enumerate(columns)})
    best = sorted(range(len(files)), key=lambda i: (-counts[i], i))[: _CONCEPTS[subset]]
    logger.info(
        "NUS-WIDE %s: %s",
        subset,
        ", ".join(f"{_concept(files[i])} {counts[i]:,}" for i in best),
    )
    chosen = sorted(best)
    return np.stack([columns[i] for i in chosen], axis=1), [files[i] for i in chosen]


def _read_features(file: Path, rows: int) -> NDArray[np.float32]:
    try:
        values = np.load(file) if file.suffix == ".npy" else np.loadtxt(file, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not a .npy or text file of numbers ({error})") from error
    if values.ndim != 2 or len(values) != rows:
        raise DataError(
            f"{file}: features must have {rows:,} rows, one for each line of Imagelist.txt, got "
            f"shape {values.shape}"
        )
    result: NDArray[np.float32] = values.astype(np.float32)
    return result


def _read_all_tags(file: Path, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[str, ...]:
    """Return the tags behind each row's picture id, after checking that the ids agree."""
    lines = read_lines(file)
    if len(lines) != len(ids):
        raise DataError(f"{file} has {len(lines):,} lines, Imagelist.txt has {len(ids):,}")
    strings = []
    for row in rows:
        first, *tags = lines[row].split() or [""]
        if first != str(ids[row]):
            raise DataError(
                f"{file}:{row + 1}: expected the tags of picture {ids[row]}, found {first!r}"
            )
        strings.append(" ".join(tags))
    return tuple(strings)
