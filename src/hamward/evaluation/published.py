"""Published clean MAPs of the victims, and what runs of ours got on the same data."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from hamward.artifacts import read_json
from hamward.config import from_mapping
from hamward.errors import ArtifactError, ConfigError
from hamward.types import DIRECTIONS

__all__ = ["MapKey", "Ours", "Published", "our_maps", "published_maps"]


MapKey = tuple[str, str, str, int]
"""Victim, data set, direction and code length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One source's clean MAPs of one victim.

    Attributes:
        victim: Registered name.
        source: Who printed them, and for which network.
        status: "seen" there; "inferred" (something that identifies them is not printed);
            "unverified" (quoted from memory of the paper).
        metric: The MAP's convention as far as it is known.
        bits: Code lengths of the columns; 0 for real-valued embeddings.
        maps: By data set and direction, a value for each code length.
    """

    victim: str
    source: str
    status: Literal["seen", "inferred", "unverified"]
    metric: str
    bits: tuple[int, ...]
    maps: dict[str, dict[str, list[float]]]

    def __post_init__(self) -> None:
        for data, directions in self.maps.items():
            for direction, values in directions.items():
                fits = direction in DIRECTIONS and len(values) == len(self.bits)
                if not fits or not all(0 < value < 1 for value in values):
                    raise ConfigError(f"{self.source}: {data} {direction} is no row of MAPs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """What a finished run of ours got.

    Attributes:
        run: Name of its folder.
        map: Tie-aware MAP over the whole ranking.
    """

    run: str
    map: float


def published_maps(victim: str | None = None) -> tuple[Published, ...]:
    """Return the published MAPs of one victim, or of all; none where none could be read."""
    text = (files("hamward.evaluation") / "published.toml").read_text(encoding="utf-8")
    tables = [from_mapping(Published, table) for table in tomllib.loads(text)["table"]]
    return tuple(t for t in tables if victim in (None, t.victim))


def our_maps(folders: Sequence[Path]) -> Mapping[MapKey, list[Ours]]:
    """Read what runs of ours got, by what it is of.

    Data go by their name, or by the last part of the folder they were prepared in. Hardened
    victims are left out; real-valued ones have code length 0.

    Args:
        folders: Run folders of victims, or folders that hold some.

    Raises:
        ArtifactError: a folder neither is nor holds a victim's run folder with a card.
    """
    found: dict[MapKey, list[Ours]] = {}
    for folder in folders:
        cards = [folder / "card.json", *sorted(folder.glob("*/card.json"))]
        cards = [file for file in cards if file.is_file()]
        if not cards:
            raise ArtifactError(f"{folder}: no victim's run folder, and none in it")
        for file in cards:
            card = read_json(file)
            missing = {"method", "data", "code_length", "retrieval", "scores"} - card.keys()
            if missing:
                raise ArtifactError(f"{file}: lacks {sorted(missing)}")
            if card.get("hardened"):
                continue
            bits = int(card["code_length"]) if card["retrieval"] == "hamming" else 0
            for direction, score in card["scores"].items():
                key = (card["method"], Path(card["data"]).name, direction, bits)
                run = file.parent.resolve().name
                found.setdefault(key, []).append(Ours(run=run, map=float(score["map"])))
    return found
