"""The two files of an attack that was fitted: plain facts, and tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hamward.artifacts import read_json, read_tensors, write_json, write_tensors
from hamward.errors import ArtifactError

__all__ = ["read_fitted", "write_fitted"]


def write_fitted(
    folder: Path, *, name: str, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write attack.safetensors, then attack.json, each atomically."""
    write_tensors(folder / "attack.safetensors", dict(tensors))
    write_json(folder / "attack.json", {"attack": name, **facts})


def read_fitted(folder: Path, *, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the facts and the tensors that `write_fitted` wrote.

    Raises:
        ArtifactError: missing or damaged files, or another attack.
    """
    file = folder / "attack.json"
    facts = read_json(file)
    if facts.get("attack") != name:
        raise ArtifactError(f"{file}: holds the attack {facts.get('attack')!r}, expected {name!r}")
    return facts, read_tensors(folder / "attack.safetensors")
