"""Every error that hamward raises on purpose, and the sentence helpers they share."""

import difflib
from collections.abc import Iterable

__all__ = [
    "AccessError",
    "ArtifactError",
    "BudgetError",
    "ConfigError",
    "DataError",
    "HamwardError",
    "QueryLimitError",
    "ShapeError",
    "TrainingError",
    "UnknownNameError",
    "unknown_name",
]


class HamwardError(Exception):
    """Base class. The message says what was wrong, the value seen and what is allowed."""


class ConfigError(HamwardError):
    """A configuration key, type or value that does not exist or does not fit."""


class UnknownNameError(ConfigError):
    """A method, data set or option that is not registered."""


class BudgetError(HamwardError):
    """A perturbation budget outside its range."""


class ShapeError(HamwardError):
    """A tensor with the wrong shape, dtype or range."""


class AccessError(HamwardError):
    """An attack asked its victim for something that the threat model does not grant."""


class QueryLimitError(AccessError):
    """An attack wanted to submit more items than its ledger allows."""


class DataError(HamwardError):
    """A data set, picture or text that cannot be used."""


class TrainingError(HamwardError):
    """A training run that can not go on."""


class ArtifactError(HamwardError):
    """A run folder, checkpoint or file of ours that is damaged, foreign or missing."""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> UnknownNameError:
    """Build the error for a name nobody registered, with the nearest valid names first."""
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return UnknownNameError(f"unknown {kind} {name!r}: {hint}known: {', '.join(names)}")
