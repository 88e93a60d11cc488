"""Files of a prepared set, written in blocks and whole or not at all."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamward.artifacts import write_atomically
from hamward.data.prepared import array_file
from hamward.data.selecting import picture_name
from hamward.data.source import PictureFiles, Pictures, Skipped, Source

__all__ = ["compact_pictures", "write_array", "write_items", "write_skipped"]


def compact_pictures(file: Path, kept: NDArray[np.int64]) -> None:
    """Rewrite the pictures without the rows that stayed empty."""
    rows = np.load(file, mmap_mode="r")
    step = max(1, (32 << 20) // rows[0].nbytes)
    blocks = (rows[kept[s : s + step]] for s in range(0, len(kept), step))
    write_array(file.parent, "images", blocks, shape=(len(kept), *rows.shape[1:]))


def write_array(
    out: Path,
    name: str,
    blocks: Iterable[NDArray[Any]],
    *,
    shape: tuple[int, ...],
    dtype: str = "|u1",
) -> None:
    """Write an array block by block, atomically."""

    def write(part: Path) -> None:
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        with part.open("wb") as handle:
            np.lib.format.write_array_header_1_0(handle, header)
            for block in blocks:
                handle.write(np.ascontiguousarray(block, dtype=dtype).data)

    write_atomically(array_file(out, name), write)


def write_items(
    file: Path, source: Source, pictures: Pictures | None, hashes: Sequence[str]
) -> None:
    """Write text, picture file and its sha256 of every item as an Arrow file."""
    import pyarrow as pa

    schema = pa.schema([("text", pa.string()), ("picture", pa.string()), ("sha256", pa.string())])
    base = _common_folder(pictures)

    def batches() -> Iterator[Any]:
        for start in range(0, len(source.ids), 8192):
            rows = range(start, min(start + 8192, len(source.ids)))
            yield pa.record_batch(
                [
                    pa.array([source.texts[i] for i in rows], pa.string()),
                    pa.array([picture_name(pictures, i, base) for i in rows], pa.string()),
                    pa.array([hashes[i] for i in rows], pa.string()),
                ],
                schema=schema,
            )

    def write(part: Path) -> None:
        with part.open("wb") as handle, pa.ipc.new_file(handle, schema) as writer:
            for batch in batches():
                writer.write_batch(batch)

    write_atomically(file, write)


def _common_folder(pictures: Pictures | None) -> str:
    if not isinstance(pictures, PictureFiles):
        return ""
    return os.path.commonpath([str(file.parent) for file in pictures.files])


def write_skipped(file: Path, skipped: Sequence[Skipped]) -> None:
    """Write what was left out as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "line", "reason"])
    for item in skipped:
        writer.writerow([item.file, "" if item.line is None else item.line, item.reason])

    def write(part: Path) -> None:
        part.write_text(text.getvalue(), encoding="utf-8")

    write_atomically(file, write)
