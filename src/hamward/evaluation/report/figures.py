"""Charts of MAP: by budget of the attack, and by epoch of training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from hamward.evaluation.evaluate import CLEAN, Row
from hamward.evaluation.report.findings import Findings
from hamward.evaluation.report.svg import Axis, Level, Panel, Series, draw, nice_ticks, victim_color
from hamward.evaluation.report.wording import budget_axis, reader_name, score
from hamward.registry import method_of
from hamward.types import DIRECTIONS, Direction, modalities_of

__all__ = ["Figure", "budget_figures", "history_figures", "share_axis"]

History = Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Panels that are read together, what to know about them, and how many stand in a row."""

    title: str
    caption: str
    panels: tuple[Markup, ...]
    columns: int = 2


def budget_figures(findings: Findings) -> list[Figure]:
    """Return MAP against eps: one panel per direction and attack that ran at several eps."""
    panels = []
    for direction in findings.directions(within=False):
        families: dict[str, list[str]] = {}
        for attack in findings.attacks(direction):
            families.setdefault(method_of(attack), []).append(attack)
        for name, attacks in families.items():
            panel = _budget_panel(findings, direction, name, attacks)
            if panel is not None:
                panels.append(draw(panel))
    caption = (
        "Each point is an attack crafted anew against the victim it is scored on; eps = 0 is the "
        "clean score. Band: 95 % bootstrap interval over queries. Picture scores are after "
        "8-bit rounding; budgets of texts are in feature space unless they count words."
    )
    return [Figure(title="MAP by budget", caption=caption, panels=tuple(panels))] if panels else []


def _budget_panel(
    findings: Findings, direction: Direction, name: str, attacks: Sequence[str]
) -> Panel | None:
    lines: list[Series] = []
    rows: list[Row] = []
    for number, victim in enumerate(findings.victims):
        found = [findings.row(victim, attack, direction) for attack in attacks]
        own = sorted((r for r in found if r is not None), key=lambda r: r.eps)
        clean = findings.clean(victim, direction)
        if len({r.eps for r in own}) < 2 or clean is None:
            continue
        own = [clean, *own]
        rows += own
        lines.append(
            Series(
                points=tuple((r.eps, r.map) for r in own),
                band=tuple((r.low, r.high) for r in own),
                style=victim_color(number),
                label=victim,
                markers=True,
            )
        )
    if not lines:
        return None
    norms = {row.norm for row in rows if row.attack != CLEAN}
    axis_name, unit = budget_axis(modalities_of(direction)[0], norms)
    every = sorted({r.eps for r in rows})
    y = share_axis("MAP", max(r.high for r in rows))
    return Panel(
        title=f"{reader_name(direction)} · {name}",
        alt=f"{reader_name(direction)} MAP by eps of {name}: "
        + "; ".join(f"{s.label} {_ends(s)}" for s in lines),
        x=Axis(
            low=0,
            high=every[-1],
            ticks=tuple((e, f"{e * unit:.3g}") for e in every),
            name=axis_name,
        ),
        y=y,
        series=tuple(lines),
        levels=(Level(y=rows[0].chance, label=f"chance {score(rows[0].chance)}"),),
        width=460,
        height=300,
    )


def _ends(series: Series) -> str:
    return f"{score(series.points[0][1])} to {score(series.points[-1][1])}"


def history_figures(histories: Mapping[str, History]) -> list[Figure]:
    """Return validation MAP per epoch, one panel a run."""
    panels = []
    for run, history in histories.items():
        keys = [k for k in (history[0] if history else {}) if k.split("_")[-1] in DIRECTIONS]
        series = []
        for key in keys:
            style = f"v{DIRECTIONS.index(key.split('_')[-1])}"
            points = tuple(
                (float(row.get("epoch", i)), float(row[key]))
                for i, row in enumerate(history, start=1)
                if key in row and math.isfinite(row[key])
            )
            dashed = " dashed" if key.startswith("attacked") else ""
            label = key.replace("_", " ")
            if points:
                series.append(
                    Series(points=points, style=style + dashed, label=label, markers=True)
                )
        if not series:
            continue
        values = [y for s in series for _, y in s.points]
        epochs = sorted({x for s in series for x, _ in s.points})
        panels.append(
            draw(
                Panel(
                    title=run,
                    alt=f"Validation MAP of {run} per epoch",
                    x=Axis(
                        low=min(epochs),
                        high=max(epochs),
                        ticks=tuple((e, f"{e:g}") for e in epochs),
                        name="epoch",
                    ),
                    y=share_axis("validation MAP", max(values)),
                    series=tuple(series),
                    width=460,
                    height=300,
                )
            )
        )
    caption = (
        "Tie-aware MAP of validation queries against the training items; it chose the epoch that "
        "was kept. Dashed: attacked with the short attack of training. Queries of the results "
        "above were not looked at."
    )
    if not panels:
        return []
    return [Figure(title="Training", caption=caption, panels=tuple(panels))]


def share_axis(name: str, highest: float) -> Axis:
    """Return an axis from 0 to just above the highest value."""
    high = min(max(highest * 1.06, 0.01), 1.0)
    return Axis(low=0, high=high, ticks=nice_ticks(0, high, wanted=5), name=name)
