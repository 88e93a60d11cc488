"""The site: a page for every registered method, and a build that asks nobody for anything."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import docstrings
import pytest
from board_rows import board_rows
from doc_blocks import ROOT, blocks_of, words_of
from dry_run import dry_run
from method_pages import Page, pages

import hamward.metrics
from hamward.artifacts import write_json
from hamward.attacks import CMLA, HAG
from hamward.cli.listing import method_tables, option_rows
from hamward.errors import ArtifactError
from hamward.models.networks import IMAGE_NETWORKS, TEXT_NETWORKS, TEXT_TRANSFORMERS
from hamward.recipes import recipe_names

METHODS = [(kind, name) for kind, table in method_tables().items() for name in table]


@pytest.fixture(scope="module")
def made() -> dict[str, Page]:
    return {page.path: page for page in pages()}


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_every_method_has_a_page_with_source_and_deviations(
    kind: str, name: str, made: dict[str, Page]
) -> None:
    entry = method_tables()[kind][name]
    text = made[f"methods/{kind}/{name}.md"].text
    for head in ("## Source", "## Where it differs"):
        assert re.search(rf"^{head}\n\n[^#\n]", text, re.M), f"{name} says nothing under {head}"
    assert docstrings.escaped(entry.summary) in text
    assert docstrings.escaped(entry.citation) in text and docstrings.escaped(entry.threat) in text
    for option, (_, default) in option_rows(entry).items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{option}` |"))
        assert f"`{default}`" in row
        assert not row.endswith("|  |"), f"{name} says nothing about {option}"
    for block in blocks_of(text, "console"):
        for command in block.commands:
            dry_run(words_of(command))


def test_overviews_name_every_method(made: dict[str, Page]) -> None:
    for kind, table in method_tables().items():
        overview = made[f"methods/{kind}/index.md"].text
        assert all(f"[{name}]({name}.md)" in overview for name in table)


def test_victims_show_their_recipes_and_published_values(made: dict[str, Page]) -> None:
    text = "\n".join(page.text for page in made.values())
    assert all(f"## Recipe {name}\n" in text for name in recipe_names())
    dcmh = made["methods/victims/dcmh.md"].text
    assert "| mirflickr | i2t | 0.741 | 0.7465 | 0.7485 |" in dcmh and "unverified" in dcmh


def test_networks_and_metrics_are_all_described(made: dict[str, Page]) -> None:
    networks = made["methods/networks.md"].text
    for name in (*IMAGE_NETWORKS, *TEXT_NETWORKS, *TEXT_TRANSFORMERS):
        assert f"\n### {name}\n" in networks
    metrics = made["methods/metrics.md"].text
    assert all(f"\n## {name}\n" in metrics for name in hamward.metrics.__all__)


def make_entry(**changed: object) -> dict[str, object]:
    estimate = {"map": 0.25, "low": 0.2, "high": 0.3}
    return {
        "name": "first",
        "model": {"method": "dcmh", "defenses": ["saat"], "purifiers": [], "code_length": 32},
        "threat": {
            "id": "image-linf-8/255",
            "attacks": [
                {"name": "cmla@steps=5", "options": {"steps": 5}},
                {"name": "mine", "options": {"attack": "own-code"}},
            ],
        },
        "data": {"name": "openclipart27"},
        "scores": [
            {"direction": "i2t", "chance": 0.125, "clean": {"map": 0.5}, "robust": estimate}
        ],
        "flags": [{"id": "ties"}, {"id": "ties"}],
        **changed,
    }


def test_rows_of_a_board_stand_on_the_pages_of_their_methods(tmp_path: Path) -> None:
    write_json(tmp_path / "entries" / "first.json", make_entry())
    text = {p.path: p.text for p in pages(board_rows(tmp_path))}
    row = (
        "| first | dcmh | saat | openclipart27 | 32 | image-linf-8/255 | i2t | 0.500 | 0.250 | "
        "0.200-0.300 | 0.125 | ties |"
    )
    shown = {path for path, page in text.items() if row in page}
    names = ("victims/dcmh", "defenses/saat", "attacks/cmla", "attacks/own-code")
    assert shown == {f"methods/{name}.md" for name in names}


def test_a_board_without_good_entries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no leaderboard"):
        board_rows(tmp_path)
    write_json(tmp_path / "entries" / "first.json", make_entry(scores=[{}]))
    with pytest.raises(ArtifactError, match=r"first.json: no entry .*robust"):
        board_rows(tmp_path)


def test_a_docstring_is_taken_apart() -> None:
    def method(base: int, *, rate: float, eps: float) -> HAG:
        """One line.

        More of it.

        Source: somebody, 2020,
            Eq. (1).
        Differs: nothing known.

        Args:
            base: A thing, of
                two lines.
            rate, eps: Two.

        After the sections.
        """
        return HAG()

    doc = docstrings.read(method)
    assert doc.text == "One line.\n\nMore of it.\n\nAfter the sections."
    assert doc.sections["Source"] == "somebody, 2020,\nEq. (1)."
    assert doc.items() == {"base": "A thing, of two lines.", "rate": "Two.", "eps": "Two."}
    texts = docstrings.option_texts(method)
    assert texts["rate"] == "Two." and texts["steps"] == "Gradient steps."  # by what it returns
    assert docstrings.option_texts(CMLA)["p"] == "Norm of the distance term."


def test_words_are_no_marks() -> None:
    assert docstrings.escaped("a_b * <c> `d_e|f` |u|") == (r"a\_b \* &lt;c> `d_e|f` &#124;u&#124;")
    assert docstrings.prose("one\ntwo\n\n    x = 1\n\n- a\n- b") == (
        "one two\n\n```text\nx = 1\n```\n\n- a\n- b"
    )


class Requests(HTMLParser):
    """Collects what a browser fetches for a page without being asked."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.found.append(values.get("src") or "")
        elif tag == "link":
            self.found.append(values.get("href") or "")


def test_the_site_builds_strictly_and_asks_no_other_host(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)],
        cwd=ROOT,
        check=True,
    )
    for file in site.rglob("*.html"):
        parser = Requests()
        parser.feed(file.read_text(encoding="utf-8"))
        outside = [url for url in parser.found if "//" in url]
        assert not outside, file
    for file in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", file.read_text(encoding="utf-8")), file
    assert "__index" in (site / "search" / "search_index.js").read_text(encoding="utf-8")[:20]
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {document["location"] for document in index["docs"]}
    assert {f"methods/{kind}/{name}.html" for kind, name in METHODS} <= found
    start = (site / "index.html").read_text(encoding="utf-8")
    written = {f.stem for f in (ROOT / "docs").glob("*.md")} - {"index"}
    assert all(f'href="{name}.html"' in start for name in written), "not in the navigation"
