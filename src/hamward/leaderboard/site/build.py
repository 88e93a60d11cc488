"""Write the site: pages that need no server, no request and, but for sorting, no script."""

import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hamward.artifacts import read_json, write_atomically, write_json
from hamward.config import from_mapping, to_mapping
from hamward.errors import ArtifactError, ConfigError
from hamward.evaluation.diagnostics import FLAGS
from hamward.evaluation.report.curves import distance_figures, lookup_figures
from hamward.evaluation.report.findings import Findings
from hamward.evaluation.report.tables import flat, grids
from hamward.evaluation.report.write import page_environment
from hamward.evaluation.results import Evaluation, Row
from hamward.leaderboard.entry import Entry, read_board
from hamward.leaderboard.site.figures import budget_figure, clean_robust_panels
from hamward.leaderboard.site.standing import Line, lines_of
from hamward.leaderboard.stored import GALLERY

__all__ = ["build_site"]

_LIST = "site.json"
_PICTURE = re.compile(r"data:image/webp;base64,[A-Za-z0-9+/=]*")


def build_site(board: Path, out: Path) -> Path:
    """Write index.html, a page for each entry, and the entries themselves.

    The same entries give the same bytes. Numbers are shown as the entries say them; it is
    `verify_entry` that recomputes them. What the pages take from artifacts must have the hashes
    that the entry names.

    Args:
        board: The leaderboard's folder.
        out: Where to: a new or empty folder, or one that was written by this function.

    Returns:
        The index.

    Raises:
        ArtifactError: no entries, one is damaged, its artifacts are not those that it names, or
            the folder holds other files.
    """
    entries = read_board(board)
    before = _written_before(out)
    environment = _environment()
    lines = lines_of(entries)
    pages = {f"entries/{e.name}.html": _entry_page(environment, e, lines, board) for e in entries}
    pages["index.html"] = _index_page(environment, lines)
    for entry in entries:
        pages[f"entries/{entry.name}.json"] = (board / "entries" / f"{entry.name}.json").read_text(
            encoding="utf-8"
        )
    # Listed before they are written, so that a build that was interrupted may be repeated.
    write_json(out / _LIST, {"files": sorted({*before, *pages})})
    for path, text in pages.items():
        if path not in before or _read(out / path) != text:
            _write(out / path, text)
    for path in before - pages.keys():
        (out / path).unlink(missing_ok=True)
    write_json(out / _LIST, {"files": sorted(pages)})
    return out / "index.html"


def _written_before(out: Path) -> set[str]:
    """Return what an earlier build left; refuse a folder of somebody else's."""
    if not out.exists() or not any(out.iterdir()):
        return set()
    if not (out / _LIST).exists():
        raise ArtifactError(f"{out}: not empty and no site of ours; choose another folder")
    files = read_json(out / _LIST).get("files")
    known = re.compile(r"index\.html|entries/[A-Za-z0-9._+-]+\.(html|json)")
    if not isinstance(files, list) or not all(known.fullmatch(str(f)) for f in files):
        raise ArtifactError(f"{out / _LIST}: not the list of a site's files")
    return set(files)


def _index_page(environment: jinja2.Environment, lines: Sequence[Line]) -> str:
    entries = [line.entry for line in lines]
    return environment.get_template("index.html.j2").render(
        lines=lines,
        panels=clean_robust_panels(lines),
        data_sets=sorted({e.data.name for e in entries}),
        threats=sorted({e.threat.id for e in entries}),
        code_lengths=sorted({e.model.code_length for e in entries}),
        limited=any(e.protocol.limited for e in entries),
        root="",
    )


def _entry_page(
    environment: jinja2.Environment, entry: Entry, lines: Sequence[Line], board: Path
) -> str:
    folder = board / "entries" / entry.artifacts
    for path in ("results.json", GALLERY):
        _check(entry, folder, path)
    findings = Findings(evaluation=Evaluation.load(folder))
    budget = budget_figure(entry, [line.entry for line in lines])
    lookups = [*lookup_figures(findings), *distance_figures(findings)]
    return environment.get_template("entry.html.j2").render(
        line=next(line for line in lines if line.entry is entry),
        entry=entry,
        grids=[*grids(findings, within=False), *grids(findings, within=True)],
        figures=[*([budget] if budget else []), *lookups],
        exhibits=_exhibits(folder / GALLERY),
        meanings=FLAGS,
        protocol=flat(to_mapping(entry.protocol)),
        recipe=flat(entry.model.recipe),
        card=flat(entry.model.card),
        environment=flat(entry.environment),
        attacks=[(a, flat(a.options)) for a in entry.threat.attacks],
        command=_command(entry.command),
        root="../",
    )


def _check(entry: Entry, folder: Path, path: str) -> None:
    wanted = next((file for file in entry.files if file.path == path), None)
    if wanted is None:
        raise ArtifactError(f"{entry.name}: files lack {path!r}")
    trouble = wanted.trouble(folder / path)
    if trouble is not None:
        raise ArtifactError(f"{folder / path}: {trouble}; `hamward leaderboard verify` tells more")


def _exhibits(file: Path) -> list[dict[str, Any]]:
    """Return the gallery; every picture must be inside the file, none an address."""
    exhibits = read_json(file).get("exhibits")
    try:
        made = [{**e, "row": from_mapping(Row, e["row"], path="row.")} for e in exhibits or ()]
    except (TypeError, KeyError, ConfigError) as error:
        raise ArtifactError(f"{file}: no gallery ({error})") from error
    for key, text in _texts(exhibits):
        if key in ("picture", "difference") and not _PICTURE.fullmatch(text):
            raise ArtifactError(f"{file}: a {key} must be a WebP data URI, got {text[:40]!r}")
    return made


def _texts(value: Any, key: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [found for k, v in value.items() for found in _texts(v, k)]
    if isinstance(value, list):
        return [found for v in value for found in _texts(v, key)]
    return [(key, str(value))]


def _command(words: Sequence[str]) -> str:
    return " ".join(
        word if re.fullmatch(r"[\w./:=,@+-]+", word) else json.dumps(word) for word in words
    )


def _environment() -> jinja2.Environment:
    environment = page_environment("hamward.leaderboard.site")
    environment.globals["themes"] = Markup(_themes())
    environment.filters["signed"] = lambda value: f"{value + 0.0:+.3f}"
    environment.filters["short"] = lambda digest: str(digest)[:12]
    environment.filters["duration"] = _duration
    return environment


def _themes() -> str:
    """Return the report's colors once more, for readers who choose light or dark by hand."""
    style = (resources.files("hamward.evaluation.report") / "chart.css").read_text("utf-8")
    light, dark = re.findall(r":root \{\s*(.*?)\s*\}", style, re.DOTALL)[:2]
    light = light.replace("color-scheme: light dark;", "")
    return (
        f':root[data-theme="light"] {{ color-scheme: light; {light} }}\n'
        f':root[data-theme="dark"] {{ color-scheme: dark; {dark} }}'
    )


def _duration(seconds: float | None) -> str:
    """Return a time as a person says it.

    Example:
        >>> _duration(42.0), _duration(600.0), _duration(9000.0), _duration(None)
        ('42 s', '10 min', '2.5 h', 'unknown')
    """
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _read(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _write(file: Path, text: str) -> None:
    def fill(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    write_atomically(file, fill)
