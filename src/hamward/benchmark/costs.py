"""What cells will take: an estimate from their work, calibrated by cells that are finished."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from hamward.benchmark.plan import Cell
from hamward.benchmark.store import Store

__all__ = ["Costs", "told"]

# Items a second on one core of the machine of docs/benchmarks.md, in round figures: what counts
# until the first cell of a kind is finished.
_RATES = {"train": 300.0, "harden": 300.0, "evaluate": 300.0}


@dataclass(kw_only=True)
class Costs:
    """Seconds per unit of work, by kind of cell and image network."""

    seen: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    rates: dict[tuple[str, str], float] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store | None, cells: Iterable[Cell]) -> "Costs":
        """Read what finished cells of a plan took."""
        costs = cls()
        if store is not None:
            finished = store.finished()
            for cell in cells:
                if cell.name in finished:
                    costs.add(cell, store.record(cell.name).get("seconds"))
        return costs

    def add(self, cell: Cell, seconds: float | None) -> None:
        """Learn from a finished cell; None is one that was interrupted, and says nothing."""
        if seconds and cell.work:
            key = (cell.kind, cell.network)
            self.seen.setdefault(key, []).append(seconds / cell.work)
            self.rates[key] = statistics.median(self.seen[key])

    def seconds(self, cell: Cell) -> float:
        """Estimate a cell."""
        return cell.work * self.rates.get((cell.kind, cell.network), 1 / _RATES[cell.kind])

    def calibrated(self, cell: Cell) -> bool:
        """Return whether a finished cell of its kind stands behind the estimate."""
        return (cell.kind, cell.network) in self.rates


def told(seconds: float) -> str:
    """Return a duration for people.

    Example:
        >>> told(75), told(7300), told(3)
        ('1 min', '2.0 h', '3 s')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
