"""Rows of a leaderboard by the methods that they are about."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hamward.artifacts import read_json
from hamward.errors import ArtifactError

__all__ = ["board_rows"]


def board_rows(board: Path) -> dict[tuple[str, str], list[dict[str, str]]]:
    """Read the entries of a board, a row a direction, under each method that took part.

    Args:
        board: Its folder, with entries/NAME.json.

    Returns:
        By kind ("victims", "attacks", "defenses", "purifiers") and name.

    Raises:
        ArtifactError: there are no entries, or one is damaged.
    """
    files = sorted((board / "entries").glob("*.json"))
    if not files:
        raise ArtifactError(f"{board}: no leaderboard (no entries/*.json)")
    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    for file in files:
        entry = read_json(file)
        try:
            for key in dict.fromkeys(_methods(entry)):
                rows.setdefault(key, []).extend(_rows(entry))
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{file}: no entry of a leaderboard ({error!r})") from error
    return rows


def _methods(entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    model = entry["model"]
    yield "victims", model["method"]
    yield from (("defenses", name) for name in model["defenses"])
    yield from (("purifiers", name) for name in model["purifiers"])
    for attack in entry["threat"]["attacks"]:
        named = attack["options"].get("attack", attack["name"].split("@")[0])
        yield "attacks", named


def _rows(entry: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    model = entry["model"]
    for score in entry["scores"]:
        robust = score["robust"]
        yield {
            "entry": entry["name"],
            "victim": model["method"],
            "defense": " + ".join((*model["defenses"], *model["purifiers"])) or "none",
            "data": entry["data"]["name"],
            "bits": str(model["code_length"]),
            "threat": entry["threat"]["id"],
            "direction": score["direction"],
            "clean": f"{score['clean']['map']:.3f}",
            "robust": f"{robust['map']:.3f}",
            "95 %": f"{robust['low']:.3f}-{robust['high']:.3f}",
            "chance": f"{score['chance']:.3f}",
            "flags": ", ".join(dict.fromkeys(flag["id"] for flag in entry["flags"])),
        }
