"""Bench recipes: one published table's layout as TOML, strict, at full and smaller scales."""

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from hamward.attacks import TargetProtocol
from hamward.config import from_mapping, read_toml
from hamward.errors import ConfigError, unknown_name
from hamward.evaluation.published import published_maps
from hamward.evaluation.results import CLEAN
from hamward.recipes import merged
from hamward.types import DIRECTIONS, Access, Direction, Modality

__all__ = [
    "AXES",
    "CLEAN_THREAT",
    "FULL",
    "OWN",
    "UNDEFENDED",
    "BenchRecipe",
    "DefenseSpec",
    "Metric",
    "PublishedMaps",
    "PublishedValues",
    "Reference",
    "TableSpec",
    "ThreatSpec",
    "VictimSpec",
    "bench_names",
    "read_bench",
]

Metric = Literal[
    "map", "map@5000", "r@1", "r@5", "r@10", "t-map", "t-chance", "chance", "D", "perceptibility"
]
"""What a cell of a table may hold; docs/bench.md says how each is computed."""

FULL = "full"
UNDEFENDED = CLEAN
CLEAN_THREAT = "clean"
OWN = "victim"
"""The value of the axis "crafted_on" for items that were crafted on the victim itself."""

AXES = {
    "victim": "victims",
    "code_length": "code_lengths",
    "defense": "defenses",
    "crafted_on": "crafted_on",
    "threat": "threats",
    "direction": "directions",
    "metric": "metrics",
}
"""Axis of a table -> field of `TableSpec` that holds its values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VictimSpec:
    """A victim.

    Attributes:
        recipe: Training recipe (`hamward list recipes`).
        label: Name in the table; "" is its key.
        set: Values of `TrainConfig` over the recipe's.
    """

    recipe: str
    label: str = ""
    set: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DefenseSpec:
    """A hardening of every victim that it is for.

    Attributes:
        defense: Registered name; "" is its key.
        label: Name in the table; "" is its key.
        options: Options of the defense.
        fit: Values of `FitConfig` for this hardening.
        victims: Victims that it is for; empty is all.
    """

    defense: str = ""
    label: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    victims: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreatSpec:
    """What an attacker may do, and the attacks that compete under it (worst case per query).

    The budget is said once, here: it becomes the options of every attack, and an attack that
    holds another one is refused.

    Attributes:
        attacks: By name: "attack" (registered name, by default the part of the name before "@")
            and options.
        label: Name in the table; "" is its key.
        modalities: Sides that are attacked.
        access: The most that an attack may ask of its victim.
        eps: l_inf radius of pictures, in [0, 1]; None leaves it to the attacks, or unbounded.
        text_eps: l_inf radius of texts in feature space; None likewise.
        insertions: Words that may be put in, for typed texts; None where texts are not typed.
        deletions: Words that may be taken out, likewise.
        queries: Most submissions of one item to the victim; None is no limit.
        diagnose: Probe victims for masked gradients here.
    """

    attacks: dict[str, Any]
    label: str = ""
    modalities: tuple[Modality, ...] = ("image", "text")
    access: Access = "gradients"
    eps: float | None = None
    text_eps: float | None = None
    insertions: int | None = None
    deletions: int | None = None
    queries: int | None = None
    diagnose: bool = False

    def __post_init__(self) -> None:
        edits = self.insertions is not None or self.deletions is not None
        if not self.attacks or not self.modalities:
            raise ConfigError("a threat needs attacks and modalities")
        if (self.insertions is None) != (self.deletions is None):
            raise ConfigError("contradictory budget: insertions and deletions go together")
        if edits and self.text_eps is not None:
            raise ConfigError("contradictory budget: texts are typed (insertions) or in text_eps")
        for modality, given in (
            ("image", self.eps is not None),
            ("text", edits or self.text_eps is not None),
        ):
            if given and modality not in self.modalities:
                raise ConfigError(f"contradictory budget: {modality}s have one and stay untouched")
        if self.queries is not None and self.queries < 1:
            raise ConfigError(f"queries must be at least 1, got {self.queries}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """One table: values of each axis, and which axes its rows and columns run over.

    Attributes:
        title: Its heading.
        rows: Axes of the rows, outer first.
        columns: Axes of the columns, outer first. An axis in neither has one value.
        victims: Names of victims.
        threats: Names of threats; "clean" is none.
        defenses: Names of defenses; "none" is the victim as trained.
        code_lengths: Bits K; 0 is the victim's own.
        crafted_on: Victims that items were crafted on; "victim" is the attacked one itself.
        directions: Directions of retrieval.
        metrics: Metrics.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    victims: tuple[str, ...]
    threats: tuple[str, ...]
    defenses: tuple[str, ...] = (UNDEFENDED,)
    code_lengths: tuple[int, ...] = (0,)
    crafted_on: tuple[str, ...] = (OWN,)
    directions: tuple[Direction, ...] = ("i2t", "t2i")
    metrics: tuple[Metric, ...] = ("map",)

    def __post_init__(self) -> None:
        for axis in (*self.rows, *self.columns):
            if axis not in AXES:
                raise unknown_name("axis", axis, AXES)
        if len({*self.rows, *self.columns}) < len(self.rows) + len(self.columns):
            raise ConfigError(f"table {self.title!r} has an axis twice")
        for axis, name in AXES.items():
            count = len(self.values(axis))
            if not count:
                raise ConfigError(f"table {self.title!r}: {name} must not be empty")
            if count > 1 and axis not in (*self.rows, *self.columns):
                raise ConfigError(
                    f"table {self.title!r} has {count} values of {axis}: put it into rows or "
                    "columns"
                )

    def values(self, axis: str) -> tuple[Any, ...]:
        """Return the values of an axis."""
        return tuple(getattr(self, AXES[axis]))

    def keys(self, axes: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return the cross product of some axes, the last one fastest."""
        chosen = product(*(self.values(axis) for axis in axes))
        return [dict(zip(axes, values, strict=True)) for values in chosen]

    def at(self) -> Iterator[dict[str, Any]]:
        """Yield where each cell of the table stands, all axes."""
        yield from self.keys(tuple(AXES))


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedValues:
    """A printed table, transcribed as it stands.

    Attributes:
        data: Data set it is of.
        source: Document, table and number.
        status: "seen" there, or "inferred" (something that identifies a value is not printed).
        note: What must be known before comparing.
        at: Axes that all values share.
        rows: Axes of each row.
        columns: Axes of each column.
        values: A row of numbers for each of `rows`.
        percent: Whether they are printed in percent.
    """

    data: str
    source: str
    status: Literal["seen", "inferred"]
    note: str = ""
    at: dict[str, Any] = field(default_factory=dict)
    rows: tuple[dict[str, Any], ...]
    columns: tuple[dict[str, Any], ...]
    values: tuple[tuple[float, ...], ...]
    percent: bool = False

    def __post_init__(self) -> None:
        if [len(row) for row in self.values] != [len(self.columns)] * len(self.rows):
            raise ConfigError(
                f"{self.source}: values must be {len(self.rows)} rows of {len(self.columns)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedMaps:
    """Clean MAPs that `evaluation/published.toml` holds already.

    Attributes:
        source: Its source there.
        by_length: Whether its code lengths are those of the table; else the length is ignored.
        metric: Metric of the table that they stand beside.
    """

    source: str
    by_length: bool = True
    metric: Metric = "map"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One published number, and where in a table it belongs."""

    data: str
    at: dict[str, Any]
    value: float
    source: str
    status: str
    note: str


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
