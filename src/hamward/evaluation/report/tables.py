"""The tables of a report as values, for the page and for Markdown alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hamward.evaluation.evaluate import CLEAN, Row
from hamward.evaluation.report.findings import Findings
from hamward.evaluation.report.wording import budget, reader_name, score
from hamward.evaluation.table import hubness_cells, hubness_header
from hamward.types import Direction

__all__ = ["Column", "Grid", "Rounding", "flat", "grids", "history", "hubness", "roundings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One attack and its budget, or the clean queries."""

    attack: str
    budget: str
    control: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Victims x attacks of one direction, adaptive rows only.

    Attributes:
        direction: The direction.
        name: In words.
        columns: Clean first.
        lines: Victim and its rows, one a column; None where it was not attacked so.
        chance: MAP of a random ranking for the same queries.
        queries: How many queries count.
    """

    direction: Direction
    name: str
    columns: tuple[Column, ...]
    lines: tuple[tuple[str, tuple[Row | None, ...]], ...]
    chance: float
    queries: int

    @property
    def attacked(self) -> str:
        """How texts were attacked: in feature space, as typed, or both; "" for pictures."""
        forms = {row.stored for _, line in self.lines for row in line[1:] if row is not None}
        said = {"feature-space": "in feature space", "as typed": "as typed"}
        return " and ".join(words for form, words in said.items() if form in forms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """The same attack scored as stored and as crafted."""

    stored: Row
    crafted: Row


def grids(findings: Findings, *, within: bool) -> list[Grid]:
    """Return the result tables of the main directions, or of the others within one modality."""
    made = []
    for direction in findings.directions(within=within):
        attacks = (CLEAN, *findings.attacks(direction))
        lines = tuple(
            (victim, tuple(findings.row(victim, attack, direction) for attack in attacks))
            for victim in findings.victims
        )
        rows = [row for _, line in lines for row in line if row is not None]
        if not rows:
            continue
        columns = tuple(
            Column(
                attack=attack,
                budget="" if attack == CLEAN else _budget(attack, rows),
                control=findings.is_control(attack),
            )
            for attack in attacks
        )
        made.append(
            Grid(
                direction=direction,
                name=reader_name(direction),
                columns=columns,
                lines=lines,
                chance=rows[0].chance,
                queries=rows[0].queries,
            )
        )
    return made


def roundings(findings: Findings) -> list[Rounding]:
    """Return the picture attacks as stored beside as crafted."""
    return [
        Rounding(stored=stored, crafted=row)
        for row in findings.evaluation.rows
        if not row.counts and not row.transfer
        for stored in (findings.row(row.victim, row.attack, row.direction),)
        if stored is not None
    ]


def hubness(findings: Findings) -> tuple[list[str], list[list[str]]] | None:
    """Return header and lines of how attacked database items are found; None if none were."""
    rows = [
        row
        for row in findings.evaluation.rows
        if row.hubness is not None and row.counts and not row.transfer
    ]
    if not rows:
        return None
    header = ["victim", "attack", "direction", "MAP of all queries"]
    lines = [
        [
            row.victim,
            "clean" if row.attack == CLEAN else row.attack,
            row.direction,
            score(row.map),
            *hubness_cells(row),
        ]
        for row in rows
    ]
    return [*header, *hubness_header(rows[0])], lines


def history(epochs: Sequence[Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of a training: loss, seconds and validation MAP of each epoch."""
    scores = [k for k in (epochs[0] if epochs else {}) if k not in ("epoch", "loss", "seconds")]
    lines = [
        [
            f"{e['epoch']:g}",
            f"{e['loss']:.4g}",
            f"{e['seconds']:.0f}",
            *(score(e[k]) for k in scores),
        ]
        for e in epochs
    ]
    return ["epoch", "loss", "seconds", *(k.replace("_", " ") for k in scores)], lines


def flat(value: Mapping[str, Any], *, path: str = "") -> list[tuple[str, str]]:
    """Return nested plain values as (dotted path, text), in order.

    Example:
        >>> flat({"seed": 0, "packages": {"torch": "2.8"}, "argv": ["a", "b"]})
        [('seed', '0'), ('packages.torch', '2.8'), ('argv', 'a b')]
    """
    lines: list[tuple[str, str]] = []
    for key, inner in value.items():
        where = f"{path}{key}"
        if isinstance(inner, Mapping):
            lines += flat(inner, path=f"{where}.")
        elif isinstance(inner, list | tuple):
            lines.append((where, " ".join(map(str, inner))))
        else:
            lines.append((where, f"{inner:.6g}" if isinstance(inner, float) else str(inner)))
    return lines


def _budget(attack: str, rows: list[Row]) -> str:
    return budget(next(row for row in rows if row.attack == attack))
