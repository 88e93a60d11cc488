"""Packed files that circulate with released code: .mat v5, .mat v7.3 and .h5."""

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hamward.data.readers.array_pictures import ArrayPictures
from hamward.data.readers.arrays import (
    ItemAxis,
    Stored,
    count_items,
    item_axis_of,
    open_arrays,
    read_bit_rows,
    read_float_rows,
    read_strings,
)
from hamward.data.readers.fixed_split import merge_splits
from hamward.data.readers.lines import Problems, check_choice, read_lines
from hamward.data.readers.located import Missing, locate_pictures
from hamward.data.source import Pictures, Source
from hamward.errors import ConfigError, DataError

__all__ = ["read_packed"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T", bound=np.generic)

_ROLES = {
    "picture": ("iall", "images", "image", "xall", "fall", "imgs", "index"),
    "text": ("yall", "tall", "tags", "text", "texts", "caption"),
    "label": ("lall", "labels", "label", "category"),
}
_PARTS = {
    "query": ("{}_te", "{}query"),
    "database": ("{}_db", "{}database"),
    "train": ("{}_tr", "{}train"),
}
_SHORT = {"picture": ("i", "img"), "text": ("t", "tag"), "label": ("l", "lab")}
_PLACE_OF = {key: ("", role) for role, keys in _ROLES.items() for key in keys} | {
    form.format(short): (part, role)
    for part, forms in _PARTS.items()
    for role, shorts in _SHORT.items()
    for form, short in zip(forms, shorts, strict=True)
}
_KEYS = frozenset(_PLACE_OF)
_SUFFIXES = (".mat", ".h5", ".hdf5")
_NUMBER = re.compile(r"(?:.*[\\/])?im(\d+)\.jpe?g")


def read_packed(
    root: Path,
    *,
    skip_bad: bool = False,
    items: int | None = None,
    item_axis: ItemAxis | None = None,
    transposed: bool | None = None,
    pictures: Path | None = None,
    missing: Missing = "error",
) -> Source:
    """Read a packed file, or a folder of files that belong together.

    Known are the files of DCMH's authors (one file, and the iall/xall/yall/lall/fall files), of
    WendellGul/DCMH, EQB2A, TA-DCH, FPAD, DADH, CPAH, CMLA (Img.h5, Tag.h5, Lab.h5), BMC-SDNU
    (raw_*.mat), torchcmh (imgList/tagList/labelList) and DCHMT (index/caption/label). A key says
    *what* an array is, never how it lies: the items' axis is the one whose size all arrays share,
    an array with 4 axes holds pictures, one with 2 features, strings are paths or captions.

    Where the file fixes splits (BMC-SDNU, CMLA), training rows that are also database rows become
    one item, by path or by content (picture, words and labels alike).

    Differs: pictures are turned upright where MATLAB's order makes width and height certain, and
    taken as the repositories' loaders use them elsewhere, which is INFERRED: see
    `array_pictures.stored_transposed`; look at a contact sheet, and give `transposed`. Floats
    whose sampled values lie in 0..1 are multiplied by 255 (INFERRED). Word counts become 1.

    Args:
        root: The file, or the folder of the files (and of one level below).
        skip_bad: Leave out items with missing pictures, and copies of queries.
        items: Number of items, when the arrays' sizes leave a choice.
        item_axis: Axis of the items for arrays in which several axes have that size.
        transposed: Whether pictures are stored with the width before the height; None decides.
        pictures: Folder that stored paths start from; by default the folder of the files.
        missing: What to do when pictures named by paths are missing (see `locate_pictures`).

    Raises:
        DataError: arrays are missing, damaged, ambiguous or contradict each other.
        ConfigError: an unknown option value, or scipy or h5py is not installed.
    """
    if item_axis is not None:
        check_choice("item_axis", item_axis, ItemAxis)
    root = Path(root)
    problems = Problems(skip_bad=skip_bad)
    found = _gather(root)
    if items is not None and "" not in found:
        raise ConfigError("items can not be stated for files with splits, which differ in size")
    options = _Options(items=items, axis=item_axis, transposed=transposed)
    parts = {part: _read_part(kinds, options) for part, kinds in found.items()}
    order, split = [("", row) for row in range(len(parts[""].labels))] if "" in parts else [], None
    if "" not in parts:
        order, split = merge_splits(
            {part: mine.keys() for part, mine in parts.items()},
            places={part: kinds["label"].file for part, kinds in found.items()},
            problems=problems,
        )
    whole = _select(parts, order)

    keep = np.ones(len(order), np.bool_)
    shown: Pictures | None = whole.pictures
    if shown is None and whole.names is not None and (whole.features is None or pictures):
        folder = root if root.is_dir() else root.parent
        names_file = next(kinds["names"].file for kinds in found.values())
        shown, keep = locate_pictures(
            whole.names,
            [Path(pictures)] if pictures is not None else [folder, folder / "images"],
            missing=missing,
            place_of=lambda position: (names_file, position + 1),
            problems=problems,
        )
    position = np.cumsum(keep) - 1
    rows = np.flatnonzero(keep)
    return Source(
        name=root.stem if root.is_file() else root.resolve().name,
        ids=_ids(whole.names, parts, order)[rows],
        pictures=shown,
        texts=tuple(whole.texts[row] for row in rows),
        bags=whole.bags if whole.bags is None else whole.bags[rows],
        labels=whole.labels[rows],
        label_names=tuple(map(str, range(whole.labels.shape[1]))),
        features=whole.features if whole.features is None else whole.features[rows],
        split=split and {name: position[mine[keep[mine]]] for name, mine in split.items()},
        files=tuple(sorted({s.file for kinds in found.values() for s in kinds.values()})),
        counts={"items": len(rows)}
        | {f"rows of {part}": len(mine.labels) for part, mine in parts.items() if part},
        skipped=tuple(problems.skipped),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    items: int | None
    axis: ItemAxis | None
    transposed: bool | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part:
    """The arrays of one split, or of the whole set, items first."""

    labels: NDArray[np.uint8]
    texts: list[str]
    bags: NDArray[np.uint8] | None
    features: NDArray[np.float32] | None
    names: list[str] | None
    pictures: "ArrayPictures | _Chosen | None"

    def keys(self) -> list[str]:
        """Return what identifies each item: its path, or a digest of all it has."""
        if self.names is not None:
            return self.names
        return [self._digest(row) for row in range(len(self.labels))]

    def _digest(self, row: int) -> str:
        digest = hashlib.blake2b(self.labels[row].tobytes(), digest_size=16)
        digest.update(self.texts[row].encode())
        for values in (self.bags, self.features):
            if values is not None:
                digest.update(values[row].tobytes())
        if self.pictures is not None:
            digest.update(self.pictures.array(row).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Chosen:
    """Pictures from several arrays, in a given order."""

    places: list[tuple[ArrayPictures, int]]

    def __len__(self) -> int:
        return len(self.places)

    def array(self, position: int) -> NDArray[np.uint8]:
        pictures, row = self.places[position]
        return pictures.array(row)

    def read(self, position: int) -> Image.Image:
        pictures, row = self.places[position]
        return pictures.read(row)


def _gather(root: Path) -> dict[str, dict[str, Stored]]:
    """Return the arrays by split ("" without splits) and by kind.

    Raises:
        DataError: no file, a kind twice, or files with and without splits.
    """
    if root.is_dir():
        files = [f for pattern in ("*", "*/*") for s in _SUFFIXES for f in root.glob(pattern + s)]
        captions = [file for file in (root / "caption.txt",) if file.is_file()]
    else:
        files, captions = [root], []
    if not all(file.is_file() for file in files) or not files:
        raise DataError(f"{root}: no such file, or a folder without {', '.join(_SUFFIXES)} files")
    arrays = [stored for file in sorted(files) for stored in open_arrays(file, _KEYS)]
    arrays += [_of_lines(file) for file in captions]
    found: dict[str, dict[str, Stored]] = {}
    for stored in arrays:
        part, role = _PLACE_OF[stored.key.casefold()]
        kinds = found.setdefault(part, {})
        kind = _kind(role, stored)
        if kind in kinds:
            raise DataError(
                f"{root}: both {kinds[kind]} and {stored} hold {kind}; give the file itself, or a "
                "folder with one set"
            )
        kinds[kind] = stored
    if not found or ("" in found and len(found) > 1):
        state = "files with and without splits" if found else "no known array"
        raise DataError(
            f"{root}: {state} in {', '.join(f.name for f in sorted(files))}; known names are "
            f"{', '.join(sorted(_KEYS))}, in any case of letters"
        )
    return {part: found[part] for part in ("", *_PARTS) if part in found}


def _of_lines(file: Path) -> Stored:
    lines = np.array(read_lines(file), dtype=object)
    return Stored(
        file=file, key="caption", shape=lines.shape, strings=True, by_matlab=False, value=lines
    )


def _kind(role: str, stored: Stored) -> str:
    axes = len(stored.shape)
    if stored.strings and role != "label":
        return {"picture": "names", "text": "captions"}[role]
    if role == "picture" and axes == 4:
        return "pictures"
    if axes == 2:
        return {"picture": "features", "text": "bag", "label": "label"}[role]
    raise DataError(
        f"{stored}: a {role} must have 2 axes{' (features), 4' * (role == 'picture')}"
        f"{' or be strings' * (role != 'label')}"
    )


def _read_part(kinds: Mapping[str, Stored], options: _Options) -> _Part:
    for wanted in (("label",), ("bag", "captions"), ("pictures", "features", "names")):
        if not kinds.keys() & set(wanted):
            raise DataError(
                f"no {' or '.join(wanted)} found, only {', '.join(map(str, kinds.values()))}"
            )
    n = count_items(kinds, options.items)
    axis = {kind: item_axis_of(stored, n, options.axis) for kind, stored in kinds.items()}
    logger.info(
        "%d items: %s", n, ", ".join(f"axis {axis[kind]} of {s}" for kind, s in kinds.items())
    )

    def bits(kind: str, *, counts_allowed: bool) -> NDArray[np.uint8] | None:
        if kind not in kinds:
            return None
        return read_bit_rows(kinds[kind], axis[kind], counts_allowed=counts_allowed)

    def strings(kind: str, *, joint: str) -> list[str] | None:
        return read_strings(kinds[kind], axis[kind], joint=joint) if kind in kinds else None

    labels = bits("label", counts_allowed=False)
    assert labels is not None
    return _Part(
        labels=labels,
        texts=strings("captions", joint="\n") or [""] * n,
        bags=bits("bag", counts_allowed=True),
        features=read_float_rows(kinds["features"], axis["features"])
        if "features" in kinds
        else None,
        names=strings("names", joint="/"),
        pictures=ArrayPictures(kinds["pictures"], axis["pictures"], transposed=options.transposed)
        if "pictures" in kinds
        else None,
    )


def _select(parts: Mapping[str, _Part], order: list[tuple[str, int]]) -> _Part:
    """Join the rows of several splits into one part, in the given order."""
    if "" in parts:
        return parts[""]
    first = next(iter(parts.values()))

    def rows(values: Mapping[str, NDArray[_T]]) -> NDArray[_T]:
        widths = {name: mine.shape[1] for name, mine in values.items()}
        if len(set(widths.values())) > 1:
            raise DataError(f"the splits have different numbers of columns: {widths}")
        return np.stack([values[name][row] for name, row in order])

    bags = {name: mine.bags for name, mine in parts.items() if mine.bags is not None}
    features = {name: mine.features for name, mine in parts.items() if mine.features is not None}
    names = {name: mine.names for name, mine in parts.items() if mine.names is not None}
    arrays = {
        name: mine.pictures
        for name, mine in parts.items()
        if isinstance(mine.pictures, ArrayPictures)
    }
    for values in (bags, features, names, arrays):
        if values and len(values) < len(parts):
            raise DataError(f"only the splits {', '.join(values)} have all arrays")
    return _Part(
        labels=rows({name: mine.labels for name, mine in parts.items()}),
        texts=[parts[name].texts[row] for name, row in order],
        bags=None if first.bags is None else rows(bags),
        features=None if first.features is None else rows(features),
        names=None if first.names is None else [names[name][row] for name, row in order],
        pictures=None
        if first.pictures is None
        else _Chosen(places=[(arrays[name], row) for name, row in order]),
    )


def _ids(
    names: list[str] | None, parts: Mapping[str, _Part], order: list[tuple[str, int]]
) -> NDArray[np.int64]:
    """Return the numbers in names like im12.jpg if all differ, else the rows of all splits."""
    if names is not None:
        matches = [_NUMBER.fullmatch(name) for name in names]
        numbers = {int(match[1]) for match in matches if match}
        if len(numbers) == len(names):
            return np.array([int(match[1]) for match in matches if match], dtype=np.int64)
    starts, total = {}, 0
    for part, mine in parts.items():
        starts[part], total = total, total + len(mine.labels)
    return np.array([starts[part] + row for part, row in order], dtype=np.int64)
