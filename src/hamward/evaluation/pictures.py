"""Adversarial pictures as files: lossless PNG with an index, read back for the score; JPEG."""

import csv
import io
import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hamward.artifacts import write_atomically
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError

__all__ = ["as_jpeg", "check_transform", "read_pictures", "write_pictures"]

_JPEG = re.compile(r"jpeg-(\d{1,3})")


def write_pictures(
    folder: Path, stored: Float[Tensor, "n 3 h w"], data: RetrievalData, ids: Tensor
) -> None:
    """Write one PNG per item, named by its id, and then index.csv: id, file, text, labels.

    Args:
        folder: Where to; existing pictures of the same items are replaced.
        stored: Pictures on the 8-bit grid, in [0, 1].
        data: Texts and label names of the items.
        ids: Ids of the items, (n,).
    """
    levels = torch.round(stored * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    rows = [("id", "file", "text", "labels")]
    order = np.argsort(data.ids, kind="stable")
    places = order[np.searchsorted(data.ids[order], ids.numpy())]
    labels = data.labels[places] > 0
    for pixels, item, place, row in zip(levels, ids.tolist(), places, labels, strict=True):
        name = f"{item}.png"
        image = Image.fromarray(pixels)
        write_atomically(folder / name, lambda part, image=image: image.save(part, "PNG"))  # type: ignore[misc]
        names = ";".join(data.label_names[i] for i in np.flatnonzero(row))
        rows.append((str(item), name, data.texts[int(place)], names))

    def fill(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="") as lines:
            csv.writer(lines).writerows(rows)

    write_atomically(folder / "index.csv", fill)


def read_pictures(folder: Path, ids: Tensor) -> Float[Tensor, "n 3 h w"]:
    """Read the pictures of some items back as a user of the folder would, in [0, 1].

    Raises:
        ArtifactError: the index or a picture is missing or unreadable.
    """
    index = folder / "index.csv"
    try:
        with index.open(encoding="utf-8", newline="") as lines:
            files = {int(row["id"]): row["file"] for row in csv.DictReader(lines)}
    except (OSError, KeyError, ValueError) as error:
        raise ArtifactError(f"{index}: not an index of adversarial pictures ({error})") from error
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
    if found is None or not 1 <= int(found[1]) <= 95:
        raise ConfigError(f"transforms are jpeg-1 to jpeg-95 (the quality), got {name!r}")
    return int(found[1])


def as_jpeg(stored: Float[Tensor, "n 3 h w"], quality: int) -> Float[Tensor, "n 3 h w"]:
    """Return pictures after one JPEG encoding and decoding (4:2:0, as most files are)."""
    levels = torch.round(stored * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    made = []
    for pixels in levels:
        held = io.BytesIO()
        Image.fromarray(pixels).save(held, "JPEG", quality=quality, subsampling="4:2:0")
        with Image.open(held) as image:
            made.append(np.asarray(image.convert("RGB")))
    if not made:
        return stored
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).to(stored) / 255
