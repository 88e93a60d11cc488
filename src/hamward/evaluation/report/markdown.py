"""The report as Markdown: sentences and tables, without pictures."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hamward.evaluation.evaluate import CLEAN, Row
from hamward.evaluation.report.findings import Findings
from hamward.evaluation.report.headline import sentences
from hamward.evaluation.report.tables import Grid, flat, grids, hubness, roundings
from hamward.evaluation.report.wording import budget, in_levels, interval, percent, score

__all__ = ["markdown"]


def markdown(findings: Findings, *, title: str, facts: Mapping[str, Any]) -> str:
    """Return the report as GitHub-flavored Markdown; names from outside are escaped."""
    parts = [f"# {_plain(title)}", *map(_sentence, sentences(findings))]
    parts.append("Figures, pictures and retrieved items: `index.html` beside this file.")
    parts.append("## Results")
    parts.append(
        "MAP over the whole ranking, expected value over ties; in brackets the 95 % bootstrap "
        "interval over queries. Every attack was crafted against the victim of its line; "
        "pictures are scored after rounding to 8 bits, texts in feature space unless the budget "
        "counts words."
    )
    parts += [_grid(grid) for within in (False, True) for grid in grids(findings, within=within)]
    if placed := hubness(findings):
        parts.append("## How the attacked database items are found")
        parts.append(_table(*placed))
    if flags := findings.evaluation.flags:
        parts.append("## Doubts that the evaluation raises by itself")
        head = ("flag", "victim", "where", "measured", "limit", "meaning")
        lines = [
            (f.id, f.victim, f.subject, f"{f.value:.3g}", f"{f.threshold:.3g}", f.message)
            for f in flags
        ]
        parts.append(_table(head, lines))
    transfers = findings.transfers()
    if transfers:
        parts.append("## Transfer, not a robustness figure")
        parts.append("Crafted on another model than the one scored; says who fools whom only.")
        parts.append(
            _table(
                ("victim", "crafted on", "attack", "direction", "budget", "MAP", "chance"),
                (
                    (
                        row.victim,
                        row.crafted_on,
                        row.attack,
                        row.direction,
                        budget(row),
                        f"{score(row.map)} {interval(row)}",
                        score(row.chance),
                    )
                    for row in transfers
                ),
            )
        )
    parts.append("## Every adaptive row")
    parts.append(_table(*_details(findings)))
    if found := roundings(findings):
        parts.append("## As stored and as crafted")
        parts.append(
            _table(
                ("victim", "attack", "direction", "8-bit MAP", "float MAP"),
                (
                    (
                        r.stored.victim,
                        r.stored.attack,
                        r.stored.direction,
                        score(r.stored.map),
                        score(r.crafted.map),
                    )
                    for r in found
                ),
            )
        )
    parts.append("## Protocol and reproduction")
    protocol = flat({**findings.evaluation.protocol, **facts})
    parts.append(_table(("key", "value"), protocol))
    return "\n\n".join(parts) + "\n"


def _grid(grid: Grid) -> str:
    head = ["victim", *("clean" if c.attack == CLEAN else c.attack for c in grid.columns)]
    lines = [
        [victim, *(f"{score(r.map)} {interval(r)}" if r else "not run" for r in row)]
        for victim, row in grid.lines
    ]
    lines.append(["chance", score(grid.chance), *("" for _ in grid.columns[1:])])
    note = f"### {grid.name} ({grid.direction}), {grid.queries} queries"
    return f"{note}\n\n{_table(head, lines)}"


def _details(findings: Findings) -> tuple[tuple[str, ...], Iterable[Sequence[str]]]:
    head = (
        "victim",
        "attack",
        "direction",
        "budget",
        "MAP",
        "95 % interval",
        "ties against..for",
        "chance",
        "bits flipped",
        "RMS",
        "largest",
        "queries",
    )
    rows = (r for r in findings.evaluation.rows if not r.transfer and r.counts)
    return head, (_detail(row) for row in rows)


def _detail(row: Row) -> tuple[str, ...]:
    image = row.attacked == "image"
    size = in_levels if image else lambda value: f"{value:.3g}"
    attacked = row.attack != CLEAN
    return (
        row.victim,
        row.attack if attacked else "clean",
        row.direction,
        budget(row) if attacked else "",
        score(row.map),
        interval(row),
        f"{score(row.pessimistic)}..{score(row.optimistic)}",
        score(row.chance),
        percent(row.flips) if attacked else "",
        size(row.rms) if attacked else "",
        size(row.linf) if attacked else "",
        str(row.queries),
    )


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(_plain, row)) + " |" for row in rows)


def _plain(text: str) -> str:
    """Escape what Markdown or its HTML would read as markup."""
    for sign in "\\`*_[]|":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())


def _sentence(text: str) -> str:
    """Keep the names in backquotes as code, escape the rest."""
    parts = text.split("`")
    return "`".join(p if i % 2 else _plain_words(p) for i, p in enumerate(parts))


def _plain_words(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
