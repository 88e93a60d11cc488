"""Finished evaluations gathered by victim and threat, and refused where they do not compare."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamward.artifacts import RunFolder, digest_of, read_json, read_tensors
from hamward.config import from_mapping
from hamward.errors import ArtifactError, ConfigError
from hamward.evaluation.configs import EvaluateConfig
from hamward.evaluation.diagnostics import row_flags
from hamward.evaluation.results import CLEAN, Evaluation, Row, precision_file
from hamward.evaluation.runs import make_attack
from hamward.metrics import bootstrap_interval
from hamward.types import DIRECTIONS, Direction, Modality, modalities_of

__all__ = [
    "OF_A_VICTIM",
    "Case",
    "FinishedRun",
    "Gathered",
    "Threat",
    "finished_runs",
    "threats_of",
    "worst_case",
]

OF_A_VICTIM = ("attacks", "code_length")
"""Keys of a protocol that may differ: attacks are compared for each threat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threat:
    """What an attacker may do: attacks of one threat compete for the worst case.

    Attributes:
        direction: What asks (and is attacked) and what is searched.
        stored: Form of the items: "8-bit", "as typed" or "feature-space".
        norm: Norm of the budget.
        eps: Its size, as in `Row`.
        words: Insertions and deletions of norm "edits", else None.
    """

    direction: Direction
    stored: str
    norm: str
    eps: float
    words: tuple[int, int] | None = None

    @property
    def attacked(self) -> Modality:
        """Modality of the attacked queries."""
        return modalities_of(self.direction)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A finished evaluation: its folder, what was asked, what came out."""

    folder: Path
    config: EvaluateConfig
    evaluation: Evaluation

    @classmethod
    def read(cls, folder: Path) -> "FinishedRun":
        """Read a run folder."""
        info = RunFolder(folder).require("evaluation")
        return cls(
            folder=folder,
            config=from_mapping(EvaluateConfig, info["config"]),
            evaluation=Evaluation.load(folder),
        )

    def options(self, attack: str) -> Mapping[str, Any]:
        """Return class and options of an attack by its name in this run."""
        options: Mapping[str, Any] = self.evaluation.protocol["attacks"][attack]
        return options


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A row that counts.

    Attributes:
        row: The row.
        kind: Class of its attack; "" for clean queries.
        options: Digest of the attack's class and options.
        threat: What the attack may do; None for clean queries.
        precision: Average precision of each query, (q,); None where the evaluation kept none.
    """

    row: Row
    kind: str = ""
    options: str = ""
    threat: Threat | None = None
    precision: NDArray[np.float64] | None = field(default=None, compare=False)

    @property
    def transfer(self) -> bool:
        """Whether the items come from another model than the victim."""
        return self.row.transfer or self.kind == "Transfer"


@dataclass(kw_only=True)
class Gathered:
    """All that the evaluations know of one victim."""

    name: str
    runs: Sequence[FinishedRun]

    def __post_init__(self) -> None:
        self.runs = [run for run in self.runs if self.name in run.config.victims]
        folders = {Path(run.config.victims[self.name]).resolve() for run in self.runs}
        if len(folders) > 1:
            there = " and ".join(run.config.victims[self.name] for run in self.runs)
            raise ConfigError(f"two victims are called {self.name!r}: {there}; rename a folder")
        self._check_clean()

    @property
    def folder(self) -> Path:
        """The run folder of the victim."""
        return Path(self.runs[0].config.victims[self.name])

    @property
    def probed(self) -> bool:
        """Whether an evaluation probed it."""
        return any(run.config.diagnose for run in self.runs)

    @cached_property
    def cases(self) -> list[Case]:
        """All rows that count, controls left out."""
        return [case for run in self.runs for case in _cases(run, self.name)]

    @cached_property
    def own(self) -> dict[Threat, list[Case]]:
        """Cases crafted on the victim itself, by threat."""
        return self._by_threat(transfer=False)

    @cached_property
    def moved(self) -> dict[Threat, list[Case]]:
        """Cases crafted on other models."""
        return self._by_threat(transfer=True)

    def _by_threat(self, *, transfer: bool) -> dict[Threat, list[Case]]:
        found: dict[Threat, list[Case]] = {}
        for case in self.cases:
            if case.threat is not None and case.transfer == transfer:
                found.setdefault(case.threat, []).append(case)
        return found

    @property
    def directions(self) -> set[Direction]:
        """Directions that it is scored in."""
        return {case.row.direction for case in self.cases}

    def clean(self, direction: Direction) -> Row:
        """Return its row of clean queries."""
        return next(c.row for c in self.cases if c.threat is None and c.row.direction == direction)

    def _check_clean(self) -> None:
        for direction in self.directions:
            found = {
                c.row.map for c in self.cases if c.threat is None and c.row.direction == direction
            }
            if max(found) - min(found) > 1e-9:
                raise ConfigError(
                    f"victim {self.name!r} has clean {direction} MAPs "
                    f"{' and '.join(f'{m:.6f}' for m in sorted(found))} in different evaluations: "
                    "it was trained anew between them; evaluate it again"
                )

    def keeps(self, threat: Threat) -> bool:
        """Return whether the worst case of each query can be told."""
        for cases in (self.own.get(threat, []), self.moved.get(threat, [])):
            if len(cases) > 1 and any(case.precision is None for case in cases):
                return False
        return True

    def flags(self) -> tuple[str, ...]:
        """Ids of the flags of each evaluation, and of those that the rows raise together."""
        stored = [flag for run in self.runs for flag in run.evaluation.flags]
        attacks = {
            name: make_attack(name, options)
            for run in self.runs
            for name, options in run.config.attacks.items()
        }
        rows = [r for run in self.runs for r in run.evaluation.rows if r.victim == self.name]
        ids = [f.id for f in stored if f.victim == self.name]
        return tuple(dict.fromkeys(ids + [f.id for f in row_flags(tuple(rows), attacks)]))


