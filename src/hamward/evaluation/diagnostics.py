"""Doubts that every evaluation raises by itself: signs that a robustness figure is not one."""

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hamward.attacks import (
    Attack,
    Goal,
    OwnCode,
    TrainableAttack,
    attacked_items,
    craft,
    encode_items,
    own_code_goal,
)
from hamward.codes import SATURATION
from hamward.data import RetrievalData
from hamward.evaluation.results import CLEAN, Flag, Row
from hamward.evaluation.scoring import counts_of, searched_modality
from hamward.losses import auto_temperature
from hamward.metrics import DistanceCounts, chance_map, mean_average_precision
from hamward.models import HashModel, Victim
from hamward.registry import method_of
from hamward.types import Modality

__all__ = ["FLAGS", "code_flags", "probe_flags", "row_flags", "tells_of_masking"]

FLAGS: Mapping[str, str] = {
    "black-box-beats-white-box": "An attack with less access did more damage than every "
    "gradient attack of the same budget: gradients are masked or the attack is too weak.",
    "transfer-beats-white-box": "Items crafted on another model did more damage than those "
    "crafted on the victim itself.",
    "not-monotone": "A larger budget did less damage than a smaller one of the same attack.",
    "rounding": "Rounding to 8 bits changed the result: the attack relies on values that no "
    "picture file can hold.",
    "ties": "Most items share few distances: the order of ties alone moves MAP a great deal.",
    "collapsed-codes": "Some bits have the same value for nearly all database items.",
    "saturated": "Many logits lie where the derivative of tanh is exactly 0 in float32: attacks "
    "through tanh see no gradient.",
    "zero-gradient": "The scale-invariant loss has no gradient at some clean items.",
    "random-victim": "Two passes over the same items gave different logits: average over the "
    "randomness before believing any attack.",
    "scale": "Multiplying the last layer by 64, which changes no code, changed the attack.",
    "not-converged": "Five times the steps did more damage.",
    "bounded-optimum": "Even with the largest budget the attack leaves MAP above chance.",
}
"""What each flag means; docs/diagnostics.md has a paragraph for each."""

_NO_MASKING = {"rounding", "ties", "collapsed-codes", "not-converged"}
"""Flags about files, tie rules, codes and numbers of steps: true of undefended victims too, and no
sign that gradients lead attacks astray."""

_LIMITS = {
    "black-box-beats-white-box": 0.002,
    "transfer-beats-white-box": 0.002,
    "not-monotone": 0.005,
    "rounding": 0.01,
    "ties": 0.1,
    "collapsed-codes": 0.1,
    "saturated": 0.1,
    "zero-gradient": 0.0,
    "random-victim": 0.0,
    "scale": 0.01,
    "not-converged": 0.01,
    "bounded-optimum": 0.02,
}


def tells_of_masking(flags: Iterable[str]) -> bool:
    """Return whether some of these flags say that attacks on the victim may have been misled.

    A defense with such a flag counts as masking: its robust MAP is no evidence.
    """
    return not _NO_MASKING.issuperset(flags)


def row_flags(rows: tuple[Row, ...], attacks: Mapping[str, Attack | TrainableAttack]) -> list[Flag]:
    """Compare the rows of an evaluation with each other."""
    made: list[Flag] = []
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.victim, row.direction), []).append(row)
    for (victim, direction), cell in cells.items():
        stored = [r for r in cell if r.counts]
        for row in stored:
            if row.attack == CLEAN:
                spread = row.optimistic - row.pessimistic
                made += _over("ties", victim, direction, spread)
        own = [r for r in stored if r.attack != CLEAN and not r.transfer]
        white = [r for r in own if attacks[r.attack].access == "gradients"]
        weaker = [r for r in own if attacks[r.attack].access != "gradients"]
        moved = [r for r in stored if r.transfer]
        for flag, others in (
            ("black-box-beats-white-box", weaker),
            ("transfer-beats-white-box", moved),
        ):
            for row in others:
                best = [
                    r.map for r in white if (r.norm, r.stored) == (row.norm, row.stored)
                    and r.eps >= row.eps - 1e-9
                ]  # fmt: skip
                if best:
                    made += _over(flag, victim, f"{row.attack}, {direction}", min(best) - row.map)
        for before, after in _same_attack_by_budget(own):
            where = f"{after.attack}, {direction}"
            made += _over("not-monotone", victim, where, after.map - before.map)
        floats = {r.attack: r for r in cell if r.stored == "float" and not r.transfer}
        for row in own:
            if row.attack in floats:
                difference = abs(row.map - floats[row.attack].map)
                made += _over("rounding", victim, f"{row.attack}, {direction}", difference)
    return made


def _same_attack_by_budget(rows: list[Row]) -> Iterator[tuple[Row, Row]]:
    families: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        families.setdefault((method_of(row.attack), row.norm), []).append(row)
    for family in families.values():
        ordered = sorted(family, key=lambda r: r.eps)
        for before, after in itertools.pairwise(ordered):
            if after.eps > before.eps:
                yield before, after


def code_flags(victim: str, codes: Mapping[str, Tensor]) -> list[Flag]:
    """Look at the database codes of each modality ("database/image", "database/text")."""
    made = []
    for name, held in codes.items():
        if name.startswith("database/") and len(held):
            share = (held >= 0).double().mean(0)
            constant = float(((share < 0.01) | (share > 0.99)).double().mean())
            made += _over("collapsed-codes", victim, name.split("/")[1], constant)
    return made


