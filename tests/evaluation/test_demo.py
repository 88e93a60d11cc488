"""The demo at toy size: its stages, its rows and its resume."""

from pathlib import Path

import pytest

from hamward.artifacts import read_json
from hamward.data import RetrievalData
from hamward.evaluation.demo import DemoConfig, demo_run

TOY = DemoConfig(
    image_network="tiny-resnet", epochs=1, extra_epochs=1, steps=2, cmla_steps=2, queries=8
)


def test_the_demo_attacks_three_victims_and_reports(
    tmp_path: Path, data: RetrievalData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)
    made = demo_run(TOY, tmp_path / "demo")
    rows = [r for r in made.evaluation.rows if not r.transfer and r.direction in ("i2t", "t2i")]
    assert {r.victim for r in rows} == {"undefended", "control", "hardened"}
    attacks = {(r.attack, r.attacked, r.stored) for r in rows if r.victim == "hardened"}
    assert ("tag-edits", "text", "as typed") in attacks
    assert ("own-code@8/255", "image", "8-bit") in attacks
    page = made.report.read_text(encoding="utf-8")
    assert "tag-edits" in page and "hardened" in page

    hardened = read_json(tmp_path / "demo" / "hardened" / "run.json")
    again = demo_run(TOY, tmp_path / "demo", resume=True)
    assert read_json(tmp_path / "demo" / "hardened" / "run.json") == hardened, "trained again"
    assert [r.map for r in again.evaluation.rows] == [r.map for r in made.evaluation.rows]
