"""Cards: the same MAP as an evaluation, and statistics by hand."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from hamward.artifacts import read_json
from hamward.data import RetrievalData
from hamward.evaluation import evaluate
from hamward.evaluation.card import code_statistics, model_card, write_card
from hamward.models import HashModel
from hamward.types import DIRECTIONS


def test_scores_are_those_of_an_evaluation(
    model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    card = model_card(model, data, {"method": "dcmh", "data": "tiny", "items_digest": "0" * 64})
    rows = evaluate({"v": model}, data, {})
    assert list(card["scores"]) == list(DIRECTIONS)
    for direction in DIRECTIONS:
        row = rows.find("v", "none", direction)
        score = card["scores"][direction]
        assert (score["map"], score["low"], score["high"]) == (row.map, row.low, row.high)
        assert score["chance"] == row.chance and score["queries"] == row.queries
    write_card(tmp_path, card)
    assert read_json(tmp_path / "card.json")["scores"] == card["scores"]
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert f"| i2t | {card['scores']['i2t']['map']:.3f} |" in text and "# dcmh, 16 bits" in text


def test_epochs_are_tabled_and_drawn(model: HashModel, data: RetrievalData, tmp_path: Path) -> None:
    epochs = [
        {"epoch": i, "loss": 1 / i, "seconds": 2.0, "i2t": 0.1 * i, "attacked_i2t": 0.05 * i}
        for i in (1, 2)
    ]
    card = model_card(model, data, {"method": "dcmh", "items_digest": "", "history": epochs})
    write_card(tmp_path, card)
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "| 2     | 0.5  | 2       | 0.200 | 0.100        |" in text
    svg = (tmp_path / "history.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(svg)
    lines = [e.get("class") for e in root.iter() if "line" in str(e.get("class")).split()]
    assert lines == ["line v0", "line v0 dashed"]


def test_code_statistics_by_hand() -> None:
    u = torch.tensor([[1.0, -1.0], [1.0, 2.0], [1.0, -3.0], [20.0, -3.0]])
    found = code_statistics(u)
    assert found["balance"] == pytest.approx((0 + 0.25) / 2)
    assert found["constant_bits"] == 1
    assert found["distinct"] == pytest.approx(1 / 4)
    assert found["mean_abs_logit"] == pytest.approx(32 / 8)
    assert found["saturated"] == pytest.approx(1 / 8)
