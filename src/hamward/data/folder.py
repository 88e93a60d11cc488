"""Your own set: a folder of pictures and a table that names them."""

import difflib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hamward.data.rows import column_names, find_table, read_rows
from hamward.data.source import PictureFiles, Skipped, Source
from hamward.errors import ConfigError, DataError

__all__ = ["read_folder"]

log = logging.getLogger(__name__)

_USUAL: Mapping[str, tuple[str, ...]] = {
    "image": (
        "file", "filename", "file_name", "image", "image_file", "image_path", "path", "picture",
        "photo", "img",
    ),
    "text": (
        "caption", "captions", "text", "description", "title", "tags", "keywords", "words",
    ),
    "label": ("labels", "label", "categories", "category", "classes", "class"),
    "split": ("split", "set", "fold", "subset", "partition"),
    "group": ("group", "group_id", "groups", "cluster", "series"),
    "id": ("id", "item_id", "image_id"),
}  # fmt: skip
_REQUIRED = ("image", "text")
_WITHOUT = {
    "label": ", so relevance is own pair; methods that learn from labels need --label-column"
}
_SPLITS = {
    "query": "query",
    "test": "query",
    "database": "database",
    "gallery": "database",
    "retrieval": "database",
    "train": "train",
    "training": "train",
}


def read_folder(
    root: Path,
    *,
    table: str | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    id_column: str | None = None,
    separator: str = ";",
    label_names: str | None = None,
    skip_bad: bool = False,
) -> Source:
    """Read a folder of pictures with a CSV, TSV, JSON-lines or Parquet table.

    A row is an item: a picture file (relative to the folder), a text (caption or tags) and, if
    there are any, labels. Columns that are not named are found by their usual names; `notes` of
    the result says which were taken. Pictures are turned as their EXIF orientation says.

    Args:
        root: The folder.
        table: Table's file name; None if the folder holds just one.
        image_column: Column of file names.
        text_column: Column of captions or tags; a list in JSON or Parquet is joined.
        label_column: Column of labels, separated by `separator` or a list. Without it the source
            has no labels (C = 0) and relevance is own pair.
        split_column: Column that says query (or test), train (or training) or database (or
            gallery, retrieval); for protocol "file". Training items are searched too.
        group_column: Column whose equal values keep items on one side of every split.
        id_column: Column of ids, unique; whole numbers become the ids, else rows are numbered.
        separator: Between labels.
        label_names: File with the allowed labels, one a line, in column order; None takes what
            occurs, sorted.
        skip_bad: Leave bad rows out, listed in `skipped`, instead of refusing the set.

    Raises:
        DataError: something in the files does not fit; the message has file and line.
        ConfigError: the separator is empty.
    """
    if not separator:
        raise ConfigError("separator must not be empty")
    file = find_table(root) if table is None else root / table
    columns, notes = _columns(
        file,
        {
            "image": image_column,
            "text": text_column,
            "label": label_column,
            "split": split_column,
            "group": group_column,
            "id": id_column,
        },
    )
    reader = _Rows(
        root=root,
        table=file,
        columns=columns,
        separator=separator,
        allowed=_allowed_labels(root, label_names),
        skip_bad=skip_bad,
    )
    for line, row in read_rows(file):
        reader.take(line, row)
    if not reader.files:
        raise DataError(f"{file}: has no usable row ({len(reader.skipped)} were skipped)")
    return reader.source(notes)


