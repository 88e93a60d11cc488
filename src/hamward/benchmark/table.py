"""Measured cells and published numbers as the tables that a recipe describes."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hamward.artifacts import write_atomically, write_json
from hamward.benchmark.plan import Place, Plan
from hamward.benchmark.runner import Summary
from hamward.benchmark.specs import AXES, CLEAN_THREAT, Reference, TableSpec
from hamward.benchmark.store import Store
from hamward.evaluation.table import aligned
from hamward.types import modalities_of

__all__ = ["BenchTable", "Entry", "bench_tables", "write_tables"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One cell of a table.

    Attributes:
        at: Where it stands, all axes.
        values: Measured values, one a seed; empty without data.
        intervals: 95 % intervals of MAP over queries, one a seed; empty for other metrics.
        chance: MAP of a random ranking; None without data.
        published: What was printed, on this data set.
        elsewhere: What was printed on others, by data set.
        cells: Cells that the values come from.
    """

    at: dict[str, Any]
    values: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    chance: float | None
    published: Reference | None
    elsewhere: dict[str, Reference]
    cells: tuple[str, ...]

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None without data."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over several seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """Measured minus published; None where either is missing."""
        if self.mean is None or self.published is None:
            return None
        return self.mean - self.published.value


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchTable:
    """One table: its layout and its entries, row by row."""

    name: str
    spec: TableSpec
    rows: tuple[dict[str, Any], ...]
    columns: tuple[dict[str, Any], ...]
    entries: tuple[tuple[Entry, ...], ...]


def bench_tables(plan: Plan, store: Store) -> list[BenchTable]:
    """Read what finished cells measured into the recipe's tables."""
    finished = store.finished()
    measured = {
        name: store.record(name).get("measures", [])
        for name in dict.fromkeys(plan.places.values())
        if name in finished
    }
    references = plan.recipe.references()
    tables = []
    for name, spec in plan.recipe.tables.items():
        fixed = {axis: spec.values(axis)[0] for axis in _fixed(spec)}
        rows = spec.keys(spec.rows)
        columns = [c for c in spec.keys(spec.columns) if _attackable(plan, c)]
        tables.append(
            BenchTable(
                name=name,
                spec=spec,
                rows=tuple(rows),
                columns=tuple(columns),
                entries=tuple(
                    tuple(
                        _entry(plan, {**fixed, **row, **column}, measured, references)
                        for column in columns
                    )
                    for row in rows
                ),
            )
        )
    return tables


def write_tables(folder: Path, plan: Plan, store: Store, summary: Summary) -> str:
    """Write table.md and table.json, and return the former's text.

    The same cells give the same bytes, whoever ran them and in whatever order.
    """
    tables = bench_tables(plan, store)
    text = _markdown(plan, tables, store, summary)
    write_atomically(folder / "table.md", lambda part: _fill(part, text))
    write_json(
        folder / "table.json",
        {
            "kind": "bench table",
            "recipe": plan.recipe.name,
            "title": plan.recipe.title,
            "source": plan.recipe.source,
            "about": plan.recipe.about,
            "protocol": plan.protocol,
            "tables": [_plain(table) for table in tables],
            "left_out": list(plan.left_out),
            "failures": {plan.cells[n].label: m for n, m in summary.failures.items()},
            "missing": len(plan.cells) - len(summary.done),
        },
    )
    return text


