"""What an entry is recomputed from: codes, precisions and adversarial items, without a loss."""

import hashlib
from pathlib import Path

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from hamward.artifacts import read_tensors, write_tensors
from hamward.errors import ArtifactError

__all__ = ["GALLERY", "items_file", "read_items", "sources_digest", "write_items"]

GALLERY = "gallery.json"


def items_file(folder: Path, attack: str) -> Path:
    """Return where the items of an attack are, in the form that is scored."""
    stem = attack.replace("/", "_").replace(":", "_")
    return folder / "items" / f"{stem}.safetensors"


def write_items(file: Path, ids: Int64[Tensor, " n"], items: Shaped[Tensor, "n ..."]) -> None:
    """Write items; as levels of 8 bits where these hold every value exactly.

    That is true of stored pictures and of bags of whole words.
    """
    tensors = {"ids": ids, "items": items}
    if items.is_floating_point():
        levels = (items * 255).round().clamp(0, 255).to(torch.uint8)
        if torch.equal(_from_levels(levels), items.float()):
            tensors = {"ids": ids, "levels": levels}
    write_tensors(file, tensors)


def read_items(file: Path) -> tuple[Int64[Tensor, " n"], Shaped[Tensor, "n ..."]]:
    """Read what `write_items` wrote.

    Raises:
        ArtifactError: missing or damaged.
    """
    stored = read_tensors(file)
    if "ids" not in stored or not stored.keys() & {"items", "levels"}:
        raise ArtifactError(f"{file}: no adversarial items, it holds {sorted(stored)}")
    if "levels" in stored:
        return stored["ids"], _from_levels(stored["levels"])
    return stored["ids"], stored["items"]


def sources_digest() -> str:
    """Return the SHA-256 of all modules of the package, names and content."""
    root = Path(__file__).parents[1]
    sha = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        sha.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return sha.hexdigest()


def _from_levels(levels: Tensor) -> Tensor:
    return levels.float() / 255
