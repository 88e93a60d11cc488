"""Adversarial items as files: lossless PNG with an index, read back for the score.

The folder is one of pictures with a table, as `hamward data prepare folder` reads it.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hamward.artifacts import write_atomically
from hamward.data import RetrievalData
from hamward.data.pictures import JPEG_QUALITIES
from hamward.data.words import bag_blocks, tokens
from hamward.errors import ArtifactError, ConfigError

__all__ = [
    "check_transform",
    "edited_texts",
    "read_pictures",
    "read_texts",
    "write_pictures",
]

_JPEG = re.compile(r"jpeg-(\d{1,3})")


def write_pictures(
    folder: Path,
    stored: Float[Tensor, "n 3 h w"],
    data: RetrievalData,
    ids: Tensor,
    *,
    texts: Sequence[str] | None = None,
) -> None:
    """Write one PNG per item, named by its id, and then index.csv: id, file, text, labels.

    Data without labels get no such column.

    Args:
        folder: Where to; existing pictures of the same items are replaced.
        stored: Pictures on the 8-bit grid, in [0, 1].
        data: Texts and label names of the items.
        ids: Ids of the items, (n,).
        texts: Texts of the items, where an attack has edited them.
    """
    levels = torch.round(stored * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    places = _places(data, ids)
    texts = [data.texts[int(place)] for place in places] if texts is None else texts
    rows = [("id", "file", "text", "labels")]
    for pixels, item, text, row in zip(
        levels, ids.tolist(), texts, data.labels[places] > 0, strict=True
    ):
        name = f"{item}.png"
        image = Image.fromarray(pixels)
        write_atomically(folder / name, lambda part, image=image: image.save(part, "PNG"))  # type: ignore[misc]
        names = ";".join(data.label_names[i] for i in np.flatnonzero(row))
        rows.append((str(item), name, text, names))

    def fill(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="") as lines:
            csv.writer(lines).writerows(row if data.label_names else row[:3] for row in rows)

    write_atomically(folder / "index.csv", fill)


def edited_texts(data: RetrievalData, ids: Tensor, bags: Float[Tensor, "n d"]) -> list[str] | None:
    """Return the texts of items with the words of edited bags, as a person would type them.

    Words that were taken out are left out where they stood, words put in follow at the end, and
    words that the vocabulary lacks stay. None where a reader of the texts would find other
    words than the bags have, as with vocabularies of several words a tag.
    """
    made = []
    for place, bag in zip(_places(data, ids), bags > 0.5, strict=True):
        kept = {data.words[i] for i in np.flatnonzero(bag.cpu().numpy())}
        gone = {data.words[i] for i in np.flatnonzero(data.bags[int(place)])} - kept
        told = [word for word in tokens(data.texts[int(place)]) if word not in gone]
        made.append(" ".join([*told, *sorted(kept - set(told))]))
    return made if torch.equal(_bags(made, data.words), bags.cpu().float()) else None


def read_texts(folder: Path, ids: Tensor, words: Sequence[str]) -> Float[Tensor, "n d"]:
    """Read the texts of some items back as bags of words.

    Raises:
        ArtifactError: the index is missing or unreadable, or lacks an item.
    """
    texts = _column(folder, "text")
    missing = [item for item in ids.tolist() if item not in texts]
    if missing:
        raise ArtifactError(f"{folder / 'index.csv'}: the text of item {missing[0]} is missing")
    return _bags([texts[item] for item in ids.tolist()], words)


def _bags(texts: Sequence[str], words: Sequence[str]) -> Float[Tensor, "n d"]:
    blocks = [torch.from_numpy(block) for block in bag_blocks(texts, words)]
    return torch.cat(blocks).float() if blocks else torch.zeros(0, len(words))


def _places(data: RetrievalData, ids: Tensor) -> NDArray[np.int64]:
    order = np.argsort(data.ids, kind="stable")
    places: NDArray[np.int64] = order[np.searchsorted(data.ids[order], ids.numpy())]
    return places


def _column(folder: Path, name: str) -> dict[int, str]:
    index = folder / "index.csv"
    try:
        with index.open(encoding="utf-8", newline="") as lines:
            return {int(row["id"]): row[name] for row in csv.DictReader(lines)}
    except (OSError, KeyError, ValueError) as error:
        raise ArtifactError(f"{index}: not an index of adversarial pictures ({error})") from error


def read_pictures(folder: Path, ids: Tensor) -> Float[Tensor, "n 3 h w"]:
    """Read the pictures of some items back as a user of the folder would, in [0, 1].

    Raises:
        ArtifactError: the index or a picture is missing or unreadable.
    """
    files = _column(folder, "file")
    made = []
    for item in ids.tolist():
        try:
            with Image.open(folder / files[item]) as image:
                made.append(np.asarray(image.convert("RGB")))
        except (OSError, KeyError) as error:
            raise ArtifactError(f"{folder}: the picture of item {item} is missing") from error
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float() / 255


def check_transform(name: str) -> int:
    """Return the quality of a transform called "jpeg-QUALITY".

    Raises:
        ConfigError: no such transform, or a quality outside 1..95.
    """
    found = _JPEG.fullmatch(name)
    if found is None or int(found[1]) not in JPEG_QUALITIES:
        raise ConfigError(f"transforms are jpeg-1 to jpeg-95 (the quality), got {name!r}")
    return int(found[1])
