"""The site: the same bytes for the same entries, and used in a browser as readers use it."""

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_board import entry_file, with_new_hashes

from hamward.artifacts import read_json, write_json
from hamward.errors import ArtifactError
from hamward.evaluation.results import Flag
from hamward.leaderboard import build_site, read_board, read_entry
from hamward.leaderboard.entry import Entry, write_entry
from hamward.leaderboard.site.figures import budget_figure
from hamward.leaderboard.site.standing import lines_of

LARGE, SMALL = "image-linf-8/255", "image-linf-4/255"
CHROMIUM = "/usr/bin/chromium"
EVIL = "<script>alert(1)</script>"


def variant(entry: Entry, name: str, *, clean: float, robust: float, **changes: Any) -> Entry:
    """Another entry that shows the same artifacts."""
    first = entry.scores[0]
    score = dataclasses.replace(
        first,
        clean=dataclasses.replace(first.clean, map=clean),
        robust=dataclasses.replace(first.robust, map=robust, low=robust - 0.02, high=robust + 0.02),
    )
    model = dataclasses.replace(entry.model, name=name, **changes.pop("model", {}))
    data = dataclasses.replace(entry.data, **changes.pop("data", {}))
    return dataclasses.replace(entry, name=name, model=model, data=data, scores=(score,), **changes)


