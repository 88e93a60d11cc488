"""The report: sentences that stay true, numbers that equal the rows, a page that is safe."""

import base64
import dataclasses
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from made_report import (
    EVIL,
    full_evaluation,
    make_data,
    make_evaluation,
    make_row,
    write_artifacts,
)
from PIL import Image

from hamward.artifacts import read_json, read_tensors
from hamward.attacks import Budget, round_to_grid
from hamward.data import RetrievalData
from hamward.errors import ArtifactError
from hamward.evaluation.evaluate import CLEAN, Evaluation, Row, adversarial_file
from hamward.evaluation.report import write_report
from hamward.evaluation.report.exhibits import PictureChange, TextChange, text_change
from hamward.evaluation.report.findings import Findings
from hamward.evaluation.report.gallery import choose, exhibit
from hamward.evaluation.report.headline import cards, sentences
from hamward.evaluation.report.pictures import amplified, thumbnail
from hamward.evaluation.report.svg import Axis, Panel, Series, draw, nice_ticks

DATA = make_data()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with artifacts and the report of the full evaluation."""
    folder = tmp_path_factory.mktemp("report")
    write_artifacts(folder / "evaluation", DATA, full_evaluation())
    _write_full(folder, artifacts=folder / "evaluation")
    return folder


def _write_full(folder: Path, *, artifacts: Path) -> None:
    write_report(
        folder,
        full_evaluation(),
        data=DATA,
        artifacts=artifacts,
        title=f"A {EVIL} title",
        facts={"command": ["hamward", EVIL], "when": None, "share": float("nan")},
        histories={"undefended": [{"epoch": 1, "loss": 2.0, "i2t": 0.3, "t2i": 0.4}] * 2},
    )


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


def _report(tmp_path: Path, evaluation: Evaluation) -> str:
    write_artifacts(tmp_path / "evaluation", DATA, evaluation)
    file = write_report(
        tmp_path, evaluation, data=DATA, artifacts=tmp_path / "evaluation", title="t"
    )
    return file.read_text(encoding="utf-8")


def _told(*rows: Row) -> str:
    return " ".join(sentences(Findings(evaluation=make_evaluation(*rows))))


CLEAN_ROW = make_row("undefended", CLEAN, "i2t", 0.8)


def test_headline_of_an_attack_and_a_defense() -> None:
    told = _told(
        CLEAN_ROW,
        make_row("undefended", "random-noise", "i2t", 0.75),
        make_row("undefended", "own", "i2t", 0.35),
        make_row("hardened", CLEAN, "i2t", 0.77),
        make_row("hardened", "own", "i2t", 0.6),
    )
    assert told == (
        "With no color value changed by more than 8 of 255 levels, `own` pushes image-to-text MAP "
        "of `undefended` from 0.80 to 0.35 (chance 0.31); random noise of the same size leaves "
        "0.75. Crafted anew against `hardened`, the same attack leaves 0.60 (clean 0.77)."
    )


def test_headline_without_attack() -> None:
    told = _told(CLEAN_ROW)
    assert told == (
        "On clean queries, image-to-text MAP of `undefended` is 0.80 (chance 0.31). No attack was "
        "run, so this says nothing about robustness."
    )
    assert "no rows" in _told()


def test_headline_of_an_attack_weaker_than_noise() -> None:
    told = _told(
        CLEAN_ROW,
        make_row("undefended", "random-noise", "i2t", 0.5),
        make_row("undefended", "own", "i2t", 0.6),
    )
    assert "noise of the same size leaves 0.50, so the attack shows nothing that noise" in told


def test_headline_of_noise_alone() -> None:
    told = _told(CLEAN_ROW, make_row("undefended", "random-noise", "i2t", 0.7))
    assert "No attack was run, only this random control" in told


@pytest.mark.parametrize(
    ("score", "words"), [(0.79, "does not clearly lower"), (0.81, "does not lower")]
)
def test_headline_claims_no_drop_within_the_interval(score: float, words: str) -> None:
    told = _told(CLEAN_ROW, make_row("undefended", "own", "i2t", score))
    assert words in told and "pushes" not in told


def test_headline_below_chance() -> None:
    told = _told(CLEAN_ROW, make_row("undefended", "own", "i2t", 0.2))
    assert "from 0.80 to 0.20 (worse than chance, 0.31)" in told


def test_headline_of_a_defense_that_does_not_help() -> None:
    hit = make_row("undefended", "own", "i2t", 0.4)
    same = make_row("hardened", "own", "i2t", 0.41)
    worse = make_row("hardened", "own", "i2t", 0.3)
    assert "0.41, not clearly different (the 95 % intervals overlap)" in _told(CLEAN_ROW, hit, same)
    assert "less than `undefended` keeps" in _told(CLEAN_ROW, hit, worse)


def test_headline_names_a_stronger_attack_on_the_defended() -> None:
    told = _told(
        CLEAN_ROW,
        make_row("undefended", "own", "i2t", 0.35),
        make_row("undefended", "cmla", "i2t", 0.5),
        make_row("hardened", "own", "i2t", 0.7),
        make_row("hardened", "cmla", "i2t", 0.5),
    )
    assert "its strongest attack here, `cmla` (l∞ ≤ 8/255), leaves 0.50" in told


def test_headline_of_texts_says_feature_space() -> None:
    told = _told(
        make_row("undefended", CLEAN, "t2i", 0.8), make_row("undefended", "own", "t2i", 0.5)
    )
    assert told.startswith("In feature space, with no word weight changed by more than 0.05")
    assert "color" not in told


def test_headline_of_l2_and_of_equal_roundings() -> None:
    clean = dataclasses.replace(CLEAN_ROW, map=0.8042, low=0.804, high=0.805)
    hit = make_row("u", "own", "i2t", 0.8011, norm="l2", eps=2.0)
    hit = dataclasses.replace(hit, victim="undefended", crafted_on="undefended", high=0.802)
    assert "Within l2 ≤ 2, `own` pushes" in _told(clean, hit)
    assert "from 0.804 to 0.801" in _told(clean, hit)


def test_transfer_rows_are_never_the_headline() -> None:
    transfer = make_row("hardened", "own", "i2t", 0.05, crafted_on="undefended")
    told = _told(CLEAN_ROW, make_row("undefended", "own", "i2t", 0.4), transfer)
    assert "0.05" not in told


def test_cards_show_the_rows() -> None:
    groups = cards(Findings(evaluation=full_evaluation()))
    assert [[card.value for card in group] for group in groups] == [
        ["0.80", "0.20", "0.61", "8/255"],
        ["0.80", "0.20", "0.61"],
    ]
    assert all(card.chance == 0.3137 for card in groups[1])


def test_tables_hold_the_numbers_of_the_rows(page: str, folder: Path) -> None:
    text = (folder / "report.md").read_text(encoding="utf-8")
    for row in full_evaluation().rows:
        assert f"{row.map:.3f}" in page and f"{row.map:.3f}" in text
        if row.stored != "float":
            assert f"[{row.low:.3f}, {row.high:.3f}]" in page
    body = page[page.index("<h3>Image-to-text (i2t)") :]
    body = body[: body.index("</table>")]
    assert re.findall(r"<b>([\d.]+)</b>", body) == [
        *("0.800", "0.750", "0.200", "0.550"),
        *("0.810", "0.760", "0.610", "0.560"),
    ]
    assert "0.314" in body and "24 queries" in body and "max 8/255" in body


def test_transfer_is_labeled_and_apart(page: str, folder: Path) -> None:
    start = page.index("<summary>Transfer, not a robustness figure")
    end = page.index("</details>", start)
    assert "0.778" in page[start:end]
    assert "0.778" not in page[:start] + page[end:]
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert text.index("Transfer, not a robustness figure") < text.index("0.778")


def test_markup_in_data_is_text(page: str, folder: Path) -> None:
    assert "<script" not in page and "<b>yellow" not in page
    assert html.escape(EVIL) in page
    assert "<script" not in (folder / "report.md").read_text(encoding="utf-8")


def test_page_needs_nothing_else(page: str) -> None:
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", page)
    for source in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert source.startswith(("data:image/webp;base64,", "#"))
    assert "prefers-color-scheme: dark" in page and "@media print" in page


class _Balance(HTMLParser):
    """Checks that elements close in order."""

    empty = frozenset({"meta", "img", "wbr", "path", "circle", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.empty:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.empty:
            assert self.open.pop() == tag


def test_page_is_well_formed(page: str) -> None:
    balance = _Balance()
    balance.feed(page)
    assert balance.open == []
    anchors = set(re.findall(r'href="#(\w+)"', page))
    assert anchors and anchors <= set(re.findall(r'id="(\w+)"', page))


def test_json_is_the_evaluation_again(folder: Path) -> None:
    content = read_json(folder / "report.json")
    evaluation = full_evaluation()
    assert content["rows"] == [dataclasses.asdict(row) for row in evaluation.rows]
    assert content["protocol"] == evaluation.protocol
    assert content["facts"] == {"command": ["hamward", EVIL], "when": None, "share": None}
    assert json.dumps(content, allow_nan=False)


def test_writes_only_whole_files_and_the_same_twice(folder: Path, tmp_path: Path) -> None:
    names = ["index.html", "report.json", "report.md"]
    assert sorted(file.name for file in folder.iterdir() if file.is_file()) == names
    _write_full(tmp_path, artifacts=folder / "evaluation")
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("modality", ["image", "text"])
def test_gallery_equals_naive_search(folder: Path, modality: str) -> None:
    shown = exhibit(
        Findings(evaluation=full_evaluation()),
        modality,  # type: ignore[arg-type]
        data=DATA,
        artifacts=folder / "evaluation",
        count=4,
    )
    assert shown is not None and len(shown.cases) == 4 and shown.attack == "own@8/255"
    other = "text" if modality == "image" else "image"
    positions = DATA.positions("query", modality).tolist()  # type: ignore[arg-type]
    for case in shown.cases:
        assert [view.victim for view in case.views] == ["undefended", "hardened"]
        row = positions.index(case.item)
        for view in case.views:
            codes = read_tensors(folder / "evaluation" / "codes" / f"{view.victim}.safetensors")
            database = codes[f"database/{other}"].numpy()
            adversarial = f"adversarial/own@8/255/{view.victim}/{modality}"
            for key, hits in ((f"query/{modality}", view.before), (adversarial, view.after)):
                distances = (codes[key][row].numpy() != database).sum(1)
                order = sorted(range(len(database)), key=lambda j: (distances[j], j))[:10]
                items = [int(DATA.split.database[j]) for j in order]
                assert [hit.item for hit in hits] == items
                assert [hit.distance for hit in hits] == [int(distances[j]) for j in order]
                right = [
                    bool(set(np.flatnonzero(DATA.labels[case.item])) & set(labels))
                    for labels in (np.flatnonzero(DATA.labels[item]) for item in items)
                ]
                assert [hit.relevant for hit in hits] == right


def test_page_marks_right_and_wrong_by_icon(page: str, folder: Path) -> None:
    findings = Findings(evaluation=full_evaluation())
    right = wrong = 0
    for modality, count in (("image", 6), ("text", 4)):
        shown = exhibit(
            findings,
            modality,  # type: ignore[arg-type]
            data=DATA,
            artifacts=folder / "evaluation",
            count=count,
        )
        assert shown is not None
        hits = [h for c in shown.cases for v in c.views for h in (*v.before, *v.after)]
        right += sum(hit.relevant for hit in hits)
        wrong += sum(not hit.relevant for hit in hits)
    gallery = page[page.index("<article") : page.rindex("</article>")]
    assert gallery.count('class="hit yes') == gallery.count('aria-label="relevant"') == right
    assert gallery.count('class="hit no') == gallery.count('aria-label="not relevant"') == wrong


def test_adversarial_pictures_are_the_stored_ones(folder: Path) -> None:
    shown = exhibit(
        Findings(evaluation=full_evaluation()),
        "image",
        data=DATA,
        artifacts=folder / "evaluation",
        count=2,
    )
    assert shown is not None
    file = adversarial_file(folder / "evaluation", "undefended", "own@8/255", "image")
    stored = read_tensors(file)
    for case in shown.cases:
        change = case.views[0].change
        assert isinstance(change, PictureChange) and change.factor == 16
        row = stored["ids"].tolist().index(case.item_id)
        x = DATA.inputs("image", [case.item])
        expected = round_to_grid(stored["x_adv"][row : row + 1], x, Budget(eps=8 / 255)) * 255
        seen = _pixels(change.picture)
        assert torch.equal(torch.from_numpy(seen), expected[0].round().byte())
        clean = DATA.images[case.item].astype(int)
        assert np.array_equal(
            _pixels(change.difference), (128 + 16 * (seen.astype(int) - clean)).clip(0, 255)
        )
        assert np.array_equal(_pixels(case.picture), DATA.images[case.item])


def _pixels(uri: str) -> np.ndarray:
    picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    return np.asarray(picture.convert("RGB")).transpose(2, 0, 1).copy()


def test_choice_covers_the_distribution() -> None:
    drops = np.array([0.1, 0.5, np.nan, 0.5, -0.2, 0.3])
    assert choose(drops, np.array([0, 9, 1, 2, 3, 4]), 5) == [3, 1, 5, 0, 4]
    assert choose(drops, np.arange(6), 1) == [5]
    assert choose(np.full(3, np.nan), np.arange(3), 2) == []


def test_text_changes() -> None:
    before = np.array([1.0, 0.0, 0.0, 1.0, 0.0])
    after = np.array([0.95, 0.02, 0.05, 1.0, 0.0])
    change = text_change(before, after, ("cat", "dog", "flag", "sky", "map"))
    assert [(w.word, w.before, w.after) for w in change.weakened] == [("cat", 1.0, 0.95)]
    assert [w.word for w in change.added] == ["flag", "dog"]
    assert (change.others, change.most) == (0, 0.0)
    many = text_change(np.zeros(20), np.full(20, 0.05), [str(i) for i in range(20)])
    assert isinstance(many, TextChange)
    assert [w.word for w in many.added] == [str(i) for i in range(8)]
    assert (many.others, many.most) == (12, pytest.approx(0.05))


def test_typed_text_changes_are_whole_words_and_all_shown() -> None:
    before, after = np.zeros(24), np.zeros(24)
    before[[3, 5]], after[[5, *range(8, 20)]] = 1, 1
    change = text_change(before, after, [str(i) for i in range(24)])
    assert change.typed and change.others == 0
    assert [w.word for w in change.weakened] == ["3"]
    assert [w.word for w in change.added] == [str(i) for i in range(8, 20)]
    assert not text_change(before, after * 0.5, [str(i) for i in range(24)]).typed


def test_the_head_of_a_table_says_how_texts_were_attacked(tmp_path: Path) -> None:
    clean = make_row("undefended", CLEAN, "t2i", 0.8)
    moved = make_row("undefended", "own-code@0.05", "t2i", 0.7, eps=0.05, stored="feature-space")
    typed = make_row(
        "undefended", "tag-edits", "t2i", 0.6, eps=2.0, norm="edits", stored="as typed"
    )
    for name, rows, said in (
        ("moved", [moved], "in feature space"),
        ("both", [moved, typed], "in feature space and as typed"),
    ):
        page = _report(tmp_path / name, make_evaluation(clean, *rows))
        assert f"(t2i), attacked {said}</h3>" in page


def test_edits_of_words_are_told_as_typed(tmp_path: Path) -> None:
    """No word of feature space: anyone can type these texts."""
    edits = {"norm": "edits", "stored": "as typed", "linf": 1.0}
    rows = [make_row("undefended", CLEAN, d, 0.8) for d in ("t2i", "t2t")]
    rows += [make_row("undefended", "tag-edits@2", "t2i", 0.6, eps=2.0, **edits)]
    rows += [make_row("undefended", "tag-edits@6", "t2i", 0.5, eps=6.0, **edits)]
    page = _report(tmp_path, make_evaluation(*rows))
    told = _told(*rows)
    assert told.startswith("With at most 6 words of a text inserted or deleted, as anyone can type")
    assert "≤ 6 words edited" in page and "words changed</text>" in page
    assert "each query is a text that a person can type" in page
    assert "Feature-space:" not in page and "attacked in feature space" not in page
    assert "(t2i), attacked as typed</h3>" in page
    cases = page[page.index('id="gallery"') :].split("<article")[1:]
    assert len(cases) == 4 and "→" not in "".join(cases) and "weakened" not in "".join(cases)
    typed = read_tensors(
        adversarial_file(tmp_path / "evaluation", "undefended", rows[-1].attack, "text")
    )
    x = DATA.inputs("text", DATA.positions("query", "text"))
    assert page.count('class="chip gone"') <= int((typed["x_adv"] < x).sum()) > 0
    assert 'class="chip gone"' in page and 'class="chip up"' in page


def test_clean_only(tmp_path: Path) -> None:
    rows = [make_row("undefended", CLEAN, d, 0.8) for d in ("i2t", "t2i", "i2i", "t2t")]
    page = _report(tmp_path, make_evaluation(*rows))
    assert "says nothing about robustness" in page
    assert 'id="gallery"' not in page and 'id="budget"' not in page and 'id="lookup"' in page


def test_text_only(tmp_path: Path) -> None:
    rows = [make_row("undefended", CLEAN, d, 0.8) for d in ("i2t", "t2i", "i2i", "t2t")]
    rows += [make_row("undefended", "own", d, 0.5) for d in ("t2i", "t2t")]
    page = _report(tmp_path, make_evaluation(*rows))
    assert "Feature-space: no typed text has fractional words" in page
    assert page.count("<article") == 4 and "difference ×" not in page


def test_no_rows_and_no_curves(tmp_path: Path) -> None:
    assert "no rows" in _report(tmp_path / "a", make_evaluation())
    bare = dataclasses.replace(make_evaluation(CLEAN_ROW), curves=())
    assert 'id="lookup"' not in _report(tmp_path / "b", bare)


def test_foreign_data_is_refused(folder: Path, tmp_path: Path) -> None:
    def refuse(data: RetrievalData, words: str) -> None:
        with pytest.raises(ArtifactError, match=words):
            write_report(
                tmp_path,
                full_evaluation(),
                data=data,
                artifacts=folder / "evaluation",
                title="t",
            )
        assert not list(tmp_path.iterdir())

    refuse(DATA.limit(queries=5), "hand in the data that was evaluated")
    refuse(dataclasses.replace(DATA, ids=DATA.ids + 1, digest=""), "other items than the queries")


def test_charts_escape_and_stay_in_their_frame() -> None:
    axis = Axis(low=0, high=1, ticks=nice_ticks(0, 1), name=EVIL)
    lines = tuple(
        Series(points=((0, 0.5), (1, 0.5)), style="v0", label=f"{EVIL}{i}") for i in range(4)
    )
    drawn = str(draw(Panel(title=EVIL, alt=EVIL, x=axis, y=axis, series=lines)))
    assert "<script" not in drawn
    heights = [float(y) for y in re.findall(r'y="([\d.]+)" class="label', drawn)]
    assert len(heights) == 4 and min(np.diff(sorted(heights))) >= 14


def test_large_pictures_shrink_and_differences_saturate() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 224, 224)).astype(np.uint8)
    assert _pixels(thumbnail(noise)).shape == (3, 64, 64)
    difference, factor = amplified(noise, noise, linf=2 / 255)
    assert factor == 64 and (difference == 128).all()