def finished_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Read the evaluations that folders are or hold.

    Args:
        folders: Run folders, or folders that hold some; one that is met twice counts once.

    Raises:
        ArtifactError: one neither is nor holds an evaluation, one is not finished, or damaged.
        ConfigError: no folders, or the evaluations differ in what numbers depend on.
    """
    if not folders:
        raise ConfigError("give at least one run folder of an evaluation")
    found: dict[Path, FinishedRun] = {}
    for folder in folders:
        files = [folder / "run.json", *sorted(folder.glob("*/run.json"))]
        there = [f.parent for f in files if f.exists() and read_json(f)["kind"] == "evaluation"]
        if not there:
            raise ArtifactError(
                f"{folder}: no evaluation, and none in it; make one with `hamward evaluate`"
            )
        for path in there:
            if path.resolve() not in found:
                found[path.resolve()] = FinishedRun.read(path)
    runs = list(found.values())
    _check_same(runs)
    return runs


def worst_case(cases: Sequence[Case], *, per_query: bool, seed: int) -> tuple[float, float, float]:
    """Return MAP and 95 % interval of the worst case over rows of one victim and threat.

    Args:
        cases: The rows.
        per_query: Keep the lowest average precision of each query; else the lowest MAP of a row.
        seed: Seed of the bootstrap.
    """
    kept = [case.precision for case in cases if case.precision is not None]
    if per_query and len(cases) > 1:
        worst = np.min(kept, axis=0)
        return (float(np.nanmean(worst)), *bootstrap_interval(worst, seed=seed))
    row = min((case.row for case in cases), key=lambda row: row.map)
    return row.map, row.low, row.high


def threats_of(victims: Mapping[str, Gathered]) -> list[Threat]:
    """Return the threats in order, and refuse what not all victims met alike.

    Raises:
        ConfigError: there are none, or a victim lacks a threat in a direction that it has, or
            met other attacks under it than the base.
    """
    base = next(iter(victims.values()))
    order = sorted(
        {threat for victim in victims.values() for threat in victim.own},
        key=lambda t: (DIRECTIONS.index(t.direction), t.stored, t.norm, t.eps, t.words or ()),
    )
    if not order:
        raise ConfigError(
            "nothing to compare: no attack was crafted on the victims themselves (random noise "
            "and transfers say nothing about robustness)"
        )
    for threat in order:
        if threat not in base.own:
            who = next(v.name for v in victims.values() if threat in v.own)
            raise ConfigError(f"{_told(threat)} was met by {who!r} and not by {base.name!r}")
        for victim in victims.values():
            if threat.direction not in victim.directions:
                continue
            own, other = base.own[threat], victim.own.get(threat, [])
            lacking = {c.options: c.row.attack for c in own if not _holds(other, c)}
            added = {c.options: c.row.attack for c in other if not _holds(own, c)}
            if lacking or added:
                here = ", ".join(c.row.attack for c in other) or "nothing"
                raise ConfigError(
                    f"{_told(threat)}: {victim.name!r} met {here}, and {base.name!r} "
                    f"{', '.join(c.row.attack for c in own)}: evaluate both with the same attacks "
                    "and options"
                )
    return order


def _cases(run: FinishedRun, victim: str) -> Iterator[Case]:
    file = precision_file(run.folder, victim)
    kept = read_tensors(file) if file.exists() else {}
    for row in run.evaluation.rows:
        if row.victim != victim or not row.counts:
            continue
        if row.attack == CLEAN:
            yield Case(row=row)
            continue
        options = run.options(row.attack)
        if options["class"] == "RandomNoise":
            continue
        precision = kept.get(row.key)
        yield Case(
            row=row,
            kind=options["class"],
            options=digest_of(options),
            threat=_threat_of(row, options),
            precision=None if precision is None else precision.numpy(),
        )


def _threat_of(row: Row, options: Mapping[str, Any]) -> Threat:
    words = None
    if row.norm == "edits":
        insertions = int(options.get("insertions", row.eps - options.get("deletions", 0)))
        words = (insertions, int(row.eps) - insertions)
    return Threat(
        direction=row.direction, stored=row.stored, norm=row.norm, eps=row.eps, words=words
    )


def _check_same(runs: Sequence[FinishedRun]) -> None:
    first = runs[0]
    for run in runs:
        own, other = first.evaluation.protocol, run.evaluation.protocol
        if "candidates" in other:
            raise ConfigError(
                f"{run.folder}: attacks items of the database; only attacked queries are compared"
            )
        for key in sorted((own.keys() | other.keys()) - {*OF_A_VICTIM}):
            if own.get(key) != other.get(key):
                raise ConfigError(
                    f"{run.folder} and {first.folder} cannot be compared: {key} is "
                    f"{other.get(key)} and {own.get(key)}"
                )


def _holds(cases: Sequence[Case], case: Case) -> bool:
    return any(other.options == case.options for other in cases)


def _told(threat: Threat) -> str:
    return f"{threat.direction}, {threat.stored}, {threat.norm} of {threat.eps:.4g}"
