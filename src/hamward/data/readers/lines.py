"""What all readers share: other people's text files, and what to do about a bad place in them."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from hamward.data.source import Skipped
from hamward.errors import ConfigError, DataError

__all__ = [
    "Problems",
    "check_choice",
    "find",
    "read_bits",
    "read_integers",
    "read_lines",
]

_CHUNK = 1 << 24
_SPACE, _DIGIT, _OTHER = 0, 1, 2
_KIND = np.full(256, _OTHER, np.uint8)
_KIND[[9, 10, 13, 32]] = _SPACE
_KIND[[48, 49]] = _DIGIT


class Problems:
    """Stops at the first bad place, or notes it and goes on.

    Attributes:
        skip_bad: Whether to go on.
        skipped: What was left out so far.
    """

    def __init__(self, *, skip_bad: bool) -> None:
        self.skip_bad = skip_bad
        self.skipped: list[Skipped] = []

    def report(self, file: Path, line: int | None, reason: str) -> None:
        """Raise, or with `skip_bad` note what is left out.

        Raises:
            DataError: `skip_bad` is off.
        """
        if not self.skip_bad:
            place = f"{file}:{line}" if line is not None else str(file)
            raise DataError(f"{place}: {reason} (skip_bad leaves such items out and lists them)")
        self.note(file, line, reason)

    def note(self, file: Path, line: int | None, reason: str) -> None:
        """Note what an option, not an error, left out."""
        self.skipped.append(Skipped(file=str(file), line=line, reason=reason))


def check_choice(name: str, value: object, choices: object) -> None:
    """Refuse a value that is none of the `Literal` type's.

    Raises:
        ConfigError: it is none of them.
    """
    allowed = get_args(choices)
    if value not in allowed:
        raise ConfigError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")


def find(root: Path, places: Sequence[str], *, what: str) -> Path:
    """Return the first place below `root` that exists, whatever the case of its letters.

    Raises:
        DataError: none exists; the message names the places and any unpacked archive.
    """
    for place in places:
        found: Path | None = root
        for part in Path(place).parts:
            found = _entry(found, part) if found is not None else None
        if found is not None:
            return found
    archives = sorted(file.name for file in root.glob("*.zip")) if root.is_dir() else []
    hint = f"; unpack {', '.join(archives)} first" if archives else ""
    raise DataError(f"{what}: none of {', '.join(places)} found in {root}{hint}")


def _entry(folder: Path, name: str) -> Path | None:
    if (folder / name).exists():
        return folder / name
    if not folder.is_dir():
        return None
    same = sorted(p for p in folder.iterdir() if p.name.casefold() == name.casefold())
    return same[0] if same else None


def read_lines(file: Path) -> list[str]:
    r"""Read lines that end in LF or CRLF; a missing last line end and a BOM do not matter.

    Bytes that are not UTF-8 become U+FFFD: old tag files mix encodings. Unlike `str.splitlines`,
    no other character ends a line, so that line numbers stay those of an editor.

    Raises:
        DataError: the file can not be read.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def read_integers(file: Path, problems: Problems) -> list[tuple[int, int]]:
    """Read one integer a line as (line, value), blank lines left out.

    Raises:
        DataError: a line holds something else.
    """
    found = []
    for line, text in enumerate(read_lines(file), start=1):
        if text.strip().isascii() and text.strip().isdigit():
            found.append((line, int(text)))
        elif text.strip():
            problems.report(file, line, f"expected one whole number, found {text[:40]!r}")
    return found


def read_bits(
    file: Path, *, rows: int, columns: int, keep: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Read a matrix of 0 and 1 written as text, in blocks, without making Python numbers.

    Args:
        file: Lines of `columns` values between spaces or tabs.
        rows: Number of lines it must have.
        columns: Values a line.
        keep: Rows to return, (rows,); all if None.

    Returns:
        uint8 (rows kept, columns).

    Raises:
        DataError: another number of lines, or a line with other values; the message names it.
    """
    if keep is None:
        keep = np.ones(rows, np.bool_)
    bits = np.empty((int(np.count_nonzero(keep)), columns), np.uint8)
    row = filled = 0
    rest = b""
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                block = rest + chunk
                filled_until = len(block[: block.rfind(b"\n") + 1].rstrip())
                if not filled_until:
                    rest = block
                    continue
                end = block.index(b"\n", filled_until) + 1
                rest = block[end:]  # blank lines at the end wait: they may be the file's last
                values = _parse(block[:end], columns, file=file, first=row)
                mine = values[keep[row : row + len(values)].nonzero()[0]]
                bits[filled : filled + len(mine)] = mine
                row, filled = row + len(values), filled + len(mine)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    if rest.strip():
        values = _parse(rest + b"\n", columns, file=file, first=row)
        if row < rows and keep[row]:
            bits[filled] = values[0]
        row += len(values)
    if row != rows:
        raise DataError(f"{file} has {row:,} rows, expected {rows:,}, one for each item")
    return bits


def _parse(block: bytes, columns: int, *, file: Path, first: int) -> NDArray[np.uint8]:
    """Parse whole lines."""
    data = np.frombuffer(block, np.uint8)
    if (fast := _parse_equal_lines(data, columns, length=block.index(b"\n") + 1)) is not None:
        return fast
    kind = _KIND[data]
    ends = np.flatnonzero(data == 10)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if kind.max() == _OTHER:
        at = int(np.argmax(kind == _OTHER))
        line = first + int(np.searchsorted(ends, at)) + 1
        raise DataError(f"{file}:{line}: only 0 and 1 are allowed, found {chr(data[at])!r}")
    both = kind[1:] & kind[:-1]
    if both.any():
        line = first + int(np.searchsorted(ends, int(np.argmax(both)))) + 1
        raise DataError(f"{file}:{line}: values must be single digits between spaces or tabs")
    counts = np.add.reduceat(kind, starts, dtype=np.int64)
    wrong = np.flatnonzero(counts != columns)
    if wrong.size:
        raise DataError(
            f"{file}:{first + int(wrong[0]) + 1}: expected {columns} values 0 or 1, "
            f"found {int(counts[wrong[0]])}"
        )
    values: NDArray[np.uint8] = data[kind == _DIGIT].reshape(-1, columns) - np.uint8(48)
    return values


def _parse_equal_lines(
    data: NDArray[np.uint8], columns: int, *, length: int
) -> NDArray[np.uint8] | None:
    """Parse lines that all look like the first but for their digits; None if they do not."""
    if length < 2 * columns or data.size % length:
        return None
    table = data.reshape(-1, length)
    digits, between, after = (
        table[:, 0 : 2 * columns : 2],
        table[:, 1 : 2 * columns : 2],
        table[:, 2 * columns :],
    )
    spaces = np.concatenate([between[0], after[0]])
    values: NDArray[np.uint8] = digits - np.uint8(48)  # wraps around below "0"
    if (
        values.max() <= 1
        and (_KIND[spaces] == _SPACE).all()
        and (between == between[0]).all()
        and (after == after[0]).all()
    ):
        return values
    return None
