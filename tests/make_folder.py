"""Folders as users have them: real JPEG files, a table, captions with quotes and line breaks."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

HEADER = ("file", "caption", "labels")
THINGS = ("dog", "cat", "tree", "car")


def write_picture(file: Path, seed: int, *, size: tuple[int, int] = (60, 40)) -> None:
    """A smooth random picture, so that JPEG keeps it."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize(size, Image.Resampling.BILINEAR).save(file, quality=90)


def write_csv(file: Path, rows: Sequence[Sequence[object]], header: Sequence[str] = HEADER) -> None:
    with file.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])


def make_rows(count: int) -> list[list[object]]:
    """Row i shows thing i % 4; every fifth shows the next one too."""
    rows: list[list[object]] = []
    for i in range(count):
        names = [THINGS[i % 4]] + ([THINGS[(i + 1) % 4]] if i % 5 == 0 else [])
        rows.append([f"{i}.jpg", f"a {' and a '.join(names)} seen", ";".join(names)])
    return rows


def make_folder(root: Path, count: int = 40, **options: object) -> Path:
    """`count` pictures and captions.csv."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        write_picture(root / f"{i}.jpg", i)
    write_csv(root / "captions.csv", make_rows(count))
    return root
