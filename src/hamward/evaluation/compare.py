"""What defenses are worth: finished evaluations of several victims, held against the undefended."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hamward.artifacts import read_json
from hamward.errors import ConfigError
from hamward.evaluation.diagnostics import tells_of_masking
from hamward.evaluation.gathering import (
    OF_A_VICTIM,
    Gathered,
    Threat,
    finished_runs,
    threats_of,
    worst_case,
)

__all__ = [
    "Comparison",
    "Standing",
    "Threat",
    "VictimFacts",
    "compare_runs",
    "recovered_share",
    "training_seconds",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One victim under one threat.

    Attributes:
        victim: Its name.
        threat: The threat.
        attacks: Names of the attacks that were crafted on the victim itself.
        chance: MAP of a random ranking.
        clean: MAP of clean queries.
        robust: MAP of the worst case over these attacks.
        low: Lower end of its 95 % bootstrap interval over queries.
        high: Upper end.
        transfer: The worst MAP of items crafted on other models, not a robustness figure; None
            without any.
        transfer_from: These models.
        recovered: Share of the gap between the clean and the robust MAP of the base that the
            victim closes: 0 for the base, 1 for its clean MAP; None where there is no gap.
        clean_loss: Clean MAP of the base minus that of the victim.
    """

    victim: str
    threat: Threat
    attacks: tuple[str, ...]
    chance: float
    clean: float
    robust: float
    low: float
    high: float
    transfer: float | None
    transfer_from: tuple[str, ...]
    recovered: float | None
    clean_loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VictimFacts:
    """What holds for a victim under every threat.

    Attributes:
        name: Its name.
        folder: Its run folder.
        flags: Ids of the doubts about it, those between rows of different runs among them.
        probed: Whether an evaluation probed it (`diagnose`).
        seconds: Training time, that of the victims it was hardened from included, times the
            processes; None if a folder is gone or says nothing of a training.
        cost: The same in multiples of the base's.
        history: Per epoch: clean and attacked validation MAP; empty if unknown.
    """

    name: str
    folder: str
    flags: tuple[str, ...]
    probed: bool
    seconds: float | None
    cost: float | None
    history: tuple[dict[str, float], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Victims x threats.

    Attributes:
        base: Name of the undefended victim.
        victims: All, the base first.
        standings: By threat, then victim.
        per_query: Whether `robust` takes the worst attack of each query. Otherwise some
            evaluation keeps no precision per query, and it is the lowest MAP of one attack.
        outside: Threats whose attacks `strongest` is not among: robust MAP is only an upper bound
            there.
        protocol: What the evaluations share.
        runs: Their folders.
    """

    base: str
    victims: tuple[VictimFacts, ...]
    standings: tuple[Standing, ...]
    per_query: bool
    outside: tuple[Threat, ...]
    protocol: dict[str, Any]
    runs: tuple[str, ...]

    def threats(self) -> list[Threat]:
        """Return the threats in order."""
        return list(dict.fromkeys(s.threat for s in self.standings))

    def facts(self, victim: str) -> VictimFacts:
        """Return what holds for a victim everywhere."""
        return next(v for v in self.victims if v.name == victim)

    def masks(self, victim: str) -> bool:
        """Return whether a defense counts as masking: attacks on it may have been misled."""
        return victim != self.base and tells_of_masking(self.facts(victim).flags)


def compare_runs(folders: Sequence[Path], *, base: str | None = None) -> Comparison:
    """Compare the victims of finished evaluations under the threats that all of them met.

    Random noise is a control and left out. Attacks through a surrogate (`transfer`) and rows
    crafted on another victim count as transfer only.

    Args:
        folders: Run folders of evaluations, or folders that hold some.
        base: Name of the undefended victim; by default the first of the first evaluation.

    Raises:
        ArtifactError: a folder has no finished evaluation, or a file is damaged.
        ConfigError: the evaluations differ in data, split, queries, metric or seed; database
            items were attacked; there is no such base; or the victims met different threats or
            different attacks under one.
    """
    runs = finished_runs(folders)
    names = list(dict.fromkeys(name for run in runs for name in run.evaluation.victims()))
    chosen = base if base is not None else names[0]
    if chosen not in names:
        raise ConfigError(f"base must be one of {names}, got {chosen!r}")
    names.sort(key=lambda name: name != chosen)
    victims = {name: Gathered(name=name, runs=runs) for name in names}
    order = threats_of(victims)
    per_query = all(v.keeps(threat) for v in victims.values() for threat in order)
    seed = int(runs[0].evaluation.protocol["seed"])
    standings = []
    for threat in order:
        first: Standing | None = None
        for gathered in victims.values():
            if threat not in gathered.own:
                continue  # reads one modality only
            made = _standing(gathered, threat, first, per_query=per_query, seed=seed)
            first = first or made
            standings.append(made)
    seconds = {name: training_seconds(v.folder) for name, v in victims.items()}
    plain = seconds[chosen]
    return Comparison(
        base=chosen,
        victims=tuple(
            VictimFacts(
                name=name,
                folder=str(gathered.folder),
                flags=gathered.flags(),
                probed=gathered.probed,
                seconds=seconds[name],
                cost=spent / plain if (spent := seconds[name]) is not None and plain else None,
                history=_history(gathered.folder),
            )
            for name, gathered in victims.items()
        ),
        standings=tuple(standings),
        per_query=per_query,
        outside=tuple(
            threat
            for threat in order
            if all(case.kind != "Strongest" for case in victims[chosen].own[threat])
        ),
        protocol={k: v for k, v in runs[0].evaluation.protocol.items() if k not in OF_A_VICTIM},
        runs=tuple(str(run.folder) for run in runs),
    )


def recovered_share(*, hardened: float, attacked: float, clean: float) -> float | None:
    """Return the share of the gap that attacks tear which a defense closes.

    Args:
        hardened: Robust MAP of the hardened victim.
        attacked: Robust MAP of the undefended one, under the same attacks.
        clean: Clean MAP of the undefended one.

    Returns:
        (hardened - attacked) / (clean - attacked); None if attacks tear no gap.

    Example:
        >>> recovered_share(hardened=0.4, attacked=0.1, clean=0.6)
        0.6000000000000001
    """
    return (hardened - attacked) / (clean - attacked) if clean > attacked else None


def training_seconds(folder: Path) -> float | None:
    """Return what a victim's training took, that of the victims before it included.

    The epochs of each run with their validation, times its processes: wall clock, so that runs
    compare only if each had the same machine to itself. What an interruption threw away is not
    counted.

    Returns:
        Seconds; None if a folder is missing, unfinished or holds no training.
    """
    total, seen = 0.0, set()
    where: Path | None = folder
    while where is not None:
        file = where / "run.json"
        if not file.exists() or where.resolve() in seen:
            return None
        seen.add(where.resolve())
        info = read_json(file)
        history = info.get("history")
        if info.get("status") != "done" or not history:
            return None
        total += sum(epoch["seconds"] for epoch in history) * info.get("ranks", 1)
        before = info["config"].get("victim")
        where = Path(before) if before else None
    return total


def _standing(
    victim: Gathered, threat: Threat, base: Standing | None, *, per_query: bool, seed: int
) -> Standing:
    cases, moved = victim.own[threat], victim.moved.get(threat, [])
    untouched = victim.clean(threat.direction)
    clean = untouched.map
    robust, low, high = worst_case(cases, per_query=per_query, seed=seed)
    attacked, undefended = (robust, clean) if base is None else (base.robust, base.clean)
    return Standing(
        victim=victim.name,
        threat=threat,
        attacks=tuple(dict.fromkeys(case.row.attack for case in cases)),
        chance=untouched.chance,
        clean=clean,
        robust=robust,
        low=low,
        high=high,
        transfer=worst_case(moved, per_query=per_query, seed=seed)[0] if moved else None,
        transfer_from=tuple(
            dict.fromkeys(c.row.crafted_on if c.row.transfer else c.row.attack for c in moved)
        ),
        recovered=recovered_share(hardened=robust, attacked=attacked, clean=undefended),
        clean_loss=undefended - clean,
    )


def _history(folder: Path) -> tuple[dict[str, float], ...]:
    file = folder / "run.json"
    return tuple(read_json(file).get("history", ())) if file.exists() else ()
