"""Charts of codes: precision and recall of lookups, and distances, clean beside attacked."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from hamward.evaluation.evaluate import Curve
from hamward.evaluation.report.figures import Figure, share_axis
from hamward.evaluation.report.findings import Findings
from hamward.evaluation.report.svg import Axis, Panel, Series, draw, nice_ticks
from hamward.types import Direction

__all__ = ["distance_figures", "lookup_figures"]

_WIDTH, _HEIGHT = 264, 216


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """One victim in one direction: its curve on clean queries and, if attacked, after it."""

    direction: Direction
    victim: str
    curves: dict[str, Curve]

    @property
    def title(self) -> str:
        return f"{self.victim} · {self.direction}"

    @property
    def told(self) -> str:
        return f"{self.title}, {' and '.join(self.curves)} queries"


def lookup_figures(findings: Findings) -> list[Figure]:
    """Return precision-recall and precision@N, clean against attacked, per victim."""
    subjects = _subjects(findings)
    if not subjects:
        return []
    attacked, columns = _attacked_words(findings), _columns(findings, subjects)
    figures = [
        Figure(
            title="Precision and recall of lookups",
            caption="One point a radius 0..K: mean precision and mean recall of all items within "
            f"it; a lookup that finds nothing has precision 0.{attacked}",
            panels=tuple(_lookup_panel(subject) for subject in subjects),
            columns=columns,
        )
    ]
    if all(curve.cutoffs for subject in subjects for curve in subject.curves.values()):
        caption = "Expected precision over all orders of tied items, mean over queries."
        figures.append(
            Figure(
                title="Precision among the first N",
                caption=caption + attacked,
                panels=tuple(_cutoff_panel(subject) for subject in subjects),
                columns=columns,
            )
        )
    return figures


def distance_figures(findings: Findings) -> list[Figure]:
    """Return histograms of distances, clean above attacked, all panels at one scale."""
    subjects = _subjects(findings)
    if not subjects:
        return []
    top = max(
        max(*curve.relevant, *curve.irrelevant)
        for subject in subjects
        for curve in subject.curves.values()
    )
    return [
        Figure(
            title="Hamming distances of relevant and irrelevant pairs",
            caption="Share of relevant and of irrelevant (query, item) pairs at each distance, "
            "at one scale. An attack has succeeded where the two no longer differ."
            + _attacked_words(findings),
            panels=tuple(
                Markup("").join(
                    _distance_panel(subject, name, curve, top=top)
                    for name, curve in subject.curves.items()
                )
                for subject in subjects
            ),
            columns=_columns(findings, subjects),
        )
    ]


def _lookup_panel(subject: _Subject) -> Markup:
    return draw(
        Panel(
            title=subject.title,
            alt=f"Precision by recall: {subject.told}",
            x=Axis(low=0, high=1, ticks=nice_ticks(0, 1), name="recall"),
            y=share_axis("precision", 1.0),
            series=tuple(
                Series(
                    points=tuple(zip(curve.recall, curve.precision, strict=True)),
                    style=name,
                    label=name,
                    keyed=True,
                )
                for name, curve in subject.curves.items()
            ),
            width=_WIDTH,
            height=_HEIGHT,
        )
    )


def _cutoff_panel(subject: _Subject) -> Markup:
    cutoffs = next(iter(subject.curves.values())).cutoffs
    return draw(
        Panel(
            title=subject.title,
            alt=f"Precision among the first N: {subject.told}",
            x=Axis(
                low=cutoffs[0],
                high=cutoffs[-1],
                ticks=tuple((n, str(n)) for n in cutoffs),
                name="N",
                log=True,
            ),
            y=share_axis("precision", 1.0),
            series=tuple(
                Series(
                    points=tuple(zip(curve.cutoffs, curve.precision_at, strict=True)),
                    style=name,
                    label=name,
                    keyed=True,
                    markers=True,
                )
                for name, curve in subject.curves.items()
            ),
            width=_WIDTH,
            height=_HEIGHT,
        )
    )


def _distance_panel(subject: _Subject, name: str, curve: Curve, *, top: float) -> Markup:
    size = len(curve.relevant)
    return draw(
        Panel(
            title=f"{subject.title} · {name}",
            alt=f"Hamming distances of relevant and irrelevant pairs: {subject.title}, {name}",
            x=Axis(
                low=-0.5,
                high=size - 0.5,
                ticks=nice_ticks(0, size - 1, wanted=4),
                name="Hamming distance",
            ),
            y=share_axis("share", top),
            series=tuple(
                Series(points=_steps(shares), style=f"{kind} filled", label=kind, keyed=True)
                for kind, shares in (("relevant", curve.relevant), ("irrelevant", curve.irrelevant))
            ),
            width=_WIDTH,
            height=186,
        )
    )


def _subjects(findings: Findings) -> list[_Subject]:
    found = []
    for direction in findings.directions(within=False):
        attack = findings.shown(direction)
        for victim in findings.victims:
            rows = {
                "clean": findings.clean(victim, direction),
                "attacked": findings.row(victim, attack, direction) if attack else None,
            }
            curves = {
                name: curve
                for name, row in rows.items()
                if row is not None and (curve := findings.curve(row)) is not None
            }
            if "clean" in curves:
                found.append(_Subject(direction=direction, victim=victim, curves=curves))
    return found


def _columns(findings: Findings, subjects: Sequence[_Subject]) -> int:
    """Return four in a row where all fit, else a row a direction."""
    return len(subjects) if len(subjects) <= 4 else min(len(findings.victims), 4)


def _attacked_words(findings: Findings) -> str:
    shown = [(d, findings.shown(d)) for d in findings.directions(within=False)]
    told = "; ".join(f"{attack} ({direction})" for direction, attack in shown if attack)
    return f" Attacked: {told}." if told else ""


def _steps(shares: Sequence[float]) -> tuple[tuple[float, float], ...]:
    return tuple((d + side, share) for d, share in enumerate(shares) for side in (-0.5, 0.5))
