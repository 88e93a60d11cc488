"""The result table as text: the same numbers for the console, the README and the report."""

from collections.abc import Sequence

from hamward.evaluation.evaluate import CLEAN, Evaluation, Row
from hamward.registry import method_of
from hamward.types import DIRECTIONS, Direction

__all__ = [
    "aligned",
    "flag_lines",
    "hubness_cells",
    "hubness_header",
    "markdown_table",
    "protocol_line",
    "table_cells",
]

_ACROSS: tuple[Direction, ...] = ("i2t", "t2i")


def table_cells(
    evaluation: Evaluation, directions: Sequence[Direction] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Return header and body of the table: one line per victim, attack and direction.

    Attacks go by the names of their methods, with their options where these alone tell them apart.
    Transfers are left out: they are no robustness figures. Without `directions`, those across
    modalities are shown, and those within one for victims that have no others.
    """
    across = {row.victim for row in evaluation.rows if row.direction in _ACROSS}
    header = ["victim", "attack", "eps", "direction", "MAP", "95 %", "chance", "flips", "D (rms)"]
    targeted = any(row.target_map is not None for row in evaluation.rows)
    header += ["t-MAP", "t-chance"] if targeted else []
    alike: dict[tuple[str, str], set[str]] = {}
    for row in evaluation.rows:
        alike.setdefault((_method(row), _eps(row)), set()).add(row.attack)
    placed = next((row for row in evaluation.rows if row.hubness is not None), None)
    header += [] if placed is None else hubness_header(placed)
    body = [
        [
            row.victim,
            _method(row) if len(alike[_method(row), _eps(row)]) == 1 else _with_options(row),
            _eps(row),
            row.direction,
            f"{row.map:.3f}",
            f"{row.low:.3f}-{row.high:.3f}",
            f"{row.chance:.3f}",
            "" if row.attack == CLEAN else f"{row.flips:.0%}",
            "" if row.attack == CLEAN else f"{row.rms:.4f}",
            *(_target(row) if targeted else ()),
            *(hubness_cells(row) if placed is not None else ()),
        ]
        for direction in directions or DIRECTIONS
        for row in evaluation.rows
        if row.direction == direction and row.counts and not row.transfer
        if directions or direction in _ACROSS or row.victim not in across
    ]
    return header, body


def markdown_table(evaluation: Evaluation, directions: Sequence[Direction] | None = None) -> str:
    """Return the table in Markdown, columns aligned for reading as plain text."""
    return aligned(*table_cells(evaluation, directions))


def aligned(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown with columns of equal width."""
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (c.ljust(w) for c, w in zip(cells, widths, strict=True))
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([line(header), rule, *map(line, body)])


def protocol_line(evaluation: Evaluation) -> str:
    """Return the protocol of the numbers in one line."""
    p = evaluation.protocol
    placed, attacked = p.get("candidates"), ""
    if placed is not None:
        attacked = (
            f" {placed['count']} of them perturbed (role {placed['role']}) and no query: N_"
            f"{placed['k']}, reach and ranks are theirs;"
        )
    return (
        f"{p['data']}: {p['queries']} queries, {p['database']} database items;{attacked} "
        f"tie-aware MAP, whole ranking; images scored after rounding to 8 bits; attacks crafted "
        f"against the victim of their line; seed {p['seed']}"
    )


def flag_lines(evaluation: Evaluation) -> list[str]:
    """Return one line for each kind of doubt and victim, with where it arises."""
    found: dict[tuple[str, str], list[str]] = {}
    for flag in evaluation.flags:
        where = f"{flag.subject} ({flag.value:.3g}, limit {flag.threshold:.3g})"
        found.setdefault((flag.id, flag.victim), []).append(where)
    return [f"flag {flag}, {victim}: {'; '.join(w)}" for (flag, victim), w in found.items()]


def _method(row: Row) -> str:
    return "clean" if row.attack == CLEAN else method_of(row.attack)


def _with_options(row: Row) -> str:
    return row.attack.replace("@", ":", 1)


def _eps(row: Row) -> str:
    if row.attack == CLEAN:
        return ""
    if row.stored == "feature-space" or row.norm != "linf":
        return f"{row.eps:g}"
    return f"{row.eps * 255:g}/255"


def _target(row: Row) -> tuple[str, str]:
    if row.target_map is None or row.target_chance is None:
        return "", ""
    return f"{row.target_map:.3f}", f"{row.target_chance:.3f}"


def hubness_header(row: Row) -> list[str]:
    """Return the headings of `hubness_cells`, for rows with lists of this one's length."""
    k = row.hubness.k if row.hubness is not None else "k"
    return [f"N_{k}", "largest", "skewness", "reach", "rank", "relevant rank"]


def hubness_cells(row: Row) -> tuple[str, ...]:
    """Return how the attacked database items are found; see `results.Hubness`."""
    found = row.hubness
    if found is None:
        return ("",) * 6
    return (
        f"{found.mean:.2f}",
        f"{found.most:.1f}",
        f"{found.skewness:.2f}",
        "" if found.reach is None else f"{found.reach:.1%}",
        f"{found.rank:.0f}",
        "" if found.relevant_rank is None else f"{found.relevant_rank:.0f}",
    )
