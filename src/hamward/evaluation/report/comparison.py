"""A comparison of victims as tables, charts and files."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hamward.artifacts import write_atomically, write_json
from hamward.evaluation.compare import Comparison, Standing, VictimFacts
from hamward.evaluation.gathering import Threat
from hamward.evaluation.report.figures import history_figures, share_axis
from hamward.evaluation.report.svg import (
    Axis,
    Level,
    Panel,
    Series,
    draw,
    nice_ticks,
    sheet,
    victim_color,
)
from hamward.evaluation.report.tables import history
from hamward.evaluation.report.wording import budget, budget_axis, reader_name, score, typed
from hamward.evaluation.report.write import plain
from hamward.evaluation.table import aligned

__all__ = ["comparison_markdown", "threat_name", "write_comparison"]

_WIDTH, _HEIGHT = 460, 300


def write_comparison(folder: Path, comparison: Comparison) -> Path:
    """Write compare.json (all), compare.md and compare.svg, each whole or not at all.

    Returns:
        The Markdown file.
    """
    masks = [v.name for v in comparison.victims if comparison.masks(v.name)]
    content: dict[str, Any] = {**asdict(comparison), "masking": masks}
    write_json(folder / "compare.json", plain(content))
    drawn = sheet(_panels(comparison), width=_WIDTH, height=_HEIGHT)
    _write(folder / "compare.svg", drawn)
    parts = [f"# {comparison.base} and its defenses", comparison_markdown(comparison)]
    parts.append("![Clean against robust MAP, MAP by budget, epochs](compare.svg)")
    for victim in comparison.victims:
        if victim.history:
            parts += [f"## Epochs of {victim.name} (validation MAP)"]
            parts += [aligned(*history(victim.history))]
    file = folder / "compare.md"
    _write(file, "\n\n".join(parts) + "\n")
    return file


def comparison_markdown(comparison: Comparison) -> str:
    """Return the table and what it means; across modalities, for victims of both."""
    header = ["threat", "victim", "clean", "robust", "95 %", "transfer", "recovered", "clean loss"]
    header += ["chance", "training", "diagnostics"]
    body = [
        [
            threat_name(standing.threat),
            standing.victim,
            score(standing.clean),
            score(standing.robust),
            f"{score(standing.low)}-{score(standing.high)}",
            _transfer(standing),
            "" if standing.victim == comparison.base else _share(standing.recovered),
            "" if standing.victim == comparison.base else f"{standing.clean_loss + 0.0:+.3f}",
            score(standing.chance),
            _cost(comparison.facts(standing.victim)),
            _doubts(comparison, standing.victim),
        ]
        for standing in _shown(comparison)
    ]
    return "\n".join([aligned(header, body), "", *_notes(comparison)])


def threat_name(threat: Threat) -> str:
    """Return direction and budget.

    Example:
        >>> threat_name(Threat(direction="i2t", stored="8-bit", norm="linf", eps=8 / 255))
        'i2t, l∞ ≤ 8/255'
    """
    if threat.words is not None:
        size = typed(threat.words)
    else:
        size = budget(threat)
    fractions = " (feature space)" if threat.stored == "feature-space" else ""
    return f"{threat.direction}, {size}{fractions}"


def _shown(comparison: Comparison) -> list[Standing]:
    standings = comparison.standings
    across = {s.victim for s in standings if s.threat.direction in ("i2t", "t2i")}
    return [s for s in standings if s.threat.direction in ("i2t", "t2i") or s.victim not in across]


def _transfer(standing: Standing) -> str:
    if standing.transfer is None:
        return ""
    return f"{score(standing.transfer)} from {', '.join(standing.transfer_from)}"


def _share(value: float | None) -> str:
    return "no gap" if value is None else f"{value + 0.0:.0%}"


def _cost(victim: VictimFacts) -> str:
    return "unknown" if victim.cost is None else f"{victim.cost:.1f}x"


def _doubts(comparison: Comparison, victim: str) -> str:
    facts = comparison.facts(victim)
    told = ", ".join(facts.flags)
    if comparison.masks(victim):
        return f"masking: {told}"
    return told or ("clear" if facts.probed else "not probed")


def _notes(comparison: Comparison) -> list[str]:
    p = comparison.protocol
    worst = (
        "the worst case of each query over all attacks crafted on the victim itself"
        if comparison.per_query
        else "the lowest MAP of one attack crafted on the victim itself, not the worst case of "
        "each query: an evaluation from before keeps no precision per query"
    )
    notes = [
        f"{p['data']}: {p['queries']} queries, {p['database']} database items; tie-aware MAP, "
        f"whole ranking; seed {p['seed']}.",
        f"robust: {worst}.",
        "transfer: crafted on another model, no robustness figure.",
        f"recovered: share of the gap between clean and robust MAP of {comparison.base} that is "
        "closed.",
        "training: wall clock in multiples of the base's, earlier victims of a chain included.",
        "masking: a flag says that attacks on this defense may have been misled "
        "(docs/diagnostics.md), so that its robust MAP is no evidence.",
    ]
    if comparison.outside:
        named = "; ".join(map(threat_name, comparison.outside))
        notes.insert(2, f"without `strongest`, so that robust MAP is only an upper bound: {named}.")
    return [f"- {note}" for note in notes]


def _panels(comparison: Comparison) -> list[Markup]:
    shown = _shown(comparison)
    threats = list(dict.fromkeys(s.threat for s in shown))
    style = {v.name: victim_color(i) for i, v in enumerate(comparison.victims)}
    panels = [_trade(threat, [s for s in shown if s.threat == threat], style) for threat in threats]
    families: dict[tuple[str, str, str], list[Threat]] = {}
    for threat in threats:
        families.setdefault((threat.direction, threat.stored, threat.norm), []).append(threat)
    panels += [_by_budget(f, shown, style) for f in families.values() if len(f) > 1]
    histories = {v.name: v.history for v in comparison.victims}
    for figure in history_figures(histories):
        panels += figure.panels
    return panels


def _trade(threat: Threat, standings: Sequence[Standing], style: dict[str, str]) -> Markup:
    """Draw clean against robust MAP, one point a victim."""
    low = min(s.clean for s in standings) - 0.03
    high = max(s.clean for s in standings) + 0.03
    return draw(
        Panel(
            title=threat_name(threat),
            alt=f"Clean and robust MAP under {threat_name(threat)}: "
            + "; ".join(f"{s.victim} {score(s.clean)} and {score(s.robust)}" for s in standings),
            x=Axis(low=low, high=high, ticks=nice_ticks(low, high), name="clean MAP"),
            y=share_axis("robust MAP", max(s.robust for s in standings)),
            series=tuple(
                Series(
                    points=((s.clean, s.robust),),
                    style=f"{style[s.victim]} points",
                    label=s.victim,
                    markers=True,
                )
                for s in standings
            ),
            width=_WIDTH,
            height=_HEIGHT,
        )
    )


def _by_budget(
    threats: Sequence[Threat], shown: Sequence[Standing], style: dict[str, str]
) -> Markup:
    """Draw robust MAP against the budget, from the clean MAP on."""
    first = threats[0]
    series = []
    for victim, color in style.items():
        own = [s for s in shown if s.victim == victim and s.threat in threats]
        if own:
            series.append(
                Series(
                    points=((0.0, own[0].clean), *((s.threat.eps, s.robust) for s in own)),
                    style=color,
                    label=victim,
                    markers=True,
                )
            )
    axis_name, unit = budget_axis(first.attacked, {first.norm})
    chance = next(s.chance for s in shown if s.threat == first)
    return draw(
        Panel(
            title=f"{reader_name(first.direction)}, {first.norm}",
            alt=f"Robust MAP by budget, {reader_name(first.direction)}",
            x=Axis(
                low=0,
                high=max(t.eps for t in threats),
                ticks=tuple((t.eps, f"{t.eps * unit:.3g}") for t in threats),
                name=axis_name,
            ),
            y=share_axis("robust MAP", max(y for s in series for _, y in s.points)),
            series=tuple(series),
            levels=(Level(y=chance, label=f"chance {score(chance)}"),),
            width=_WIDTH,
            height=_HEIGHT,
        )
    )


def _write(file: Path, text: str) -> None:
    def fill(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    write_atomically(file, fill)
