"""Where an entry stands among those that it compares with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from hamward.artifacts import digest_of
from hamward.config import to_mapping
from hamward.evaluation.report.wording import budget, typed
from hamward.leaderboard.entry import Entry, ThreatModel

__all__ = ["Line", "group_of", "lines_of", "threat_words"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An entry as the table shows it.

    Attributes:
        entry: The entry.
        group: Which entries it compares with.
        rank: Place by robust MAP among them, from 1; None for what counts as masking.
        of: How many have a place.
    """

    entry: Entry
    group: str
    rank: int | None
    of: int

    @property
    def state(self) -> str:
        """What is to be thought of it: "masking", "flagged", "clear" or "not probed"."""
        if self.entry.masking:
            return "masking"
        if self.entry.flags:
            return "flagged"
        return "clear" if self.entry.probed else "not probed"

    @property
    def threat(self) -> str:
        """The threat model in words."""
        return threat_words(self.entry.threat)


def group_of(entry: Entry) -> str:
    """Return what entries must share to be compared: threat, data, split, queries and protocol."""
    shared = [
        entry.threat.id,
        entry.main.direction,
        to_mapping(entry.data),
        {k: v for k, v in to_mapping(entry.protocol).items() if k != "seed"},
    ]
    return digest_of(shared)


def lines_of(entries: Sequence[Entry]) -> list[Line]:
    """Return the entries by data, threat and robust MAP, best first and masking last."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(group_of(entry), []).append(entry)
    made = []
    for name, group in groups.items():
        ranked = [e for e in group if not e.masking]
        for entry in group:
            better = sum(other.main.robust.map > entry.main.robust.map for other in ranked)
            rank = None if entry.masking else better + 1
            made.append(Line(entry=entry, group=name, rank=rank, of=len(ranked)))
    return sorted(
        made,
        key=lambda line: (
            line.entry.data.name,
            line.entry.threat.id,
            line.group,
            line.entry.masking,
            -line.entry.main.robust.map,
            line.entry.name,
        ),
    )


def threat_words(threat: ThreatModel) -> str:
    """Return a threat model in words."""
    if threat.words is not None:
        size = typed(threat.words)
    else:
        size = budget(threat)
    fractions = " in feature space" if threat.stored == "feature-space" else ""
    asked = {"gradients": "white box", "codes": "sees codes", "ranks": "sees rankings"}
    limit = "" if threat.queries is None else f", {threat.queries} queries"
    return f"{threat.attacked}s, {size}{fractions}; {asked[threat.access]}{limit}"
