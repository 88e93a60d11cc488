"""The parts of a bench recipe: victims, defenses, threats, tables, published numbers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

from hamward.errors import ConfigError, unknown_name
from hamward.evaluation.results import CLEAN
from hamward.types import Access, Direction, Modality

__all__ = [
    "AXES",
    "CLEAN_THREAT",
    "DefenseSpec",
    "FULL",
    "Metric",
    "OWN",
    "PublishedMaps",
    "PublishedValues",
    "Reference",
    "TableSpec",
    "ThreatSpec",
    "UNDEFENDED",
    "VictimSpec",
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
