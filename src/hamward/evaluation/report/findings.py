"""Which rows of an evaluation a report speaks about, chosen by rules and never by hand."""

from dataclasses import dataclass
from typing import final

from hamward.evaluation.evaluate import CLEAN, Curve, Evaluation, Row
from hamward.registry import method_of
from hamward.types import DIRECTIONS, Direction, Modality, modalities_of

__all__ = ["Findings"]

_HARDENED = "hardened"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """An evaluation seen through the questions that a report asks.

    Attributes:
        evaluation: The rows.
    """

    evaluation: Evaluation

    @property
    def victims(self) -> list[str]:
        """All victims; the first is the baseline that the others are compared with."""
        return self.evaluation.victims()

    @property
    def baseline(self) -> str | None:
        """The first victim."""
        return self.victims[0] if self.victims else None

    @property
    def defended(self) -> str | None:
        """The victim called "hardened", else the last one that is not the baseline."""
        others = self.victims[1:]
        return _HARDENED if _HARDENED in others else others[-1] if others else None

    def row(
        self, victim: str, attack: str, direction: Direction, *, stored: str | None = None
    ) -> Row | None:
        """Return the adaptive row in its stored form (or the one asked for), if there is one."""
        for row in self.evaluation.rows:
            if (row.victim, row.attack, row.direction) != (victim, attack, direction):
                continue
            if row.transfer or (row.stored != stored if stored else not row.counts):
                continue
            return row
        return None

    def clean(self, victim: str, direction: Direction) -> Row | None:
        """Return the row of clean queries."""
        return self.row(victim, CLEAN, direction)

    def curve(self, row: Row) -> Curve | None:
        """Return the curve of a row; None in an evaluation without curves."""
        curves = self.evaluation.curves
        return curves[self.evaluation.rows.index(row)] if curves else None

    def transfers(self) -> list[Row]:
        """Return the rows whose attack saw another model, in their stored form."""
        return [row for row in self.evaluation.rows if row.transfer and row.counts]

    def directions(self, *, within: bool) -> list[Direction]:
        """Return the directions that have rows: the main ones, or those within one modality.

        Main are those across modalities and, if there is a victim of one modality, those that
        it has.
        """
        main: set[Direction] = set()
        for victim in self.victims:
            own = {row.direction for row in self.evaluation.rows if row.victim == victim}
            main |= {d for d in own if d[0] != d[2]} or own
        there = {row.direction for row in self.evaluation.rows}
        return [d for d in DIRECTIONS if d in there and (d not in main) == within]

    def attacks(self, direction: Direction) -> list[str]:
        """Return the attacks that some victim met adaptively in a direction."""
        return [
            attack
            for attack in self.evaluation.attacks()
            if any(self.row(victim, attack, direction) for victim in self.victims)
        ]

    def is_control(self, attack: str) -> bool:
        """Return whether an attack is random noise: a control, not an attack."""
        config = self.evaluation.protocol.get("attacks", {}).get(attack, {})
        return config.get("class") == "RandomNoise" or method_of(attack) == "random-noise"

    def strongest(self, victim: str, direction: Direction) -> Row | None:
        """Return the adaptive row of the lowest MAP, controls left out; ties by order."""
        rows = [self.row(victim, attack, direction) for attack in self.attacks(direction)]
        found = [row for row in rows if row is not None and not self.is_control(row.attack)]
        return min(found, key=lambda row: row.map) if found else None

    def shown(self, direction: Direction) -> str | None:
        """Return the attack that figures and gallery show: the strongest on the baseline.

        If only controls were run, the last of them.
        """
        if self.baseline is not None:
            row = self.strongest(self.baseline, direction)
            if row is not None:
                return row.attack
        there = self.attacks(direction)
        return there[-1] if there else None

    @property
    def placed(self) -> bool:
        """Whether items of the database were attacked, not queries."""
        return any(row.role != "query" for row in self.evaluation.rows)

    def main_direction(self, modality: Modality) -> Direction | None:
        """Return the direction that speaks for an attacked modality, main before within.

        One in which the baseline was attacked goes first.
        """
        every = [*self.directions(within=False), *self.directions(within=True)]
        found = [d for d in every if modalities_of(d)[0] == modality and self.attacks(d)]
        baseline = [
            d
            for d in found
            if any(self.row(str(self.baseline), a, d) is not None for a in self.attacks(d))
        ]
        return next(iter([*baseline, *found]), None)

    def noise_like(self, row: Row) -> Row | None:
        """Return the control of the same victim, direction, budget and norm, if it was run."""
        for attack in self.attacks(row.direction):
            other = self.row(row.victim, attack, row.direction)
            if (
                other is not None
                and self.is_control(attack)
                and (other.eps, other.norm) == (row.eps, row.norm)
            ):
                return other
        return None
