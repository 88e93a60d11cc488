"""Several seeds: each run is the single run, and the summary is their mean and spread."""

import statistics
from pathlib import Path

import pytest

from hamward.artifacts import read_json
from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.evaluation import ModelConfig, TrainConfig
from hamward.evaluation.seeds import train_seeds
from hamward.training import FitConfig

TRAIN = TrainConfig(
    model=ModelConfig(code_length=16, image_network="tiny-resnet", text_width=32),
    fit=FitConfig(epochs=2, batch_size=16, image_rate=1e-3, text_rate=1e-2, head_factor=10),
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, data: RetrievalData) -> None:
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)


def test_the_summary_is_that_of_the_single_runs(tmp_path: Path) -> None:
    made = train_seeds(TRAIN, tmp_path / "s", [3, 4])
    values = [
        read_json(tmp_path / "s" / f"seed-{seed}" / "card.json")["scores"]["i2t"]["map"]
        for seed in (3, 4)
    ]
    assert made["map"]["i2t"]["values"] == values and values[0] != values[1]
    assert made["map"]["i2t"]["mean"] == pytest.approx(sum(values) / 2)
    assert made["map"]["i2t"]["deviation"] == pytest.approx(statistics.stdev(values))
    assert read_json(tmp_path / "s" / "summary.json")["map"] == made["map"]
    assert train_seeds(TRAIN, tmp_path / "s", [3, 4], resume=True)["map"] == made["map"]


def test_one_seed_or_one_twice_is_refused(tmp_path: Path) -> None:
    for seeds in ([1], [1, 1]):
        with pytest.raises(ConfigError, match="at least two different numbers"):
            train_seeds(TRAIN, tmp_path / "s", seeds)
    assert not (tmp_path / "s").exists()
