"""What a reader found in somebody's files, before any rule of ours is applied."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hamward.data.pictures import open_picture
from hamward.errors import DataError

__all__ = ["PictureFiles", "Pictures", "Skipped", "Source"]


class Pictures(Protocol):
    """Pictures of a source, read one at a time and only when asked for; thread-safe."""

    def __len__(self) -> int:
        """Number of items."""
        ...

    def read(self, position: int) -> Image.Image:
        """Return a picture as RGB in its own size.

        Raises:
            DataError: the file is missing or not a picture; the message names it.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Something that was left out, and why.

    Attributes:
        file: File that holds it.
        line: Line or row, from 1, or None.
        reason: One sentence.
    """

    file: str
    line: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """Items as a reader found them.

    Attributes:
        name: Name of the set.
        ids: int64 (n,), unique, from the source's own numbering where it has one.
        pictures: The n pictures, or None (text-only or feature-only use).
        texts: n raw strings, all empty for pictures with labels alone.
        bags: uint8 (n, D), when the source defines a bag of words of its own; else None and the
            vocabulary is built from `texts` of the training items.
        words: The D words of `bags`, or None.
        labels: uint8 (n, C); C is 0 for data without labels (relevance is own pair).
        label_names: C names.
        groups: int64 (n,), or None.
        features: float32 (n, F) picture features, when the source has them instead of pictures.
        split: Positions by split name ("query", "train", "database"), when the source fixes it.
        files: Files that were read, for the manifest.
        counts: Counts worth printing, such as items kept against the published number.
        notes: Choices worth showing, such as which column holds the text.
        skipped: What was left out.
    """

    name: str
    ids: NDArray[np.int64]
    pictures: Pictures | None
    texts: tuple[str, ...]
    bags: NDArray[np.uint8] | None = None
    words: tuple[str, ...] | None = None
    labels: NDArray[np.uint8]
    label_names: tuple[str, ...]
    groups: NDArray[np.int64] | None = None
    features: NDArray[np.float32] | None = None
    split: Mapping[str, NDArray[np.int64]] | None = None
    files: tuple[Path, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFiles:
    """Pictures as files on disk.

    Attributes:
        files: One path an item.
        origins: Where each file is named ("captions.csv line 7"), for messages, or None.
        upright: Turn pictures as their EXIF orientation says. Off for the sets of papers, whose
            code reads pixels as stored.
    """

    files: tuple[Path, ...]
    origins: tuple[str, ...] | None = None
    upright: bool = False

    def __len__(self) -> int:
        return len(self.files)

    def read(self, position: int) -> Image.Image:
        """Open and decode a file as RGB in its own size."""
        return self.decode(position, self.content(position))

    def content(self, position: int) -> bytes:
        """Return the bytes of a file.

        Raises:
            DataError: it is missing or cannot be read.
        """
        try:
            return self.files[position].read_bytes()
        except OSError as error:
            raise DataError(
                f"{self._where(position)}: cannot be read ({error.strerror})"
            ) from error

    def decode(self, position: int, content: bytes, *, at_least: int = 0) -> Image.Image:
        """Decode a file's bytes as RGB; see `open_picture`.

        Raises:
            DataError: not a picture, or a damaged one.
        """
        try:
            return open_picture(content, at_least=at_least, upright=self.upright)
        except DataError as error:
            raise DataError(f"{self._where(position)}: {error}") from error

    def _where(self, position: int) -> str:
        named = "" if self.origins is None else f" (named in {self.origins[position]})"
        return f"{self.files[position]}{named}"
