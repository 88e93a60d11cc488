"""Victims that read tokens, from training to the report."""

import csv
import dataclasses
from pathlib import Path

import pytest
from tiny import TINY_FIT

from hamward.attacks import HotFlip, OwnCode, RandomNoise, TagEdits
from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.evaluation import (
    CLEAN,
    EvaluateConfig,
    ModelConfig,
    TrainConfig,
    evaluate,
    evaluate_run,
    load_victim,
    report_run,
    train_run,
)
from hamward.models import HashModel


def test_trained_attacked_and_shown(
    bert: Path, tmp_path: Path, data: RetrievalData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)
    model = ModelConfig(
        code_length=16,
        image_network="small-resnet",
        text_network="transformer",
        text_weights=str(bert),
        text_frozen=True,
        text_length=8,
    )
    fit = dataclasses.replace(TINY_FIT, epochs=3)
    train_run(TrainConfig(model=model, fit=fit), tmp_path / "victim")
    assert load_victim(tmp_path / "victim")[0].text_format == "tokens"
    config = EvaluateConfig(
        victims={"victim": str(tmp_path / "victim")},
        attacks={
            "hotflip": {"neighbors": 40, "cosine": -1.0, "candidates": 4},
        },
        modalities=("text",),
        diagnose=False,
    )
    out = tmp_path / "evaluation"
    found = evaluate_run(config, out)
    rows = {row.attack: row for row in found.rows if row.direction == "t2i"}
    assert rows["hotflip"].stored == "as typed" and rows["hotflip"].norm == "substitutions"
    assert rows["hotflip"].flips > 0 and rows[CLEAN].flips == 0
    assert rows["hotflip"].linf == 1, "a token is another or not"
    with (out / "texts" / "victim" / "hotflip.csv").open() as lines:
        texts = list(csv.DictReader(lines))
    place = data.positions("query", "text")
    assert [row["before"] for row in texts] == [data.texts[i] for i in place]
    assert any(row["after"] != row["before"] for row in texts)
    assert "Words were replaced" in report_run(out).read_text()
    moved = dataclasses.replace(config, attacks={"own-code": {"norm": "l2", "text_eps": 0.9}})
    evaluate_run(moved, tmp_path / "moved")
    assert "Feature-space" in report_run(tmp_path / "moved").read_text()
    wrong = dataclasses.replace(model, text_network="bow-mlp", text_weights="")
    with pytest.raises(ConfigError, match="text_frozen is for minilm and transformer"):
        train_run(TrainConfig(model=wrong, fit=fit), tmp_path / "other")


def test_diagnosed_and_refused_beside_a_victim_of_bags(
    token_model64: HashModel, model: HashModel, data: RetrievalData
) -> None:
    token_model = token_model64.float()
    both = {"bags": model, "tokens": token_model}
    attacks = {"own-code": OwnCode(steps=1), "random-noise": RandomNoise()}
    few = data.limit(queries=6)
    found = evaluate(both, few, attacks, modalities=("text",), diagnose=True)
    shown = {(r.victim, r.stored) for r in found.rows if r.attack != CLEAN and r.direction == "t2i"}
    assert shown == {("bags", "feature-space"), ("tokens", "feature-space")}
    with pytest.raises(ConfigError, match="texts are not transferred"):
        evaluate(both, data, attacks, transfer_from="bags")
    with pytest.raises(ConfigError, match=r"TagEdits .* reads tokens"):
        evaluate({"tokens": token_model}, data, {"tag-edits": TagEdits()})
    with pytest.raises(ConfigError, match=r"HotFlip .* reads bag"):
        evaluate({"bags": model}, data, {"hotflip": HotFlip()})
