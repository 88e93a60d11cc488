"""Tables of methods and data sets."""

import dataclasses
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from hamward.errors import ConfigError, unknown_name
from hamward.recipes import recipe_names
from hamward.registry import Entry

if TYPE_CHECKING:
    from hamward.evaluation.published import MapKey, Ours

__all__ = ["method_tables", "option_rows", "show", "show_data"]


def method_tables() -> dict[str, Mapping[str, Entry[Any]]]:
    """Return every registered method, by kind and name."""
    from hamward.attacks import ATTACKS
    from hamward.defenses import DEFENSES
    from hamward.models import PURIFIERS
    from hamward.training import OBJECTIVES

    return {
        "victims": OBJECTIVES,
        "attacks": ATTACKS,
        "defenses": DEFENSES,
        "purifiers": PURIFIERS,
    }


def option_rows(entry: Entry[Any]) -> dict[str, tuple[str, str]]:
    """Return type and default of each option of a method, as words, by its name in Python."""
    rows = {}
    parameters = inspect.signature(entry.make).parameters
    given = ("base", "seed") if "base" in parameters else ()  # what `harden` gives a defense
    for name, parameter in parameters.items():
        if name in given:
            continue
        default = parameter.default
        if default is dataclasses.MISSING or default is inspect.Parameter.empty:
            default = "required"
        rows[name] = (_type_name(parameter.annotation), _value(default))
    return rows


def show(what: str | None, *, published: bool = False, runs: tuple[Path, ...] = ()) -> None:
    """Print all tables, one of them, or one method with its options.

    Args:
        what: A table, a method, or None for all tables.
        published: Print published MAPs of all victims that are shown; a victim that is named
            shows its own always.
        runs: Run folders whose MAPs are printed beside them.

    Raises:
        UnknownNameError: no such table or method.
        ArtifactError: one of `runs` holds no victim.
    """
    from hamward.evaluation.published import our_maps

    tables = method_tables()
    console = Console()
    if what in (None, "data"):
        _show_data_sets(console)
    if what in (None, "recipes"):
        console.print(f"recipes: {', '.join(recipe_names())}")
    if what in ("data", "recipes"):
        return
    methods = {f"{kind[:-1]} {n}": e for kind, t in tables.items() for n, e in t.items()}
    found = {label: e for label, e in methods.items() if e.name == what}
    if what is not None and what not in tables and not found:
        raise unknown_name(
            "list", what, [*tables, "data", "recipes", *(e.name for e in methods.values())]
        )
    for kind, table in tables.items():
        if what in (None, kind):
            _show_methods(console, kind, table)
    for label, entry in found.items():
        _show_method(console, label, entry)
    ours = our_maps(runs)
    for name in tables["victims"]:
        if what == name or (what in (None, "victims") and (published or runs)):
            _show_published(console, name, ours if runs else None)


def show_data(name: str, *, picture: Path | None, seed: int, options: Mapping[str, Any]) -> None:
    """Print what is in a data set, and draw examples if a file is named.

    Raises:
        ConfigError: the picture's name does not end in .png.
    """
    from hamward.artifacts import write_atomically
    from hamward.data import contact_sheet, describe, load_data

    if picture is not None and picture.suffix.lower() != ".png":
        raise ConfigError(f"--picture must name a .png file, got {picture}")
    data = load_data(name, **options)
    facts = describe(data)
    console = Console()
    histograms = {s: facts["splits"][s].pop("labels") for s in facts["splits"]}
    console.print_json(json.dumps(facts))
    table = Table("label", *histograms, "", title=f"{name}: items per label")
    largest = max(max(h.values(), default=1) for h in histograms.values())
    for label in data.label_names:
        counts = [histograms[s][label] for s in histograms]
        bar = "█" * round(30 * histograms["database"][label] / largest)
        table.add_row(label, *map(str, counts), bar)
    if data.label_names:
        console.print(table)
    if picture is not None:
        sheet = contact_sheet(data, seed=seed)
        write_atomically(picture, lambda part: sheet.save(part, format="PNG"))
        console.print(f"example pairs: {picture}")