def _entry(
    plan: Plan,
    at: dict[str, Any],
    measured: Mapping[str, Sequence[Mapping[str, Any]]],
    references: Sequence[Reference],
) -> Entry:
    values, intervals, cells, chance = [], [], [], None
    for seed in plan.recipe.seeds:
        place = Place(
            **{k: v for k, v in at.items() if k not in ("direction", "metric")}, seed=seed
        )
        cell = plan.places.get(place)
        if cell is None:
            continue
        victim, source = plan.names[place]
        for found in measured.get(cell, ()):
            key = (found["victim"], found["crafted_on"], found["direction"])
            if key == (victim, source, at["direction"]) and at["metric"] in found:
                values.append(float(found[at["metric"]]))
                cells.append(cell)
                chance = float(found["chance"]) if chance is None else chance
                if at["metric"] == "map":
                    intervals.append((float(found["low"]), float(found["high"])))
    fitting = [r for r in references if all(at[axis] == value for axis, value in r.at.items())]
    name = Path(plan.data).name
    elsewhere: dict[str, Reference] = {}
    for reference in fitting:
        if reference.data != name:
            elsewhere.setdefault(reference.data, reference)
    return Entry(
        at=at,
        values=tuple(values),
        intervals=tuple(intervals),
        chance=chance,
        published=next((r for r in fitting if r.data == name), None),
        elsewhere=elsewhere,
        cells=tuple(cells),
    )


def _attackable(plan: Plan, column: Mapping[str, Any]) -> bool:
    """Return whether a column's threat attacks the items that ask in its direction."""
    threat = plan.recipe.threats.get(column.get("threat", CLEAN_THREAT))
    if threat is None or "direction" not in column:
        return True
    return modalities_of(column["direction"])[0] in threat.modalities


def _fixed(spec: TableSpec) -> list[str]:
    return [axis for axis in AXES if axis not in (*spec.rows, *spec.columns)]


def _markdown(plan: Plan, tables: Sequence[BenchTable], store: Store, summary: Summary) -> str:
    recipe = plan.recipe
    lines = [f"# {recipe.title}", "", f"{_protocol_line(plan)}.", ""]
    lines += [recipe.about.strip(), ""] if recipe.about.strip() else []
    for table in tables:
        lines += [f"## {table.spec.title}", "", _cells(plan, table, _shown), ""]
        lines += _chances(table)
        noted = {
            e.published.source: e.published for row in table.entries for e in row if e.published
        }
        if noted:
            lines += ["In brackets: published, then measured minus published.", ""]
            lines += [f"- {_source_line(r)}" for r in noted.values()] + [""]
        lines += _elsewhere(plan, table)
    flags = sorted({f for n in {*plan.places.values()} & summary.done for f in _flags(store, n)})
    if flags:
        lines += ["Flags (`docs/diagnostics.md`): " + "; ".join(flags) + ".", ""]
    if plan.left_out:
        lines += [
            "Empty because a defense is not for the victim: " + "; ".join(plan.left_out) + ".",
            "",
        ]
    missing = len(plan.cells) - len(summary.done)
    if missing:
        lines += [f"Unfinished: {missing} of {len(plan.cells)} cells.", ""]
        lines += [f"- failed: {plan.cells[n].label}: {m}" for n, m in summary.failures.items()]
    return "\n".join(lines).rstrip() + "\n"


def _chances(table: BenchTable) -> list[str]:
    """Return the floor of a table's MAPs, by direction."""
    if not any(metric.startswith("map") for metric in table.spec.metrics):
        return []
    found: dict[str, list[float]] = {}
    for entry in (entry for row in table.entries for entry in row):
        if entry.chance is not None:
            found.setdefault(entry.at["direction"], []).append(entry.chance)
    told = (
        f"{way} {min(c):.3f}" + (f" to {max(c):.3f}" if max(c) - min(c) >= 5e-4 else "")
        for way, c in found.items()
    )
    return [f"MAP of a random ranking: {', '.join(told)}.", ""] if found else []


def _flags(store: Store, name: str) -> list[str]:
    flags: list[str] = store.record(name).get("flags", [])
    return flags


def _cells(plan: Plan, table: BenchTable, show: Any) -> str:
    """Return a table in Markdown; `show` makes the text of an entry."""
    header = [*table.spec.rows, *(_label(plan, column) for column in table.columns)]
    body = [
        [*(plan.recipe.label(axis, row[axis]) for axis in table.spec.rows), *map(show, entries)]
        for row, entries in zip(table.rows, table.entries, strict=True)
    ]
    return aligned(header, body)


