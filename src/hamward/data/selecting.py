"""Fewer items of a source."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hamward.data.source import PictureFiles, Pictures, Skipped, Source

__all__ = ["drop_items", "keep_items", "picture_name"]


def drop_items(source: Source, positions: NDArray[np.int64], reason: str) -> Source:
    """Leave items out, noted as skipped."""
    if not len(positions):
        return source
    skipped = tuple(
        Skipped(file=picture_name(source.pictures, i) or source.name, line=None,
                reason=f"item {source.ids[i]} {reason}")
        for i in positions.tolist()
    )  # fmt: skip
    kept = np.setdiff1d(np.arange(len(source.ids)), positions)
    return replace(keep_items(source, kept), skipped=(*source.skipped, *skipped))


def keep_items(source: Source, kept: NDArray[np.int64]) -> Source:
    """Return the source with only these items; its own split is renumbered."""
    pictures: Pictures | None = source.pictures
    if isinstance(pictures, PictureFiles):
        origins = pictures.origins
        pictures = replace(
            pictures,
            files=tuple(pictures.files[i] for i in kept),
            origins=None if origins is None else tuple(origins[i] for i in kept),
        )
    elif pictures is not None:
        pictures = _Chosen(pictures=pictures, kept=kept)
    split = source.split
    if split is not None:
        split = {k: np.flatnonzero(np.isin(kept, v)).astype(np.int64) for k, v in split.items()}
    return replace(
        source,
        ids=source.ids[kept],
        pictures=pictures,
        texts=tuple(source.texts[i] for i in kept),
        bags=None if source.bags is None else source.bags[kept],
        labels=source.labels[kept],
        groups=None if source.groups is None else source.groups[kept],
        features=None if source.features is None else source.features[kept],
        split=split,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """Some pictures of others."""

    pictures: Pictures
    kept: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.kept)

    def read(self, position: int) -> Image.Image:
        return self.pictures.read(int(self.kept[position]))


def picture_name(pictures: Pictures | None, position: int, base: str = "") -> str:
    """Return a picture's file, relative to `base` if given; empty if it is no file."""
    if not isinstance(pictures, PictureFiles):
        return ""
    file = pictures.files[position]
    return file.relative_to(base).as_posix() if base else str(file)