def _show_data_sets(console: Console) -> None:
    from hamward.data import DATASETS, IMPORTERS
    from hamward.data.prepared import prepared_sets, read_manifest

    table = Table("name", "what", "source", "license", "shipped", title="data")
    for entry in DATASETS.values():
        table.add_row(
            entry.name, entry.summary, entry.source, entry.license, "yes" if entry.shipped else "no"
        )
    console.print(table)
    table = Table("name", "what", "citation", title="made with `hamward data prepare NAME`")
    for importer in IMPORTERS.values():
        table.add_row(importer.name, importer.summary, importer.citation)
    console.print(table)
    prepared = prepared_sets()
    if prepared:
        table = Table("name", "items", "protocol", "folder", title="prepared")
        for name, folder in prepared.items():
            manifest = read_manifest(folder)
            protocol = manifest["protocol"]["name"]
            table.add_row(name, f"{manifest['items']:,}", protocol, str(folder))
        console.print(table)


def _show_methods(console: Console, kind: str, table: Mapping[str, Entry[Any]]) -> None:
    shown = Table("name", "what", "citation", "threat model", "access", title=kind)
    for entry in table.values():
        shown.add_row(entry.name, entry.summary, entry.citation, entry.threat, entry.access)
    console.print(shown)


def _show_method(console: Console, label: str, entry: Entry[Any]) -> None:
    console.print(f"[bold]{label}[/bold]: {entry.summary}\n{entry.citation}; {entry.threat}\n")
    shared = filter(dataclasses.is_dataclass, getattr(entry.make, "__mro__", ())[1:])
    for described in (entry.make, *shared):
        console.print(inspect.getdoc(described) or "", "\n", markup=False, highlight=False)
    table = Table("option", "type", "default", title="options")
    for name, (kind, default) in option_rows(entry).items():
        table.add_row(f"--{name.replace('_', '-')}", kind, default)
    console.print(table)


def _show_published(
    console: Console, victim: str, ours: "Mapping[MapKey, list[Ours]] | None"
) -> None:
    """Print what others got, a row a source, with ours on the same data and bits below."""
    from hamward.evaluation.published import published_maps

    tables = published_maps(victim)
    if not tables:
        console.print(f"{victim}: no published clean MAP that could be read\n")
        return
    lengths = sorted({bits for table in tables for bits in table.bits})
    heads = [f"{bits} bits" if bits else "real-valued" for bits in lengths]
    shown = Table(
        "data", "", "source", "status", "metric", *heads, title=f"{victim}: published clean MAP"
    )
    for data, direction in sorted({(d, way) for t in tables for d in t.maps for way in t.maps[d]}):
        for table in tables:
            values = table.maps.get(data, {}).get(direction)
            if values is not None:
                value = dict(zip(table.bits, values, strict=True))
                cells = [
                    f"{value[bits]:.4f}".removesuffix("0") if bits in value else ""
                    for bits in lengths
                ]
                shown.add_row(data, direction, table.source, table.status, table.metric, *cells)
        if ours is not None:
            found = [ours.get((victim, data, direction, bits), []) for bits in lengths]
            cells = [", ".join(f"{o.map:.3f} ({o.run})" for o in cell) for cell in found]
            shown.add_row(data, direction, "ours", "", "MAP, whole ranking, tie-aware", *cells)
    console.print(shown)


def _type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def _value(default: Any) -> str:
    if (
        isinstance(default, float)
        and default
        and abs(default * 255 - round(default * 255, 6)) < 1e-9
    ):
        level = default * 255
        if level < 64 and abs(level * 2 - round(level * 2)) < 1e-9:
            return f"{level:g}/255"
    return str(default)
