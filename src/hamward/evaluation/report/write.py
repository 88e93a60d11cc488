"""Write a report: a page that needs nothing else, the same as Markdown, and as JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from hamward.artifacts import write_atomically, write_json
from hamward.data import RetrievalData
from hamward.evaluation.evaluate import CLEAN, Evaluation
from hamward.evaluation.report import wording
from hamward.evaluation.report.curves import distance_figures, lookup_figures
from hamward.evaluation.report.exhibits import Exhibit
from hamward.evaluation.report.figures import Figure, budget_figures, history_figures
from hamward.evaluation.report.findings import Findings
from hamward.evaluation.report.gallery import exhibit
from hamward.evaluation.report.headline import cards, sentences
from hamward.evaluation.report.markdown import markdown
from hamward.evaluation.report.tables import flat, grids, hubness, roundings
from hamward.progress import SILENT, Progress
from hamward.types import Modality, modalities_of

__all__ = ["page_environment", "plain", "write_report"]

_CASES: dict[Modality, int] = {"image": 6, "text": 4}


def write_report(
    folder: Path,
    evaluation: Evaluation,
    *,
    data: RetrievalData,
    artifacts: Path,
    title: str,
    facts: Mapping[str, Any] | None = None,
    histories: Mapping[str, list[dict[str, float]]] | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Write index.html, report.md and report.json, each whole or not at all.

    The page is one file without scripts or requests: it can be opened, sent and printed.

    Args:
        folder: Where to.
        evaluation: What was measured. Its first victim is the baseline that the others are
            compared with; the gallery shows it and "hardened" (or the last victim).
        data: The queries and database that were evaluated.
        artifacts: The folder that `evaluate` filled: codes and adversarial items.
        title: Heading of the page.
        facts: Plain values about the run: command, environment, times.
        histories: Training logs by run, as `fit` returns them.
        progress: Watches the gallery.

    Returns:
        The page.

    Raises:
        ArtifactError: codes or adversarial items are missing or belong to other queries.
    """
    findings = Findings(evaluation=evaluation)
    facts = dict(facts or {})
    exhibits = [
        found
        for modality, count in _CASES.items()
        if (
            found := exhibit(
                findings,
                modality,
                data=data,
                artifacts=artifacts,
                count=count,
                progress=progress,
            )
        )
    ]
    page = _page(
        findings, data=data, title=title, facts=facts, exhibits=exhibits, histories=histories
    )
    text = markdown(findings, title=title, facts=facts)
    file = folder / "index.html"
    _write(folder / "report.md", text)
    write_json(
        folder / "report.json",
        {
            "title": title,
            "headline": sentences(findings),
            "protocol": plain(evaluation.protocol),
            "rows": [plain(asdict(row)) for row in evaluation.rows],
            "flags": [plain(asdict(flag)) for flag in evaluation.flags],
            "gallery": [
                {
                    "direction": e.direction,
                    "attack": e.attack,
                    "chosen": e.chosen,
                    "ids": [case.item_id for case in e.cases],
                }
                for e in exhibits
            ],
            "facts": plain(facts),
        },
    )
    _write(file, page)
    return file


def _page(
    findings: Findings,
    *,
    data: RetrievalData,
    title: str,
    facts: Mapping[str, Any],
    exhibits: Sequence[Exhibit],
    histories: Mapping[str, list[dict[str, float]]] | None,
) -> str:
    protocol = dict(findings.evaluation.protocol)
    attacks = protocol.pop("attacks", {})
    sections: list[tuple[str, str, list[Figure]]] = [
        ("budget", "Robustness by budget", budget_figures(findings)),
        ("lookup", "Lookup curves", lookup_figures(findings)),
        ("distance", "Distances before and after", distance_figures(findings)),
    ]
    return (
        page_environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            data=data,
            findings=findings,
            sentences=sentences(findings),
            cards=cards(findings),
            main=grids(findings, within=False),
            within=grids(findings, within=True),
            details=[r for r in findings.evaluation.rows if not r.transfer and r.counts],
            flags=findings.evaluation.flags,
            hubness=hubness(findings),
            transfers=findings.transfers(),
            roundings=roundings(findings),
            sections=[s for s in sections if s[2]],
            exhibits=exhibits,
            training=history_figures(histories or {}),
            protocol=flat(protocol),
            attacks=[(name, flat(config)) for name, config in attacks.items()],
            facts=flat(facts),
        )
    )


def page_environment(*packages: str) -> jinja2.Environment:
    """Return what renders pages: the report's templates, style sheets and filters.

    Args:
        packages: Packages with more templates; their names go before the report's.
    """
    folders = [resources.files(name) for name in (*packages, "hamward.evaluation.report")]

    def load(name: str) -> str | None:
        found = next((folder / name for folder in folders if (folder / name).is_file()), None)
        return None if found is None else found.read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "breakable": _breakable,
        "budget": wording.budget,
        "code": _code,
        "interval": wording.interval,
        "levels": wording.in_levels,
        "percent": wording.percent,
        "reader": wording.reader_name,
        "score": wording.score,
        "size": _size,
    }
    environment.globals["CLEAN"] = CLEAN
    environment.globals["asked"] = lambda direction: modalities_of(direction)[0]
    environment.globals["answered"] = lambda direction: modalities_of(direction)[1]
    return environment


def _code(text: str) -> Markup:
    """Escape a sentence and set its backquoted names as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts)
    )


def _breakable(name: str) -> Markup:
    """Allow a line break before each "@" of an attack's name, and after each comma."""
    parts = (Markup(",<wbr>").join(part.split(",")) for part in name.split("@"))
    return Markup("<wbr>@").join(parts)


def _size(value: float, direction: str) -> str:
    return wording.in_levels(value) if direction[0] == "i" else f"{value:.3g}"


def plain(value: Any) -> Any:
    """Return what JSON can hold: other objects as text, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _write(file: Path, text: str) -> None:
    def fill(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    write_atomically(file, fill)
