"""Arrays in .mat (v5 and v7.3) and .h5 files, and which of their axes counts the items.

MATLAB stores arrays in column order. scipy (v5 files) shows them as MATLAB does; h5py (v7.3 files)
shows the axes reversed. Key names do not tell which one a file has, so the axis of the items is
found by matching sizes between arrays that must have equally many items.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hamward.errors import DataError
from hamward.process import optional_module

__all__ = [
    "ItemAxis",
    "Stored",
    "count_items",
    "item_axis_of",
    "open_arrays",
    "read_bit_rows",
    "read_float_rows",
    "read_strings",
]

ItemAxis = Literal["first", "last"]
_BLOCK = 1 << 26  # bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stored:
    """An array in a file.

    Attributes:
        file: The file.
        key: Its name there.
        shape: Its shape as the library shows it.
        strings: Whether it holds strings.
        by_matlab: Whether MATLAB wrote it as v7.3, so that the axes are reversed.
        value: The array itself for v5 files; None for HDF5, which is read in parts.
    """

    file: Path
    key: str
    shape: tuple[int, ...]
    strings: bool
    by_matlab: bool
    value: Any = None

    def __str__(self) -> str:
        return f"{self.file.name}:{self.key} {self.shape}"

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (start, part) along the first axis, each part of limited size."""
        width = max(1, int(np.prod(self.shape[1:], dtype=np.int64)) * 8)
        step = max(1, _BLOCK // width)
        for start in range(0, self.shape[0], step):
            yield start, self.part((slice(start, start + step),))

    def part(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """Read a part.

        Raises:
            DataError: the file is damaged.
        """
        if self.value is not None:
            return np.asarray(self.value[index])
        try:
            with optional_module("h5py", extra="data").File(self.file, "r") as file:
                return np.asarray(file[self.key][index])
        except (OSError, KeyError) as error:
            raise DataError(f"{self.file}: cannot read {self.key} ({error})") from error


def open_arrays(file: Path, keys: frozenset[str]) -> list[Stored]:
    """Open the arrays whose name, in any case of letters, is in `keys`.

    Raises:
        DataError: the file is neither a MATLAB nor an HDF5 file, or is damaged.
        ConfigError: scipy or h5py is not installed.
    """
    h5py = optional_module("h5py", extra="data")
    try:
        if h5py.is_hdf5(file):
            with h5py.File(file, "r") as content:
                found = [
                    _of_dataset(file, key, content[key])
                    for key in content
                    if key.casefold() in keys and isinstance(content[key], h5py.Dataset)
                ]
            return found
        with file.open("rb") as stream:
            if b"MATLAB" not in stream.read(116):
                raise DataError(f"{file}: neither a MATLAB v5 file nor HDF5; truncated or renamed?")
        scipy_io = optional_module("scipy.io", extra="data")
        names = [name for name, _, _ in scipy_io.whosmat(file) if name.casefold() in keys]
        values = scipy_io.loadmat(file, variable_names=names) if names else {}
    except DataError:
        raise
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise DataError(f"{file}: cannot be read ({error}); truncated?") from error
    return [_of_value(file, name, values[name]) for name in names]


def _of_dataset(file: Path, key: str, dataset: Any) -> Stored:
    kind = dataset.attrs.get("MATLAB_class", b"")
    if kind == b"char":
        raise DataError(
            f"{file}: {key} is a character matrix in a v7.3 file, which is not supported; save "
            "it as a cell array, or the file as v5"
        )
    return Stored(
        file=file,
        key=key,
        shape=tuple(int(size) for size in dataset.shape),
        strings=dataset.dtype.kind in "SO",
        by_matlab=bool(kind),
    )


def _of_value(file: Path, key: str, value: Any) -> Stored:
    if hasattr(value, "toarray"):  # sparse
        value = value.toarray()
    return Stored(
        file=file,
        key=key,
        shape=value.shape,
        strings=value.dtype.kind in "UO",
        by_matlab=False,
        value=value,
    )


def read_strings(stored: Stored, axis: int, *, joint: str) -> list[str]:
    """Read one string an item; what an item has several of is joined by `joint`.

    Raises:
        DataError: the file is damaged.
    """
    if stored.value is not None:
        return _joined(stored.value, axis, joint, _text)
    h5py = optional_module("h5py", extra="data")
    try:
        with h5py.File(stored.file, "r") as file:

            def text(cell: Any) -> str:
                if isinstance(cell, h5py.Reference):  # a cell array's cell: UTF-16 code units
                    units = np.asarray(file[cell][()]).ravel(order="C")
                    return "".join(map(chr, units)).strip()
                return _text(cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell)

            values = np.asarray(file[stored.key][()])
            return _joined(values, axis, joint, text)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{stored.file}: cannot read {stored.key} ({error})") from error


def _joined(values: NDArray[Any], axis: int, joint: str, text: Callable[[Any], str]) -> list[str]:
    rows = np.moveaxis(values, axis, 0)
    return [joint.join(map(text, row)) for row in rows.reshape(len(rows), -1)]


def _text(cell: Any) -> str:
    """Return a cell's string; several strings in one cell are one a line."""
    if isinstance(cell, str):
        return cell.strip()
    return "\n".join(_text(part) for part in np.asarray(cell).ravel())


def count_items(arrays: Mapping[str, Stored], items: int | None) -> int:
    """Return the one size above 1 that all arrays have.

    Args:
        arrays: At least two arrays by what they are, such as "labels".
        items: The number of items, to decide between several common sizes.

    Raises:
        DataError: no size is common to all, or several are and `items` is None.
    """
    shapes = ", ".join(f"{what}: {stored}" for what, stored in arrays.items())
    sizes = sorted(set.intersection(*(set(stored.shape) for stored in arrays.values())) - {1})
    if items is not None:
        if items not in sizes:
            raise DataError(f"items={items} is no axis of every array; {shapes}")
        return items
    if len(sizes) != 1:
        state = f"{sizes} are all possible" if sizes else "no size is common to all"
        raise DataError(
            f"cannot tell the number of items: {state}; {shapes}"
            + ("; state it with items=..." if sizes else "")
        )
    return sizes[0]


def item_axis_of(stored: Stored, items: int, axis: ItemAxis | None) -> int:
    """Return the axis that counts the items.

    Raises:
        DataError: several axes have that size and `axis` is None.
    """
    fitting = [i for i, size in enumerate(stored.shape) if size == items]
    ends = {"first": 0, "last": len(stored.shape) - 1}
    if len(fitting) > 1 and axis is not None and ends[axis] in fitting:
        return ends[axis]
    if len(fitting) != 1:
        raise DataError(
            f"{stored}: cannot tell which axis counts the {items} items; state it with "
            "item_axis='first' or 'last' (as the file's library shows it)"
        )
    return fitting[0]


def read_bit_rows(stored: Stored, axis: int, *, counts_allowed: bool) -> NDArray[np.uint8]:
    """Read a 0/1 matrix as uint8 (items, columns).

    Args:
        stored: The matrix, of any numeric type.
        axis: Axis of the items.
        counts_allowed: Whether whole numbers above 1 (word counts) become 1.

    Raises:
        DataError: other values; the message names the first.
    """
    bits = np.empty(stored.shape, np.uint8)
    for start, block in stored.blocks():
        fine = (block == 0) | (block == 1)
        if counts_allowed:
            with np.errstate(invalid="ignore"):
                fine |= (block > 1) & (block == np.floor(block))
        if not fine.all():
            at = np.argwhere(~fine)[0]
            value = block[tuple(at)]
            at[0] += start
            raise DataError(
                f"{stored}: expected 0 and 1{' or counts' * counts_allowed}, found {value} at "
                f"{tuple(map(int, at))}"
            )
        bits[start : start + len(block)] = block != 0
    return np.ascontiguousarray(np.moveaxis(bits, axis, 0))


def read_float_rows(stored: Stored, axis: int) -> NDArray[np.float32]:
    """Read a matrix of numbers as float32 (items, columns).

    Raises:
        DataError: a value is not finite.
    """
    values = np.empty(stored.shape, np.float32)
    for start, block in stored.blocks():
        values[start : start + len(block)] = block
    if not np.isfinite(values).all():
        raise DataError(f"{stored}: holds values that are not finite")
    return np.ascontiguousarray(np.moveaxis(values, axis, 0))