def _columns(
    table: Path, given: Mapping[str, str | None]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return which column plays which part, and one sentence for each."""
    existing = column_names(table)
    lower = {name.lower(): name for name in existing}
    columns: dict[str, str] = {}
    notes = []
    for part, name in given.items():
        if name is not None and name not in existing:
            near = difflib.get_close_matches(name, existing, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise DataError(f"{table}: has no column {name!r}: {hint}it has {list(existing)}")
        usual = [lower[n] for n in _USUAL[part] if n in lower and lower[n] not in columns.values()]
        if name is None and not usual:
            if part in _REQUIRED:
                raise DataError(
                    f"{table}: no column for the {part}: it has {list(existing)}, usual names are "
                    f"{list(_USUAL[part])}: name it with --{part}-column"
                )
            notes.append(f"{part}: no column{_WITHOUT.get(part, '')}")
            continue
        columns[part] = name or usual[0]
        others = f" (also there: {', '.join(usual[1:])})" if name is None and usual[1:] else ""
        notes.append(f"{part}: column {columns[part]!r}{'' if name else ', guessed'}{others}")
    unused = [repr(name) for name in existing if name not in columns.values()]
    if unused:
        notes.append(f"not used: {', '.join(unused)}")
    for note in notes:
        log.info("%s: %s", table, note)
    return columns, tuple(notes)


def _allowed_labels(root: Path, label_names: str | None) -> tuple[str, ...] | None:
    if label_names is None:
        return None
    file = root / label_names
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names or len(set(names)) < len(names):
        raise DataError(f"{file}: must name each label once, one a line, got {len(names)} lines")
    return names


class _BadRowError(Exception):
    """A row that cannot be used."""


@dataclass(slots=True, kw_only=True)
class _Rows:
    """Collects items row by row."""

    root: Path
    table: Path
    columns: Mapping[str, str]
    separator: str
    allowed: tuple[str, ...] | None
    skip_bad: bool
    rows: int = 0
    files: list[Path] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    labels: list[list[str]] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    seen: dict[str, dict[str, int]] = field(default_factory=lambda: {"id": {}, "image": {}})
    listings: dict[Path, frozenset[str]] = field(default_factory=dict)

    def take(self, line: int, row: Mapping[str, Any]) -> None:
        """Add one row, or skip or refuse it."""
        number, self.rows = self.rows, self.rows + 1
        parts: dict[str, Callable[[Any, int], Any]] = {
            "image": self._image,
            "text": self._text,
            "label": self._label,
            "split": self._split,
            "group": self._group,
            "id": self._id,
        }
        try:
            found = {
                part: parts[part](row.get(column), line) for part, column in self.columns.items()
            }
        except _BadRowError as error:
            if not self.skip_bad:
                raise DataError(f"{self.table} line {line}: {error}") from error
            self.skipped.append(Skipped(file=str(self.table), line=line, reason=str(error)))
            return
        name, path = found.get("id", ""), found["image"]
        self.seen["image"][str(path)] = line
        if name:
            self.seen["id"][name] = line
        self.numbers.append(number)
        self.lines.append(line)
        self.files.append(path)
        self.names.append(name)
        self.texts.append(found["text"])
        self.labels.append(found.get("label", []))
        self.splits.append(found.get("split", ""))
        self.groups.append(found.get("group", ""))

    def source(self, notes: Sequence[str]) -> Source:
        """Return what was collected."""
        names = self.allowed or tuple(sorted({name for mine in self.labels for name in mine}))
        column = {name: i for i, name in enumerate(names)}
        labels = np.zeros((len(self.files), len(names)), dtype=np.uint8)
        for position, mine in enumerate(self.labels):
            labels[position, [column[name] for name in mine]] = 1
        extra = list(notes)
        alike = sorted(n for n in names if sum(n.casefold() == m.casefold() for m in names) > 1)
        if alike:
            extra.append(f"labels that differ in case only, kept apart: {', '.join(alike[:6])}")
        numbered = "id" in self.columns and all(_whole_number(name) for name in self.names)
        if "id" in self.columns and not numbered:
            extra.append("ids are not all whole numbers: items are numbered by row, from 0")
        groups = np.unique(self.groups, return_inverse=True)[1].astype(np.int64)
        ids = map(int, self.names) if numbered else self.numbers
        return Source(
            name=self.root.resolve().name,
            ids=np.array(list(ids), dtype=np.int64),
            pictures=PictureFiles(
                files=tuple(self.files),
                origins=tuple(f"{self.table.name} line {line}" for line in self.lines),
                upright=True,
            ),
            texts=tuple(self.texts),
            labels=labels,
            label_names=names,
            groups=groups if "group" in self.columns else None,
            split=self._positions() if "split" in self.columns else None,
            files=(self.table,),
            counts={
                "rows": self.rows,
                "items": len(self.files),
                "skipped": len(self.skipped),
                "labels": len(names),
            },
            notes=tuple(extra),
            skipped=tuple(self.skipped),
        )

    def _positions(self) -> dict[str, np.ndarray]:
        splits = np.array(self.splits)
        return {
            "query": np.flatnonzero(splits == "query"),
            "train": np.flatnonzero(splits == "train"),
            "database": np.flatnonzero(splits != "query"),
        }

    def _image(self, value: Any, line: int) -> Path:
        name = _string(value).replace("\\", "/")
        if not name:
            raise _BadRowError("no picture file is named")
        path = self.root / name
        before = self.seen["image"].get(str(path))
        if before is not None:
            raise _BadRowError(f"names {name!r}, as line {before} does: one row a picture")
        if os.path.basename(name) in self._listing(path.parent):  # much faster than asking for each
            return path
        if path.is_file():
            return path
        near = difflib.get_close_matches(
            path.name.lower(), {n.lower() for n in self._listing(path.parent)}, n=1
        )
        hint = next((n for n in self._listing(path.parent) if near and n.lower() == near[0]), None)
        raise _BadRowError(
            f"{path}: no such file" + (f" (there is {hint!r})" if hint is not None else "")
        )

    def _listing(self, folder: Path) -> frozenset[str]:
        if folder not in self.listings:
            found = (e.name for e in os.scandir(folder) if e.is_file()) if folder.is_dir() else ()
            self.listings[folder] = frozenset(found)
        return self.listings[folder]

    def _text(self, value: Any, line: int) -> str:
        text = " ".join(map(_string, value)) if isinstance(value, list) else _string(value)
        if not text:
            raise _BadRowError(f"column {self.columns['text']!r} is empty, a text is needed")
        return text

    def _label(self, value: Any, line: int) -> list[str]:
        pieces = value if isinstance(value, list) else _string(value).split(self.separator)
        names = list(dict.fromkeys(filter(None, map(_string, pieces))))
        if not names:
            raise _BadRowError(
                f"column {self.columns['label']!r} holds no label, at least one is needed"
            )
        for name in names if self.allowed is not None else ():
            if name not in (self.allowed or ()):
                near = difflib.get_close_matches(name, self.allowed or (), n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise _BadRowError(
                    f"unknown label {name!r}: {hint}allowed: {', '.join(self.allowed or ())}"
                )
        return names

    def _split(self, value: Any, line: int) -> str:
        name = _string(value)
        if name.lower() not in _SPLITS:
            raise _BadRowError(f"unknown split {name!r}, allowed: {', '.join(_SPLITS)}")
        return _SPLITS[name.lower()]

    def _group(self, value: Any, line: int) -> str:
        return _string(value) or f"\0line {line}"  # without a group: one of its own

    def _id(self, value: Any, line: int) -> str:
        name = _string(value)
        if not name:
            raise _BadRowError(f"column {self.columns['id']!r} is empty, an id is needed")
        before = self.seen["id"].get(name)
        if before is not None:
            raise _BadRowError(f"id {name!r} occurs before, on line {before}")
        return name


def _string(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _whole_number(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit() and abs(int(text)) < 2**62
