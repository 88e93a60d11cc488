"""Methods as recipes ask for them: attacks within their threat's budget, options with defaults."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from hamward.attacks import ATTACKS, Attack, Budget, TrainableAttack
from hamward.benchmark.specs import ThreatSpec
from hamward.config import to_mapping
from hamward.errors import ConfigError
from hamward.evaluation.runs import make_attack
from hamward.registry import method_of
from hamward.types import Access, Modality

__all__ = ["budget_of", "build_attack", "options_of", "resolved_options", "steps_of"]

_GRANTS: tuple[Access, ...] = ("ranks", "codes", "gradients")


def build_attack(name: str, spec: ThreatSpec, *, path: str) -> Attack | TrainableAttack:
    """Build an attack within its threat's budget, and refuse one that is not.

    Raises:
        ConfigError: the attack has or was given another budget, cannot be bounded so, attacks
            another side, or asks for more access than the threat grants.
    """
    where = f"{path}.attacks.{name}"
    attack = make_attack(name, options_of(name, spec))
    if not set(spec.modalities) & set(attack.modalities):
        raise ConfigError(
            f"{where}: attacks {' and '.join(attack.modalities)}s, {path} is on "
            f"{' and '.join(spec.modalities)}s"
        )
    if _GRANTS.index(attack.access) > _GRANTS.index(spec.access):
        raise ConfigError(f"{where}: needs {attack.access}, {path} grants {spec.access}")
    submits = getattr(attack, "queries", None)
    if spec.queries is not None and submits is not None and submits > spec.queries:
        raise ConfigError(
            f"{where}: contradictory budget: {path} says {spec.queries} queries, the attack has "
            f"{submits}"
        )
    for modality in set(spec.modalities) & set(attack.modalities):
        said = _declared(spec, modality)
        if said is None:
            continue
        held = attack.budget(modality)
        words = held.insertions, held.deletions
        if (
            held.norm != said.norm
            or abs(held.eps - said.eps) > 1e-12
            or words != (said.insertions, said.deletions)
        ):
            raise ConfigError(
                f"{where}: contradictory budget: {path} says {_told(said)} for {modality}s, the "
                f"attack has {_told(held)}"
            )
    return attack


def options_of(name: str, spec: ThreatSpec) -> dict[str, Any]:
    """Return an attack's options with the threat's budget in those that it has."""
    given = dict(spec.attacks[name])
    entry = ATTACKS[given.get("attack", method_of(name))]
    takes = _parameters(entry.make)
    budget = {k: v for k, v in budget_of(spec).items() if k in takes}
    return {**budget, **given}


def budget_of(spec: ThreatSpec) -> dict[str, Any]:
    """Return what a threat says of its budget, by the names of attacks' options."""
    names = ("eps", "text_eps", "insertions", "deletions", "queries")
    return {n: getattr(spec, n) for n in names if getattr(spec, n) is not None}


def _declared(spec: ThreatSpec, modality: Modality) -> Budget | None:
    if modality == "image":
        return None if spec.eps is None else Budget(eps=spec.eps)
    if spec.insertions is not None and spec.deletions is not None:
        return Budget.edits(insertions=spec.insertions, deletions=spec.deletions)
    return None if spec.text_eps is None else Budget(eps=spec.text_eps)


def _told(budget: Budget) -> str:
    if budget.norm == "edits":
        return f"{budget.insertions} words in and {budget.deletions} out"
    return f"{budget.norm} of {budget.eps:.4g}"


@cache
def _parameters(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(make).parameters


def resolved_options(make: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a method with its defaults, so that a changed default is seen."""
    found = {
        name: parameter.default
        for name, parameter in _parameters(make).items()
        if name not in ("base", "seed") and parameter.default is not inspect.Parameter.empty
    }
    return {k: _plain(v) for k, v in {**found, **options}.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def steps_of(attack: Attack | TrainableAttack) -> float:
    """Return roughly how many passes an item takes; for estimates only."""
    values = to_mapping(attack)
    return float(values.get("steps") or values.get("queries") or values.get("epochs") or 100)
