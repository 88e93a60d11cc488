"""Bench recipes: one published table's layout as TOML, strict, at full and smaller scales."""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from hamward.attacks import TargetProtocol
from hamward.benchmark.specs import (
    AXES,
    CLEAN_THREAT,
    FULL,
    OWN,
    UNDEFENDED,
    DefenseSpec,
    Metric,
    PublishedMaps,
    PublishedValues,
    Reference,
    TableSpec,
    ThreatSpec,
    VictimSpec,
)
from hamward.config import from_mapping, read_toml
from hamward.errors import ConfigError, unknown_name
from hamward.evaluation.published import published_maps
from hamward.recipes import merged
from hamward.types import DIRECTIONS

__all__ = ["BenchRecipe", "bench_names", "read_bench"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRecipe:
    """All that a benchmark asks for, at one scale.

    Attributes:
        name: Its name.
        scale: "full" or another of the recipe's.
        title: Its heading.
        source: What it reproduces, or "hamward".
        about: What a reader must know: what is unknown of the original, what differs.
        data: Data sets that the original is of; any other may be named as well.
        data_options: Options of a shipped data set's loader.
        train: Values of `TrainConfig` for every victim.
        harden: Values of `FitConfig` for every hardening.
        victims: Victims by name.
        defenses: Defenses by name.
        threats: Threats by name.
        tables: Tables by name.
        published: Printed tables.
        published_maps: Printed clean MAPs that the package holds already.
        queries: Use this many queries only; None is all.
        seeds: Seeds of training and attacks; tables show mean and deviation of several.
        batch_size: Items a crafting chunk.
        target_protocol: Which labels targeted attacks shall reach.
    """

    name: str
    scale: str
    title: str
    source: str
    about: str = ""
    data: tuple[str, ...] = ()
    data_options: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    harden: dict[str, Any] = field(default_factory=dict)
    victims: dict[str, VictimSpec]
    defenses: dict[str, DefenseSpec] = field(default_factory=dict)
    threats: dict[str, ThreatSpec] = field(default_factory=dict)
    tables: dict[str, TableSpec]
    published: tuple[PublishedValues, ...] = ()
    published_maps: tuple[PublishedMaps, ...] = ()
    queries: int | None = None
    seeds: tuple[int, ...] = (0,)
    batch_size: int = 64
    target_protocol: TargetProtocol = "T4"

    def __post_init__(self) -> None:
        if not self.seeds or len({*self.seeds}) < len(self.seeds):
            raise ConfigError(f"seeds must be distinct and at least one, got {list(self.seeds)}")
        for reserved, held in ((UNDEFENDED, self.defenses), (CLEAN_THREAT, self.threats)):
            if reserved in held:
                raise ConfigError(f"{reserved!r} is a name of its own: take another")
        for name, table in self.tables.items():
            for axis in AXES:
                for value in table.values(axis):
                    self._check(f"tables.{name}", axis, value)
        for defense in self.defenses.values():
            for victim in defense.victims:
                self._check("defenses", "victim", victim)
        for values in self.published:
            for row in ({}, *values.rows):
                for column in values.columns:
                    for axis, value in {**values.at, **row, **column}.items():
                        self._check(f"published ({values.source})", axis, value)

    def _check(self, where: str, axis: str, value: Any) -> None:
        """Refuse the value of an axis that nothing in the recipe goes by."""
        known: dict[str, list[str]] = {
            "victim": list(self.victims),
            "defense": [UNDEFENDED, *self.defenses],
            "threat": [CLEAN_THREAT, *self.threats],
            "crafted_on": [OWN, *self.victims],
            "direction": list(DIRECTIONS),
            "metric": list(get_args(Metric)),
        }
        if axis not in AXES:
            raise unknown_name(f"axis in {where}", axis, AXES)
        if axis in known and value not in known[axis]:
            raise unknown_name(f"{axis} in {where}", str(value), known[axis])
        if axis == "code_length" and (not isinstance(value, int) or value < 0):
            raise ConfigError(f"{where}: code_length must be at least 0, got {value!r}")

    def label(self, axis: str, value: Any) -> str:
        """Return what a table calls a value of an axis."""
        specs: Mapping[str, Mapping[str, Any]] = {
            "victim": self.victims,
            "crafted_on": self.victims,
            "defense": self.defenses,
            "threat": self.threats,
        }
        spec = specs.get(axis, {}).get(value)
        if axis == "code_length":
            return f"{value} bits" if value else ""
        return (spec.label if spec is not None else "") or str(value)

    def references(self) -> list[Reference]:
        """Return every published number.

        Raises:
            ConfigError: `published_maps` names a source that `evaluation/published.toml` lacks.
        """
        found = []
        for table in self.published:
            for row, numbers in zip(table.rows, table.values, strict=True):
                for column, value in zip(table.columns, numbers, strict=True):
                    found.append(
                        Reference(
                            data=table.data,
                            at={**table.at, **row, **column},
                            value=value / 100 if table.percent else value,
                            source=table.source,
                            status=table.status,
                            note=table.note,
                        )
                    )
        for named in self.published_maps:
            found += _known_maps(self, named)
        return found


def _known_maps(recipe: BenchRecipe, named: PublishedMaps) -> list[Reference]:
    tables = [t for t in published_maps() if t.source == named.source]
    if not tables:
        raise ConfigError(f"published_maps: no table of published.toml has source {named.source!r}")
    found = []
    for table in tables:
        if table.victim not in recipe.victims:
            continue
        for data, directions in table.maps.items():
            for direction, values in directions.items():
                for bits, value in zip(table.bits, values, strict=True):
                    at: dict[str, Any] = {
                        "victim": table.victim,
                        "defense": UNDEFENDED,
                        "threat": CLEAN_THREAT,
                        "direction": direction,
                        "metric": named.metric,
                    }
                    if named.by_length:
                        at["code_length"] = bits
                    found.append(
                        Reference(
                            data=data,
                            at=at,
                            value=value,
                            source=table.source,
                            status=table.status,
                            note=table.metric,
                        )
                    )
    return found


def bench_names() -> list[str]:
    """Return the names of the shipped bench recipes."""
    names = (f.name for f in files("hamward.benchmark.recipes").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def read_bench(name: str, *, scale: str = FULL) -> BenchRecipe:
    """Read a bench recipe at one scale.

    Args:
        name: A shipped recipe, or a TOML file of the user's.
        scale: "full", or a key of the recipe's [scale] table, whose values go over the others.

    Raises:
        UnknownNameError: no such recipe or scale.
        ConfigError: a key is unknown or a value does not fit; the message has its path.
    """
    if name.endswith(".toml"):
        values = read_toml(Path(name))
    elif name in bench_names():
        file = files("hamward.benchmark.recipes") / f"{name}.toml"
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    else:
        raise unknown_name("bench recipe", name, [*bench_names(), "or a file that ends in .toml"])
    scales = values.pop("scale", {})
    allowed = {f.name for f in dataclasses.fields(BenchRecipe)} - {"name", "scale"}
    for key, over in scales.items():
        if not isinstance(over, Mapping):
            raise ConfigError(f"{name}: scale.{key} must be a table, got {over!r}")
        for inner in over:
            if inner not in allowed:
                raise unknown_name(f"key of {name}: scale.{key}:", inner, allowed)
    if scale != FULL:
        if scale not in scales:
            raise unknown_name(f"scale of {name}", scale, [FULL, *scales])
        values = merged(values, scales[scale])
    for key in ("name", "scale"):
        if key in values:
            raise ConfigError(f"{name}: unknown key {key!r}")
    stem = Path(name).stem if name.endswith(".toml") else name
    return from_mapping(BenchRecipe, {**values, "name": stem, "scale": scale}, path="")