def _label(plan: Plan, column: Mapping[str, Any]) -> str:
    labels = (plan.recipe.label(axis, value) for axis, value in column.items())
    return ", ".join(filter(None, labels)) or "value"


def _shown(entry: Entry) -> str:
    published = entry.published
    if entry.mean is None:
        return "" if published is None else f"({published.value:.3f})"
    text = f"{entry.mean:.3f}"
    if entry.deviation is not None:
        text += f" ± {entry.deviation:.3f}"
    if published is not None and entry.difference is not None:
        text += f" ({published.value:.3f}, {entry.difference:+.3f})"
    return text


def _elsewhere(plan: Plan, table: BenchTable) -> list[str]:
    """Return the published numbers on other data sets, a table each: nothing to subtract."""
    entries = [entry for row in table.entries for entry in row]
    lines = []
    for data in dict.fromkeys(name for entry in entries for name in entry.elsewhere):

        def show(entry: Entry, data: str = data) -> str:
            found = entry.elsewhere.get(data)
            return "" if found is None else f"{found.value:.3f}"

        sources = {r.source: r for e in entries if (r := e.elsewhere.get(data)) is not None}
        lines += [f"Published on {data} (other data, so no difference is taken):", ""]
        lines += [_cells(plan, table, show), ""]
        lines += [f"- {_source_line(r)}" for r in sources.values()] + [""]
    return lines


def _source_line(reference: Reference) -> str:
    note = f"; {reference.note}" if reference.note else ""
    return f"{reference.source} ({reference.status}{note})"


def _protocol_line(plan: Plan) -> str:
    """Return the protocol of the numbers in one line."""
    p = plan.protocol
    spent = []
    for name, budget in p["budgets"].items():
        parts = [f"{key} {_amount(value)}" for key, value in budget.items()]
        spent.append(f"{name}: {', '.join(parts) or 'as the attack has it'}")
    return (
        f"{plan.recipe.name}, scale {p['scale']}, on {p['data']} (data {p['data_digest'][:12]}, "
        f"split {p['split']['protocol'] or 'shipped'} {p['split']['digest'][:12]}): "
        f"{p['queries']} queries, {p['database']} database items; ties count by their expected "
        f"value over all orders; "
        f"whole ranking unless a metric says @; pictures scored after rounding to 8 bits; seeds "
        f"{', '.join(map(str, p['seeds']))}; hamward {p['version']}; budgets: "
        f"{'; '.join(spent) or 'none'}"
    )


def _amount(value: float) -> str:
    level = value * 255
    small = isinstance(value, float) and 0 < value < 1
    return f"{level:g}/255" if small and abs(level - round(level)) < 1e-9 else f"{value:g}"


def _plain(table: BenchTable) -> dict[str, Any]:
    return {
        "name": table.name,
        "title": table.spec.title,
        "rows": list(table.rows),
        "columns": list(table.columns),
        "entries": [
            {
                "at": entry.at,
                "value": entry.mean,
                "deviation": entry.deviation,
                "values": list(entry.values),
                "intervals": [list(i) for i in entry.intervals],
                "chance": entry.chance,
                "published": _reference(entry.published),
                "difference": entry.difference,
                "elsewhere": {k: _reference(r) for k, r in sorted(entry.elsewhere.items())},
                "cells": list(entry.cells),
            }
            for row in table.entries
            for entry in row
        ],
    }


def _reference(reference: Reference | None) -> dict[str, Any] | None:
    if reference is None:
        return None
    return {
        "value": reference.value,
        "data": reference.data,
        "source": reference.source,
        "status": reference.status,
        "note": reference.note,
    }


def _fill(part: Path, text: str) -> None:
    part.write_text(text, encoding="utf-8")
