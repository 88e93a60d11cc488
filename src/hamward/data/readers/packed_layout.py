"""Which arrays a packed file holds, by name, and how they lie, by size.

A key says *what* an array is, never how it lies: two files in circulation have one key with its
axes in two orders.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hamward.data.readers.arrays import ItemAxis, Stored, count_items, item_axis_of, open_arrays
from hamward.data.readers.lines import read_lines
from hamward.errors import DataError

__all__ = ["gather", "item_axes"]

logger = logging.getLogger(__name__)

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


def gather(root: Path) -> dict[str, dict[str, Stored]]:
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


def item_axes(
    found: Mapping[str, Mapping[str, Stored]], *, items: int | None, axis: ItemAxis | None
) -> dict[str, dict[str, int]]:
    """Return the items' axis of every array.

    An array of one split in which several axes fit (2,000 queries with 2,000 words) lies as the
    same array of the other splits does.

    Args:
        found: What `gather` returned.
        items: The number of items, if stated.
        axis: The axis, if stated, for arrays in which several fit.

    Raises:
        DataError: arrays are missing, or their sizes leave a choice that was not stated.
    """
    axes: dict[str, dict[str, int]] = {}
    unclear = []
    for part, kinds in found.items():
        for wanted in (("label",), ("bag", "captions"), ("pictures", "features", "names")):
            if not kinds.keys() & set(wanted):
                raise DataError(
                    f"no {' or '.join(wanted)} found, only {', '.join(map(str, kinds.values()))}"
                )
        n = count_items(kinds, items)
        axes[part] = {}
        for kind, stored in kinds.items():
            if stored.shape.count(n) == 1:
                axes[part][kind] = stored.shape.index(n)
            else:
                unclear.append((part, kind, n))
    for part, kind, n in unclear:
        others = {axes[other][kind] for other in found if kind in axes[other]}
        stored = found[part][kind]
        if axis is None and len(others) == 1 and stored.shape[min(others)] == n:
            axes[part][kind] = min(others)
        else:
            axes[part][kind] = item_axis_of(stored, n, axis)
    for part, kinds in found.items():
        shown = ", ".join(f"axis {axes[part][kind]} of {s}" for kind, s in kinds.items())
        logger.info("items of %s lie along %s", part or "the set", shown)
    return axes
