"""Many pictures into one array file: on threads, in constant memory, chunk by chunk.

Rows are written with `pwrite`, not through a memory map: on a full disk that is an error with a
message, where a map would kill the process.
"""

import errno
import hashlib
import io
import json
import math
import os
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamward.data.pictures import square
from hamward.data.source import PictureFiles, Pictures
from hamward.errors import DataError
from hamward.progress import SILENT, Progress

__all__ = ["Decoded", "decode_pictures", "usable_threads"]

_CHUNK_BYTES = 8 << 20
_CHUNK_ROWS = 256
_JOB_ROWS = 16  # handing over single pictures costs threads more than a tenth of their time


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What decoding left besides the rows.

    Attributes:
        bad: Why each unreadable picture is unreadable, by position; its row is zero.
        hashes: sha256 of each picture file, n hexadecimal strings; empty without files.
    """

    bad: dict[int, str]
    hashes: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class _Chunk:
    number: int
    rows: range
    pixels: NDArray[np.uint8]
    jobs: list[Future[list[str | DataError]]]


def usable_threads() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def decode_pictures(
    pictures: Pictures,
    file: Path,
    *,
    side: int,
    journal: Path,
    skip_bad: bool = False,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Decoded:
    """Fill `file`, a .npy array uint8 (n, 3, side, side), and continue what the journal records.

    Args:
        pictures: The pictures.
        file: The array file.
        side: Side of the squares: the shorter side is resized to it, the middle is cut out.
        journal: One JSON line per finished chunk, with the crc32 of its rows; rows that no
            longer have it are decoded again.
        skip_bad: Go on at unreadable pictures instead of raising.
        threads: Decoding threads; default one per usable CPU.
        progress: Watches the chunks.

    Raises:
        DataError: a picture is unreadable and `skip_bad` is off; the chunks before are kept.
        OSError: the disk is full.
    """
    row_bytes = 3 * side * side
    rows = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // row_bytes))
    chunks = [range(s, min(s + rows, len(pictures))) for s in range(0, len(pictures), rows)]
    start = _reserve(file, (len(pictures), 3, side, side), journal=journal)
    handle = os.open(file, os.O_RDWR)
    try:
        done = _finished(journal, handle, chunks, start=start, row_bytes=row_bytes)
        todo = [number for number in range(len(chunks)) if number not in done]
        made = _decode_chunks(
            pictures,
            [(number, chunks[number]) for number in todo],
            side=side,
            threads=threads or usable_threads(),
            skip_bad=skip_bad,
        )
        with journal.open("a", encoding="utf-8") as log:
            for chunk, entry in progress.track(made, total=len(todo), label="decode pictures"):
                _write(handle, chunk.pixels, start + chunk.rows.start * row_bytes)
                log.write(json.dumps(entry) + "\n")
                log.flush()
                done[chunk.number] = entry
        os.fsync(handle)
    finally:
        os.close(handle)
    entries = [done[number] for number in range(len(chunks))]
    return Decoded(
        bad={position: reason for entry in entries for position, reason in entry["bad"]},
        hashes=tuple(name for entry in entries for name in entry["sha256"]),
    )


def _reserve(file: Path, shape: tuple[int, ...], *, journal: Path) -> int:
    """Make the file in its full size, or find it so; return where the rows start.

    Space is reserved where the system can, so that a disk too small is found before the work.
    """
    size = _header_size(shape) + math.prod(shape)
    if not journal.exists() or not file.exists() or file.stat().st_size != size:
        journal.unlink(missing_ok=True)  # what it records is no longer there
        np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape).flush()
    if hasattr(os, "posix_fallocate"):
        handle = os.open(file, os.O_RDWR)
        try:
            os.posix_fallocate(handle, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
        finally:
            os.close(handle)
    return _header_size(shape)


def _header_size(shape: tuple[int, ...]) -> int:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return header.tell()


def _finished(
    journal: Path, handle: int, chunks: list[range], *, start: int, row_bytes: int
) -> dict[int, dict[str, Any]]:
    """Return the journal's entries whose rows are still what was written."""
    done: dict[int, dict[str, Any]] = {}
    if not journal.exists():
        return done
    for line in journal.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            number, crc = entry["chunk"], entry["crc"]
            mine = chunks[number]
        except (ValueError, KeyError, IndexError, TypeError):
            continue  # the line that the kill tore
        content = os.pread(handle, len(mine) * row_bytes, start + mine.start * row_bytes)
        if zlib.crc32(content) == crc:
            done[number] = entry
    with journal.open("a", encoding="utf-8") as log:
        log.write("\n")  # ends a torn line
    return done


def _decode_chunks(
    pictures: Pictures,
    chunks: list[tuple[int, range]],
    *,
    side: int,
    threads: int,
    skip_bad: bool,
) -> Iterator[tuple[_Chunk, dict[str, Any]]]:
    """Yield finished chunks in order; the next one is being decoded meanwhile."""
    waiting: deque[_Chunk] = deque()
    pool = ThreadPoolExecutor(max_workers=threads)
    try:
        for number, rows in chunks:
            pixels = np.zeros((len(rows), 3, side, side), dtype=np.uint8)
            jobs = [
                pool.submit(_decode_some, pictures, rows[i : i + _JOB_ROWS], pixels[i:])
                for i in range(0, len(rows), _JOB_ROWS)
            ]
            waiting.append(_Chunk(number=number, rows=rows, pixels=pixels, jobs=jobs))
            if len(waiting) > 1:
                yield _collect(waiting.popleft(), skip_bad=skip_bad)
        while waiting:
            yield _collect(waiting.popleft(), skip_bad=skip_bad)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decode_some(
    pictures: Pictures, positions: range, rows: NDArray[np.uint8]
) -> list[str | DataError]:
    found: list[str | DataError] = []
    for position, row in zip(positions, rows, strict=False):
        try:
            found.append(_decode(pictures, position, row))
        except DataError as error:
            found.append(error)
    return found


def _decode(pictures: Pictures, position: int, row: NDArray[np.uint8]) -> str:
    """Fill a row; return the sha256 of the file, if it is one."""
    if not isinstance(pictures, PictureFiles):
        row[:] = square(pictures.read(position), len(row[0]))
        return ""
    content = pictures.content(position)
    row[:] = square(pictures.decode(position, content, at_least=len(row[0])), len(row[0]))
    return hashlib.sha256(content).hexdigest()


def _collect(chunk: _Chunk, *, skip_bad: bool) -> tuple[_Chunk, dict[str, Any]]:
    bad, hashes = [], []
    results = (result for job in chunk.jobs for result in job.result())
    for position, result in zip(chunk.rows, results, strict=True):
        if isinstance(result, DataError):
            if not skip_bad:
                raise result
            bad.append((position, str(result)))
        hashes.append("" if isinstance(result, DataError) else result)
    entry = {
        "chunk": chunk.number,
        "crc": zlib.crc32(chunk.pixels.data),
        "sha256": hashes,
        "bad": bad,
    }
    return chunk, entry


def _write(handle: int, pixels: NDArray[np.uint8], offset: int) -> None:
    content = pixels.reshape(-1).data
    while len(content):
        written = os.pwrite(handle, content, offset)
        content, offset = content[written:], offset + written