@pytest.fixture(scope="module")
def shown(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board of several victims: defended, masking, on other data, with other code lengths."""
    board = Path(shutil.copytree(made, tmp_path_factory.mktemp("shown") / "board"))
    entry = read_entry(entry_file(board, LARGE))
    for other in read_board(board):
        if other.threat.id not in (LARGE, SMALL):
            (board / "entries" / f"{other.name}.json").unlink()
    flag = Flag(id="scale", victim="x", subject="s", value=0.2, threshold=0.01, message=EVIL)
    hardened, masked = {"defenses": ("cmla",)}, {"defenses": ("saat",), "code_length": 64}
    for made_entry in (
        variant(entry, "alpha", clean=0.9, robust=0.2, flags=(), probed=True),
        variant(entry, "beta", clean=0.8, robust=0.6, model=hardened, flags=(), probed=True),
        variant(entry, "gamma", clean=0.7, robust=0.65, model=masked, flags=(flag,)),
        variant(entry, "delta", clean=0.5, robust=0.1, data={"name": "photos"}, flags=()),
    ):
        write_entry(board / "entries" / f"{made_entry.name}.json", made_entry)
    return board


@pytest.fixture(scope="module")
def site(shown: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_site(shown, tmp_path_factory.mktemp("site")).parent


def test_the_same_entries_give_the_same_bytes_and_old_pages_go(
    shown: Path, site: Path, tmp_path: Path
) -> None:
    board = Path(shutil.copytree(shown, tmp_path / "elsewhere"))
    out = tmp_path / "site"
    build_site(board, out)
    files = {p.relative_to(site): p.read_bytes() for p in site.rglob("*") if p.is_file()}
    assert {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} == files
    assert len(files) == 2 * len(read_board(shown)) + 2
    (board / "entries" / "delta.json").unlink()
    build_site(board, out)
    assert not (out / "entries" / "delta.html").exists()
    assert "photos" not in (out / "index.html").read_text(encoding="utf-8")


def test_pages_ask_for_nothing_and_run_nothing_of_an_entry(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", text), page
        assert "@import" not in text and "url(" not in text and EVIL not in text
    assert "colors" in (site / "index.html").read_text(encoding="utf-8")


def test_ranks_hold_among_what_compares_and_masking_has_none(shown: Path) -> None:
    lines = {line.entry.name: line for line in lines_of(read_board(shown))}
    tiny = next(line for name, line in lines.items() if name.startswith("tiny-image-linf-8"))
    robust = tiny.entry.main.robust.map
    ranked = sorted([("alpha", 0.2), ("beta", 0.6), (tiny.entry.name, robust)], key=lambda x: -x[1])
    for place, (name, _) in enumerate(ranked, start=1):
        assert (lines[name].rank, lines[name].of) == (place, 3)
    assert (lines["gamma"].rank, lines["gamma"].state) == (None, "masking")
    assert (lines["delta"].rank, lines["delta"].of, lines["delta"].state) == (1, 1, "not probed")
    assert lines["alpha"].group == lines["gamma"].group != lines["delta"].group
    assert lines["beta"].state == "clear"


def test_a_curve_joins_the_entries_of_one_victim(made: Path) -> None:
    entries = read_board(made)
    drawn = budget_figure(read_entry(entry_file(made, LARGE)), entries)
    assert drawn is not None
    (panel,) = drawn.panels
    assert "eps in 1/255" in panel and ">4</text>" in panel and ">8</text>" in panel
    assert budget_figure(read_entry(entry_file(made, "text-edits-1+1")), entries) is None
    # The same weights behind a purifier are another victim, and its budgets another curve.
    purified = read_entry(entry_file(made, SMALL))
    files = tuple(
        dataclasses.replace(f, sha256="0" * 64) if f.path == "model.json" else f
        for f in purified.model.files
    )
    purified = dataclasses.replace(purified, model=dataclasses.replace(purified.model, files=files))
    assert budget_figure(purified, [*entries, purified]) is None


def test_what_cannot_be_trusted_is_refused(board: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ArtifactError, match="not empty and no site of ours"):
        build_site(board, tmp_path / "mine")
    file = entry_file(board, LARGE)
    gallery = file.parent / read_entry(file).artifacts / "gallery.json"
    content = read_json(gallery)
    content["exhibits"][0]["cases"][0]["picture"] = "https://example.org/x.webp"
    write_json(gallery, content)
    with pytest.raises(ArtifactError, match="expected"):
        build_site(board, tmp_path / "site")
    with_new_hashes(file)
    with pytest.raises(ArtifactError, match="a picture must be a WebP data URI, got 'https://"):
        build_site(board, tmp_path / "site")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no {CHROMIUM}")
    with sync.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page whose requests and console messages must be none at all."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    made = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    made.on("request", lambda r: asked.append(r.url))
    made.on("console", lambda message: said.append(message.text))
    made.on("pageerror", lambda error: said.append(str(error)))
    yield made
    assert said == []
    assert all(url.startswith(("file:", "data:")) for url in asked)
    context.close()


def names(page: Any) -> list[str]:
    return page.eval_on_selector_all(
        "#board tbody tr:not([hidden])", "rows => rows.map(row => row.dataset.name)"
    )  # type: ignore[no-any-return]


def sorted_by(page: Any) -> dict[str, str]:
    return page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('th[aria-sort]')].map("
        "h => [h.querySelector('button').dataset.key, h.getAttribute('aria-sort')]))"
    )  # type: ignore[no-any-return]


def test_sort_filter_and_open_an_entry(page: Any, site: Path) -> None:
    page.goto((site / "index.html").as_uri())
    every = len(names(page))
    page.select_option("select[data-key=threat]", LARGE)
    page.click("button[data-key=robust]")
    robust = page.eval_on_selector_all(
        "#board tbody tr:not([hidden])", "rows => rows.map(row => +row.dataset.robust)"
    )
    assert robust == sorted(robust, reverse=True) and len(robust) == 5
    assert sorted_by(page)["robust"] == "descending" and names(page)[-1] == "gamma"
    page.click("button[data-key=robust]")
    assert sorted_by(page)["robust"] == "ascending" and names(page)[0] == "delta"
    assert names(page)[-1] == "gamma", "what counts as masking is last in either order"
    page.click("button[data-key=name]")
    assert names(page) == ["alpha", "beta", "delta", "gamma", "tiny"]
    assert {k: v for k, v in sorted_by(page).items() if v != "none"} == {"name": "ascending"}
    assert page.inner_text("#told") == f"5 of {every} entries, sorted by victim, ascending."

    page.select_option("select[data-key=data]", "photos")
    assert names(page) == ["delta"]
    assert page.locator(".panel:visible").count() == 1
    page.select_option("select[data-key=data]", "")
    page.select_option("select[data-key=bits]", "64")
    assert names(page) == ["gamma"]
    page.select_option("select[data-key=bits]", "")
    page.select_option("select[data-key=state]", "!masking")
    assert names(page) == ["alpha", "beta", "delta", "tiny"]
    page.fill("#search", "CMLA hag")
    assert names(page) == ["beta"]
    assert page.locator(".panel a:not(.dim)").count() == 1
    page.fill("#search", "nothing like it")
    assert names(page) == [] and page.is_visible("#none")
    page.click("#clear")
    page.wait_for_function("document.querySelectorAll('#board tbody tr[hidden]').length === 0")
    assert len(names(page)) == every

    page.click("#board a[href='entries/gamma.html']")
    assert page.inner_text("h1") == "gamma" and "masking" in page.inner_text("#doubts")
    assert page.locator("#gallery .case").count() == 3
    page.locator("#gallery .hit img").first.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#gallery .hit img').naturalWidth > 0")
    page.click(".home")
    page.click(".panel a[href='entries/beta.html']")
    assert page.inner_text("h1") == "beta"


def test_everything_by_keyboard(page: Any, site: Path) -> None:
    page.goto((site / "index.html").as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("/")
    page.keyboard.type("saat")
    assert names(page) == ["gamma"]
    page.keyboard.press("Escape")
    assert len(names(page)) > 4
    page.focus("button[data-key=clean]")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus can be seen"
    page.keyboard.press("Enter")
    assert sorted_by(page)["clean"] == "descending"
    page.keyboard.press("Space")
    assert sorted_by(page)["clean"] == "ascending" and names(page)[0] == "delta"
    page.focus("#board a[href='entries/delta.html']")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('h1').textContent === 'delta'")


@pytest.mark.parametrize("width", [360, 375, 820])
def test_no_page_scrolls_sideways(page: Any, site: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 700})
    for name in ("index.html", "entries/gamma.html"):
        page.goto((site / name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        if name == "index.html":  # the table neither: what does not fit is left out
            fits = "e => e.scrollWidth <= e.clientWidth"
            assert page.eval_on_selector(".scroll", fits)


def test_light_and_dark_by_the_system_or_by_hand(page: Any, site: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page.goto((site / "index.html").as_uri())
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) == "rgb(20, 22, 26)" and page.inner_text("#theme") == "Light"
    page.click("#theme")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.goto((site / "entries" / "gamma.html").as_uri())
    assert page.evaluate(ground) == "rgb(255, 255, 255)", "kept from page to page"


def test_entries_can_be_taken_from_the_site(site: Path, shown: Path) -> None:
    told = json.loads((site / "entries" / "beta.json").read_text(encoding="utf-8"))
    assert told == read_json(shown / "entries" / "beta.json")
