"""From the rows of one evaluation to threat models and scores; `add` and `verify` share it."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from hamward.attacks import Attack, TrainableAttack
from hamward.errors import ArtifactError
from hamward.evaluation.gathering import Case, FinishedRun, Gathered, Threat, worst_case
from hamward.evaluation.report.wording import in_levels
from hamward.evaluation.results import CLEAN, Evaluation, Row
from hamward.evaluation.runs import make_attack
from hamward.leaderboard.entry import AttackFacts, Estimate, Score, ThreatModel
from hamward.types import Access, Direction

__all__ = ["Cell", "cells_of"]

_ORDER: tuple[Access, ...] = ("ranks", "codes", "gradients")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One victim under one threat model.

    Attributes:
        threat: The threat model.
        scores: By direction.
        attacks: Its attacks, configured, by name.
        evaluation: The rows, curves and flags that belong to it.
    """

    threat: ThreatModel
    scores: tuple[Score, ...]
    attacks: Mapping[str, Attack | TrainableAttack]
    evaluation: Evaluation


def cells_of(run: FinishedRun, victim: str) -> list[Cell]:
    """Return the threat models that a victim met, each with its scores.

    Attacks of one budget compete for the worst case of each query. Those that ask for less than
    gradients make a threat model of their own, too: "black-box-...". Random noise and items
    crafted on other models are no part of any.

    Raises:
        ArtifactError: the evaluation keeps no precision per query.
    """
    gathered = Gathered(name=victim, runs=[run])
    groups: dict[Threat, dict[Direction, list[Case]]] = {}
    for threat, cases in gathered.own.items():
        anywhere = dataclasses.replace(
            threat, direction="i2t" if threat.attacked == "image" else "t2i"
        )
        groups.setdefault(anywhere, {})[threat.direction] = cases
    made = []
    for threat, by_direction in groups.items():
        everything = _attacks(run, by_direction)
        weaker = {n: a for n, a in everything.items() if a.access != "gradients"}
        if len(weaker) < len(everything):
            made.append(_cell(gathered, threat, by_direction, everything, black_box=False))
        if weaker:
            made.append(_cell(gathered, threat, by_direction, weaker, black_box=True))
    return made


def _attacks(
    run: FinishedRun, by_direction: Mapping[Direction, Sequence[Case]]
) -> dict[str, Attack | TrainableAttack]:
    names = dict.fromkeys(case.row.attack for cases in by_direction.values() for case in cases)
    return {name: make_attack(name, run.config.attacks[name]) for name in names}


def _cell(
    gathered: Gathered,
    threat: Threat,
    by_direction: Mapping[Direction, Sequence[Case]],
    attacks: Mapping[str, Attack | TrainableAttack],
    *,
    black_box: bool,
) -> Cell:
    (run,) = gathered.runs
    seed = int(run.evaluation.protocol["seed"])
    scores, costs = [], {}
    for direction, cases in by_direction.items():
        chosen = [case for case in cases if case.row.attack in attacks]
        for case in chosen:
            if case.precision is None:
                raise ArtifactError(
                    f"{run.folder}: keeps no precision per query of {case.row.key!r}: evaluate it "
                    "again"
                )
            costs[case.row.attack] = case.row
        clean = gathered.clean(direction)
        robust = Estimate(
            **dict(
                zip(
                    ("map", "low", "high"),
                    worst_case(chosen, per_query=True, seed=seed),
                    strict=True,
                )
            )
        )
        scores.append(
            Score(
                direction=direction,
                queries=clean.queries,
                chance=clean.chance,
                clean=Estimate(map=clean.map, low=clean.low, high=clean.high),
                robust=robust,
            )
        )
    limits = [getattr(attack, "queries", None) for attack in attacks.values()]
    known = [limit for limit in limits if isinstance(limit, int)]
    queries = max(known) if known and len(known) == len(limits) else None
    return Cell(
        threat=ThreatModel(
            id=_named(threat, black_box=black_box, queries=queries),
            attacked=threat.attacked,
            access=max((a.access for a in attacks.values()), key=_ORDER.index),
            norm=threat.norm,
            eps=threat.eps,
            words=threat.words,
            stored=threat.stored,
            queries=queries,
            attacks=tuple(
                AttackFacts(
                    name=name,
                    access=attack.access,
                    options=run.config.attacks[name],
                    seconds=costs[name].seconds,
                    submissions=costs[name].submissions,
                )
                for name, attack in attacks.items()
            ),
        ),
        scores=tuple(scores),
        attacks=attacks,
        evaluation=_part(run.evaluation, gathered.name, attacks, tuple(by_direction)),
    )


def _named(threat: Threat, *, black_box: bool, queries: int | None) -> str:
    if threat.words is not None:
        size = f"{threat.words[0]}+{threat.words[1]}"
    elif threat.norm == "linf" and threat.attacked == "image":
        size = in_levels(threat.eps)
    else:
        size = f"{threat.eps:.4g}"
    name = f"{threat.attacked}-{threat.norm}-{size}"
    if threat.stored == "feature-space":
        name += "-feature-space"
    if black_box:
        name = f"black-box{'' if queries is None else f'-{queries}'}-{name}"
    return name


def _part(
    evaluation: Evaluation,
    victim: str,
    attacks: Mapping[str, Attack | TrainableAttack],
    directions: Sequence[Direction],
) -> Evaluation:
    """Keep the rows of one victim, clean and under these attacks, with their curves."""

    def kept(row: Row) -> bool:
        own = row.victim == victim and not row.transfer and row.direction in directions
        return own and (row.attack == CLEAN or row.attack in attacks)

    found = [i for i, row in enumerate(evaluation.rows) if kept(row)]
    protocol = dict(evaluation.protocol)
    protocol["attacks"] = {name: protocol["attacks"][name] for name in attacks}
    protocol["code_length"] = {victim: protocol["code_length"][victim]}
    return Evaluation(
        protocol=protocol,
        rows=tuple(evaluation.rows[i] for i in found),
        curves=tuple(evaluation.curves[i] for i in found) if evaluation.curves else (),
        flags=tuple(flag for flag in evaluation.flags if flag.victim == victim),
    )
