"""Rows of a table with the line each stands on: CSV, TSV, JSON lines or Parquet."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hamward.errors import DataError

__all__ = ["TABLE_SUFFIXES", "column_names", "find_table", "read_rows"]

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_DELIMITERS = ",;\t|"


def find_table(root: Path) -> Path:
    """Return the one table in a folder.

    Raises:
        DataError: the folder is not there, or it holds no table, or several.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    found = sorted(
        f
        for f in root.iterdir()
        if f.suffix.lower() in TABLE_SUFFIXES and not f.name.startswith(".")
    )
    if len(found) != 1:
        names = ", ".join(f.name for f in found) or "none"
        raise DataError(
            f"{root}: needs one table ({', '.join('*' + s for s in TABLE_SUFFIXES)}) beside the "
            f"pictures, found {names}: name it with --table"
        )
    return found[0]


def column_names(table: Path) -> tuple[str, ...]:
    """Return the columns of a table, in order.

    Raises:
        DataError: the file is missing, empty, of another kind, or names a column twice.
    """
    kind = table.suffix.lower()
    if kind not in TABLE_SUFFIXES:
        raise DataError(f"{table}: a table must end in {', '.join(TABLE_SUFFIXES)}")
    if not table.is_file():
        raise DataError(f"{table}: no such file")
    if kind == ".parquet":
        names = tuple(_parquet(table).schema_arrow.names)
    elif kind == ".jsonl":
        seen: dict[str, None] = {}
        for _, row in read_rows(table):
            seen.update(dict.fromkeys(row))
        names = tuple(seen)
    else:
        with table.open(encoding="utf-8-sig", newline="") as handle:
            names = tuple(_header(table, handle))
    if not names:
        raise DataError(f"{table}: is empty, the first line must name the columns")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{table}: names columns twice: {twice}")
    return names


def read_rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, row) of a table; a CSV row that spans lines stands on its first.

    For Parquet the line is the row's number from 1.

    Raises:
        DataError: the file is not what its name says; the message has the line.
    """
    kind = table.suffix.lower()
    if kind == ".parquet":
        yield from _parquet_rows(table)
        return
    rows = _json_rows(table) if kind == ".jsonl" else _csv_rows(table)
    try:
        yield from rows
    except UnicodeDecodeError as error:
        raise DataError(
            f"{table}: is not UTF-8 ({error.reason} after byte {error.start} of a block): save it "
            "as UTF-8"
        ) from error


def _csv_rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with table.open(encoding="utf-8-sig", newline="") as handle:
        names = _header(table, handle)
        handle.seek(0)
        reader = csv.reader(handle, delimiter=_delimiter(table, handle), strict=True)
        handle.seek(0)
        line = 1
        try:
            next(reader)
            line = reader.line_num + 1
            for cells in reader:
                if cells and len(cells) != len(names):
                    raise DataError(
                        f"{table} line {line}: has {len(cells)} cells, the header {len(names)}: "
                        'put text with separators or line breaks in "quotes" and double a quote '
                        "inside"
                    )
                if cells:
                    yield line, dict(zip(names, cells, strict=True))
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{table} line {line}: not valid CSV ({error}); a quote may be missing in the row "
                "that starts there"
            ) from error


def _header(table: Path, handle: Any) -> Sequence[str]:
    try:
        reader = csv.reader(handle, delimiter=_delimiter(table, handle), strict=True)
        handle.seek(0)
        return [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise DataError(f"{table} line 1: not valid CSV ({error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: is not UTF-8 ({error.reason}): save it as UTF-8") from error


def _delimiter(table: Path, handle: Any) -> str:
    """Guess from the header, where no caption can mislead."""
    if table.suffix.lower() == ".tsv":
        return "\t"
    header = handle.readline()
    return max(_DELIMITERS, key=header.count)


def _json_rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with table.open(encoding="utf-8-sig") as handle:
        for line, text in enumerate(handle, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except ValueError as error:
                raise DataError(f"{table} line {line}: not valid JSON ({error})") from error
            if not isinstance(row, dict):
                raise DataError(
                    f"{table} line {line}: must be an object such as "
                    f'{{"file": "a.jpg", ...}}, got {text.strip()[:40]!r}'
                )
            yield line, row


def _parquet(table: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(table)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{table}: not a readable Parquet table ({error})") from error


def _parquet_rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    line = 0
    for batch in _parquet(table).iter_batches():
        for row in batch.to_pylist():
            line += 1
            yield line, row