def probe_flags(
    name: str,
    model: HashModel,
    data: RetrievalData,
    attacks: Mapping[str, Attack | TrainableAttack],
    *,
    modalities: tuple[Modality, ...],
    codes: Mapping[str, Tensor],
    queries: int = 32,
    seed: int = 0,
) -> list[Flag]:
    """Ask the victim itself, with a few evenly spaced queries.

    Args:
        name: Name of the victim.
        model: The victim.
        data: Queries and database, as the victim reads them (`read_by`).
        attacks: Attacks of the evaluation; those with gradients are tried on a scaled copy.
        modalities: Sides that are attacked.
        codes: What the index holds, as "database/image" and "database/text".
        queries: Number of queries.
        seed: Seed of the attacks.
    """
    few = data.limit(queries=min(queries, len(data.split.query)))
    made: list[Flag] = []
    for modality in modalities:
        positions = few.positions("query", modality)
        if model.access != "gradients":
            x = model.take(few.inputs(modality, positions))
            made += _repeats(name, model, modality, x)
            continue
        x = model.take(attacked_items(OwnCode(), model, few, modality, positions))
        made += _gradients(name, model, modality, x)
        probe = _Probe(
            name=name,
            model=model,
            data=few,
            modality=modality,
            searched=codes[f"database/{searched_modality(model.modalities, modality)}"],
            seed=seed,
        )
        for attack_name, attack in attacks.items():
            if isinstance(attack, TrainableAttack) or modality not in attack.modalities:
                continue
            if attack.access == "gradients" and not attack.targeted:
                made += probe.scale(attack_name, attack)
        made += probe.limits()
    return made


def _gradients(name: str, model: HashModel, modality: Modality, x: Tensor) -> list[Flag]:
    victim = Victim(model=model)
    with victim.attacked():
        leaf = x.detach().requires_grad_(True)
        logits = victim.logits(modality, leaf)
        again = victim.logits(modality, leaf.detach())
        anchor = torch.where(logits.detach() >= 0, 1.0, -1.0)
        (gradient,) = torch.autograd.grad(auto_temperature(logits, anchor).sum(), leaf)
    saturated = float((logits.detach().abs() > SATURATION).double().mean())
    without = float((gradient.flatten(1).abs().amax(1) == 0).double().mean())
    differs = float((again != logits.detach()).any(1).double().mean())
    return [
        *_over("saturated", name, modality, saturated),
        *_over("zero-gradient", name, modality, without),
        *_over("random-victim", name, modality, differs),
    ]


def _repeats(name: str, model: HashModel, modality: Modality, x: Tensor) -> list[Flag]:
    """Ask a victim without gradients the same twice; no other probe can be made of it."""
    first, again = (encode_items(model, modality, x) for _ in range(2))
    differs = float((first != again).any(1).double().mean())
    return _over("random-victim", name, modality, differs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe:
    name: str
    model: HashModel
    data: RetrievalData
    modality: Modality
    searched: Tensor
    seed: int

    def scale(self, attack_name: str, attack: Attack) -> list[Flag]:
        """Craft on the model and on one whose last layer is 64 times larger.

        Both in one batch, with one goal (their codes are the same): sign steps amplify the last
        bit by which another batch may differ, so what the evaluation crafted is no baseline.
        """
        scaled = copy.deepcopy(self.model)
        with torch.no_grad():
            for parameter in scaled.encoder(self.modality).head.parameters():
                parameter.mul_(64)
        goal = self._goal(attack)
        before, after = (self._map(attack, model, goal) for model in (self.model, scaled))
        difference = abs(before - after)
        return _over("scale", self.name, f"{attack_name}, {self.modality}", difference)

    def limits(self) -> list[Flag]:
        """Give own-code PGD more steps, and then the whole range as its budget."""
        few, many = OwnCode(steps=10), OwnCode(steps=50)
        goal = self._goal(few)
        gain = self._map(few, self.model, goal) - self._map(many, self.model, goal)
        wide = OwnCode(eps=1.0, text_eps=1.0, steps=40)
        counts = self._counts(wide, self.model, goal)
        left = mean_average_precision(counts).value - chance_map(counts).value
        where = f"own-code, {self.modality}"
        return [
            *_over("not-converged", self.name, where, gain),
            *_over("bounded-optimum", self.name, where, left),
        ]

    def _goal(self, attack: Attack) -> Goal:
        positions, victim = self.data.positions("query", self.modality), Victim(model=self.model)
        return own_code_goal(attack, victim, self.data, self.modality, positions, seed=self.seed)

    def _map(self, attack: Attack, model: HashModel, goal: Goal) -> float:
        return mean_average_precision(self._counts(attack, model, goal)).value

    def _counts(self, attack: Attack, model: HashModel, goal: Goal) -> DistanceCounts:
        positions = self.data.positions("query", self.modality)
        made = craft(
            attack,
            Victim(model=model, low_precision=False),
            attacked_items(attack, model, self.data, self.modality, positions),
            goal,
            ids=torch.tensor(self.data.ids[positions]),
            seed=self.seed,
        )
        return counts_of(
            self.data,
            encode_items(self.model, self.modality, made.x_adv),
            self.searched,
            query=positions,
            database=self.data.split.database,
        )


def _over(flag: str, victim: str, subject: str, value: float) -> list[Flag]:
    return [_flag(flag, victim, subject, value)] if value > _LIMITS[flag] else []


def _flag(flag: str, victim: str, subject: str, value: float) -> Flag:
    return Flag(
        id=flag,
        victim=victim,
        subject=subject,
        value=value,
        threshold=_LIMITS[flag],
        message=FLAGS[flag],
    )
