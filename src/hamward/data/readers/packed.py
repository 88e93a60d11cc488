"""Packed files that circulate with released code: .mat v5, .mat v7.3 and .h5."""

import hashlib
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
    read_bit_rows,
    read_float_rows,
    read_strings,
)
from hamward.data.readers.fixed_split import merge_splits
from hamward.data.readers.lines import Problems, check_choice
from hamward.data.readers.located import Missing, locate_pictures
from hamward.data.readers.packed_layout import gather, item_axes
from hamward.data.source import Pictures, Source
from hamward.errors import ConfigError, DataError

__all__ = ["read_packed"]

_T = TypeVar("_T", bound=np.generic)

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
    found = gather(root)
    if items is not None and "" not in found:
        raise ConfigError("items can not be stated for files with splits, which differ in size")
    axes = item_axes(found, items=items, axis=item_axis)
    parts = {
        part: _read_part(kinds, axes[part], transposed=transposed) for part, kinds in found.items()
    }
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


def _read_part(
    kinds: Mapping[str, Stored], axis: Mapping[str, int], *, transposed: bool | None
) -> _Part:
    n = kinds["label"].shape[axis["label"]]

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
        pictures=ArrayPictures(
            kinds["pictures"],
            axis["pictures"],
            reversed_axes=_reversed_axes(kinds, axis),
            transposed=transposed,
        )
        if "pictures" in kinds
        else None,
    )


def _reversed_axes(kinds: Mapping[str, Stored], axis: Mapping[str, int]) -> bool:
    """Say whether the pictures' file shows MATLAB's axes in reverse.

    MATLAB marks what it writes; without its mark (a file that went through another program),
    labels (C, N) in the same HDF5 file say so: INFERRED.
    """
    pictures, label = kinds["pictures"], kinds["label"]
    together = pictures.file == label.file and pictures.value is None
    return pictures.by_matlab or (together and axis["label"] == 1)


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
