"""MIRFlickr-25K from its two archives."""

import re
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hamward.data.readers.lines import Problems, check_choice, find, read_integers, read_lines
from hamward.data.source import PictureFiles, Source
from hamward.errors import DataError

__all__ = ["read_mirflickr"]

Rule = Literal["tag-and-label", "label", "all"]
TextFiles = Literal["tags", "tags_raw"]
_USUAL = {"tag-and-label": 20_015, "label": 24_581, "all": 25_000}
_ANNOTATIONS = ("annotations", "mirflickr25k_annotations_v080", "annotations_v080")


def read_mirflickr(
    root: Path,
    *,
    skip_bad: bool = False,
    rule: Rule = "tag-and-label",
    relevant_labels: bool = False,
    texts: TextFiles = "tags",
    annotations: Path | None = None,
) -> Source:
    """Read `mirflickr25k.zip` and `mirflickr25k_annotations_v080.zip`, both unpacked.

    Layout: mirflickr/im1.jpg .., mirflickr/meta/tags/tags1.txt .. (one cleaned tag a line),
    mirflickr/doc/common_tags.txt (1,386 lines, tag and count), and the 38 annotation files (image
    numbers) in annotations/ or mirflickr25k_annotations_v080/ beside or inside mirflickr/.

    Items follow their number, not their name (im10 comes after im9); label columns follow the
    label's name. A bag holds the vocabulary tags, in the order of common_tags.txt.

    Differs: that "at least one vocabulary tag and one of the 24 labels" leaves the usual 20,015
    items is INFERRED (rule of a public converter); `counts` shows both numbers. So is that the
    vocabulary's order is the published bag's.

    Args:
        root: Folder that holds mirflickr/, or mirflickr/ itself.
        skip_bad: Leave out items with a missing or bad file instead of stopping.
        rule: "tag-and-label" keeps items with a vocabulary tag and a label, "label" those with a
            label (as CLIP-era code does), "all" every picture.
        relevant_labels: Also the 14 stricter `_r1` labels, 38 in all.
        texts: Raw strings from the cleaned "tags" or from "tags_raw", one space between tags.
        annotations: Folder of the annotation files, when it is elsewhere.

    Raises:
        DataError: files are missing, damaged or of another version.
        ConfigError: an unknown rule or kind of text.
    """
    check_choice("rule", rule, Rule)
    check_choice("texts", texts, TextFiles)
    root = Path(root).resolve()
    problems = Problems(skip_bad=skip_bad)
    tags_folder = find(root, ("mirflickr/meta/tags", "meta/tags"), what="MIRFlickr tags")
    base = tags_folder.parent.parent
    vocabulary = find(base, ("doc/common_tags.txt",), what="MIRFlickr vocabulary")
    if annotations is None:
        beside = (*_ANNOTATIONS, *(f"{base.name}/{name}" for name in _ANNOTATIONS))
        annotations = find(base.parent, beside, what="MIRFlickr annotations v080")
    label_files = _label_files(Path(annotations), relevant=relevant_labels)
    column = _read_vocabulary(vocabulary)

    pictures, tag_files = _numbered(base, "im*.jpg"), _numbered(tags_folder, "tags*.txt")
    known = sorted(pictures.keys() | tag_files.keys())
    if not known:
        raise DataError(f"{base} holds no pictures im1.jpg .. im25000.jpg")
    labels = _read_labels(label_files, known, problems)
    text_files = tag_files
    if texts == "tags_raw":
        raw = find(base, ("meta/tags_raw",), what="MIRFlickr raw tags")
        text_files = _numbered(raw, "tags*.txt")

    bags = np.zeros((len(known), len(column)), np.uint8)
    strings = [""] * len(known)
    complete = np.ones(len(known), np.bool_)
    for row, number in enumerate(known):
        for kind, files, folder, name in (
            ("picture", pictures, base, f"im{number}.jpg"),
            ("tags", tag_files, tags_folder, f"tags{number}.txt"),
            ("text", text_files, tags_folder.parent / texts, f"tags{number}.txt"),
        ):
            if number not in files and complete[row]:
                complete[row] = False
                problems.report(folder / name, None, f"the {kind} of image {number} is missing")
        if not complete[row]:
            continue
        tags = _tags(tag_files[number])
        bags[row, [column[tag] for tag in tags if tag in column]] = 1
        strings[row] = " ".join(tags if texts == "tags" else _tags(text_files[number]))

    tagged, labeled = bags.any(axis=1), labels.any(axis=1)
    kept = complete & (labeled | (rule == "all")) & (tagged | (rule != "tag-and-label"))
    rows = np.flatnonzero(kept)
    return Source(
        name="mirflickr",
        ids=np.array([known[row] for row in rows], dtype=np.int64),
        pictures=PictureFiles(files=tuple(pictures[known[row]] for row in rows)),
        texts=tuple(strings[row] for row in rows),
        bags=bags[rows],
        words=tuple(column),
        labels=labels[rows],
        label_names=tuple(file.stem for file in label_files),
        files=(vocabulary, *label_files),
        counts={
            "items": len(rows),
            "items usually reported": _USUAL[rule],
            "pictures": len(pictures),
            "pictures usually reported": 25_000,
            "words": len(column),
            "words usually reported": 1_386,
            "without vocabulary tag": int((complete & ~tagged).sum()),
            "without label": int((complete & ~labeled).sum()),
        },
        skipped=tuple(problems.skipped),
    )


def _label_files(folder: Path, *, relevant: bool) -> list[Path]:
    """Return the label files by name; a folder's own order differs between machines."""
    files = sorted(
        (f for f in folder.glob("*.txt") if f.stem.casefold() != "readme"), key=lambda f: f.stem
    )
    general = [file for file in files if not file.stem.endswith("_r1")]
    if (len(general), len(files)) != (24, 38):
        raise DataError(
            f"{folder} holds {len(general)} label files and {len(files) - len(general)} *_r1 "
            "files; annotations v080 have 24 and 14 (and a README.txt). Another version? Unpack "
            "mirflickr25k_annotations_v080.zip"
        )
    return files if relevant else general


def _read_vocabulary(file: Path) -> dict[str, int]:
    column: dict[str, int] = {}
    for line, text in enumerate(read_lines(file), start=1):
        tag = text.split()[0] if text.strip() else ""
        if tag in column:
            raise DataError(f"{file}:{line}: tag {tag!r} is listed twice")
        if tag:
            column[tag] = len(column)
    if not column:
        raise DataError(f"{file} is empty; it must list 1,386 tags with their counts")
    return column


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    """Return files by the number in their name."""
    name = re.compile(pattern.replace(".", r"\.").replace("*", r"(\d+)"))
    found = ((name.fullmatch(file.name), file) for file in folder.iterdir())
    return {int(match[1]): file for match, file in found if match}


def _read_labels(files: list[Path], known: list[int], problems: Problems) -> NDArray[np.uint8]:
    row_of = {number: row for row, number in enumerate(known)}
    labels = np.zeros((len(known), len(files)), np.uint8)
    for column, file in enumerate(files):
        for line, number in read_integers(file, problems):
            if number in row_of:
                labels[row_of[number], column] = 1
            else:
                problems.report(
                    file,
                    line,
                    f"image {number} does not exist; the archive holds {known[0]}..{known[-1]}",
                )
    return labels


def _tags(file: Path) -> list[str]:
    return [tag.strip() for tag in read_lines(file) if tag.strip()]
