"""Pictures named in a list: which folder they are in, and which of them are missing."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hamward.data.readers.lines import Problems, check_choice
from hamward.data.source import PictureFiles
from hamward.errors import DataError

__all__ = ["Missing", "locate_pictures"]

Missing = Literal["error", "skip", "text-only"]
_SAMPLE = 50


def locate_pictures(
    names: Sequence[str],
    folders: Sequence[Path],
    *,
    missing: Missing,
    place_of: Callable[[int], tuple[Path, int | None]],
    problems: Problems,
) -> tuple[PictureFiles | None, NDArray[np.bool_]]:
    r"""Find pictures by the names that somebody else's machine gave them.

    Names may use backslashes and may begin with folders of another machine. How many leading
    parts to drop, and in which folder to look, is decided once for all names: what finds most
    of a sample.

    Args:
        names: One a picture, such as `actor\0001_2124494179.jpg`.
        folders: Folders to look in.
        missing: "error" stops, "skip" leaves items without a picture out, "text-only" does not
            look at all.
        place_of: File and line that hold the name of a position, for messages.
        problems: Where what is left out is noted; its `skip_bad` makes "error" mean "skip".

    Returns:
        The pictures that are kept (None for "text-only"), and which items are kept, (n,).

    Raises:
        DataError: pictures are missing and `missing` is "error".
    """
    check_choice("missing", missing, Missing)
    keep = np.ones(len(names), np.bool_)
    if missing == "text-only":
        return None, keep
    parts = [PurePosixPath(name.strip().replace("\\", "/")).parts for name in names]
    folder, drop = _best_place(parts, folders)
    files = [str(folder.joinpath(*(mine[drop:] or mine[-1:]))) for mine in parts]
    listed: dict[str, frozenset[str]] = {}
    for position, file in enumerate(files):
        parent, name = os.path.split(file)
        if parent not in listed:
            listed[parent] = _names_in(parent)
        keep[position] = name in listed[parent]
    lost = np.flatnonzero(~keep)
    listing, line = place_of(int(lost[0])) if lost.size else (Path(), None)
    if lost.size and missing == "error" and not problems.skip_bad:
        place = f"{listing}:{line}" if line is not None else str(listing)
        raise DataError(
            f"{lost.size:,} of {len(names):,} pictures are missing, the first is "
            f"{names[lost[0]].strip()!r} ({place}), looked for as "
            f"{files[lost[0]]}; give the folder of the pictures (pictures=...), or leave items "
            "without one out (missing='skip'), or use texts and labels alone "
            "(missing='text-only')"
        )
    if lost.size == len(names) > 0:
        raise DataError(
            f"none of the {len(names):,} pictures listed in {listing} is in "
            f"{' or '.join(map(str, folders))}; give the folder (pictures=...), or use texts and "
            "labels alone (missing='text-only')"
        )
    for at in map(int, lost):
        problems.note(*place_of(at), f"picture {files[at]} is missing")
    return PictureFiles(files=tuple(Path(files[i]) for i in np.flatnonzero(keep))), keep


def _best_place(parts: Sequence[tuple[str, ...]], folders: Sequence[Path]) -> tuple[Path, int]:
    """Return the folder, and how many leading parts to drop, that find most of a sample."""
    sample = parts[:: max(1, len(parts) // _SAMPLE)]
    best, most = (folders[0], 0), 0
    for folder in folders:
        for drop in range(max(map(len, parts), default=1)):
            hits = sum(
                folder.joinpath(*mine[drop:]).is_file() for mine in sample if len(mine) > drop
            )
            if hits > most:
                best, most = (folder, drop), hits
    return best


def _names_in(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except OSError:
        return frozenset()
