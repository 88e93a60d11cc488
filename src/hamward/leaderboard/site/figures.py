"""Charts of the site: clean against robust MAP of all that compares, and MAP by budget."""

from collections.abc import Sequence

from markupsafe import Markup

from hamward.evaluation.report.figures import Figure, share_axis
from hamward.evaluation.report.svg import Axis, Level, Panel, Series, draw, nice_ticks
from hamward.evaluation.report.wording import budget_axis, reader_name, score
from hamward.leaderboard.entry import Entry, Score
from hamward.leaderboard.site.standing import Line

__all__ = ["budget_figure", "clean_robust_panels"]

_LABELED = 12  # more names than this would not fit beside a panel
_LONGEST = 22


def clean_robust_panels(lines: Sequence[Line]) -> list[tuple[Line, Markup]]:
    """Return one chart a group, with a line of the group; its points lead to the entries."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.group, []).append(line)
    return [(group[0], _panel(group)) for group in groups.values()]


def _panel(group: Sequence[Line]) -> Markup:
    first = group[0].entry
    scores = [line.entry.main for line in group]
    low = max(min(s.clean.map for s in scores) - 0.04, 0.0)
    high = min(max(s.clean.map for s in scores) + 0.04, 1.0)
    return draw(
        Panel(
            title=f"{first.data.name} · {first.threat.id}",
            alt=f"Clean and robust MAP on {first.data.name} under {first.threat.id}: "
            + "; ".join(
                f"{line.entry.model.name} {score(s.clean.map)} and {score(s.robust.map)}"
                for line, s in zip(group, scores, strict=True)
            ),
            x=Axis(
                low=low,
                high=high,
                ticks=nice_ticks(low, high),
                name=f"clean MAP ({first.main.direction})",
            ),
            y=share_axis("robust MAP", max(s.robust.high for s in scores)),
            series=tuple(_point(line, labeled=i < _LABELED) for i, line in enumerate(group)),
            levels=(Level(y=first.main.chance, label=f"chance {score(first.main.chance)}"),),
            width=460,
            height=300,
        )
    )


def _point(line: Line, *, labeled: bool) -> Series:
    entry = line.entry
    own = entry.main
    kind = "defended" if entry.model.defense else "undefended"
    name = entry.model.name
    name = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    return Series(
        points=((own.clean.map, own.robust.map),),
        style=f"{'masking' if entry.masking else kind} points",
        label=name if labeled else "",
        markers=True,
        link=f"entries/{entry.name}.html",
        told=f"{entry.model.name}: clean {score(own.clean.map)}, robust {score(own.robust.map)}"
        + (", counts as masking" if entry.masking else ""),
    )


def budget_figure(entry: Entry, entries: Sequence[Entry]) -> Figure | None:
    """Return robust MAP by budget over all entries of the same victim, if there are several."""
    worst: dict[float, Entry] = {}  # of several entries of one budget the lowest counts
    for other in sorted(entries, key=lambda e: -e.main.robust.map):
        if _same_family(other, entry):
            worst[other.threat.eps] = other
    family = [worst[eps] for eps in sorted(worst)]
    if len(family) < 2:
        return None
    axis_name, unit = budget_axis(entry.threat.attacked, {entry.threat.norm})
    series = []
    for i, own in enumerate(entry.scores):
        found = [
            (e.threat.eps, s) for e in family for s in e.scores if s.direction == own.direction
        ]
        points = ((0.0, own.clean.map), *((eps, s.robust.map) for eps, s in found))
        band = ((own.clean.low, own.clean.high), *((s.robust.low, s.robust.high) for _, s in found))
        series.append(
            Series(points=points, band=band, style=f"v{i}", label=own.direction, markers=True)
        )
    main: Score = entry.main
    panel = Panel(
        title=f"{entry.model.name} · {entry.threat.norm}",
        alt="Robust MAP by budget: "
        + "; ".join(
            f"{s.label} {score(s.points[0][1])} to {score(s.points[-1][1])}" for s in series
        ),
        x=Axis(
            low=0,
            high=family[-1].threat.eps,
            ticks=tuple(
                (eps, f"{eps * unit:.3g}") for eps in (0.0, *sorted(worst))
            ),
            name=axis_name,
        ),
        y=share_axis("MAP", max(high for s in series for _, high in s.band)),
        series=tuple(series),
        levels=(Level(y=main.chance, label=f"chance {score(main.chance)}"),),
        width=460,
        height=300,
    )
    return Figure(
        title="Robust MAP by budget",
        caption="Each point is an entry of this leaderboard, the worst case of each query; eps = 0 "
        "is the clean score. Band: 95 % bootstrap interval over queries. "
        f"{reader_name(main.direction).capitalize()} is the direction of the table.",
        panels=(draw(panel),),
        columns=1,
    )


def _same_family(one: Entry, other: Entry) -> bool:
    def key(e: Entry) -> tuple[object, ...]:
        weights = {f.path: f.sha256 for f in e.model.files}
        model = weights.get("model.safetensors"), weights.get("model.json")
        threat = (e.threat.attacked, e.threat.norm, e.threat.stored, e.threat.access)
        return model, e.data.digest, e.protocol.queries, e.protocol.seed, threat

    return key(one) == key(other)
