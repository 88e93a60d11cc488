"""Catastrophic overfitting: the rule on made-up histories, and a real collapse that it stops."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny import make_model

from hamward.artifacts import RunFolder
from hamward.attacks import OwnCode
from hamward.data import RetrievalData
from hamward.defenses import OverfittingMonitor
from hamward.evaluation import HardenConfig, ModelConfig, TrainConfig, harden_run, train_run
from hamward.models import HashModel
from hamward.training import DCMH, FitConfig, fit

MONITOR = OverfittingMonitor(one_step=OwnCode(steps=1))


def history(*epochs: tuple[float, float]) -> list[dict[str, float]]:
    """Rows of (MAP under several steps, MAP under one step)."""
    return [{"attacked_i2t": multi, "one_step_i2t": one, "select": multi} for multi, one in epochs]


@pytest.mark.parametrize(
    ("epochs", "stops"),
    [
        ([(0.1, 0.9)], False),  # nothing to compare with
        ([(0.5, 0.6), (0.3, 0.9)], True),
        ([(0.5, 0.6), (0.36, 0.6)], True),  # 28 % lost
        ([(0.5, 0.6), (0.39, 0.9)], False),  # 22 % lost
        ([(0.5, 0.6), (0.3, 0.51)], True),  # one step lost less than half as much
        ([(0.5, 0.6), (0.3, 0.49)], False),  # both fall: no overfitting to one step
        ([(0.5, 0.6), (0.39, 0.6), (0.3, 0.6)], True),  # slowly, but from the best epoch
        ([(0.3, 0.6), (0.5, 0.6)], False),
    ],
)
def test_the_rule(epochs: list[tuple[float, float]], stops: bool) -> None:
    verdict = MONITOR.verdict(history(*epochs))
    assert bool(verdict) == stops
    if stops:
        assert "i2t MAP under several steps fell" in verdict and "variant = pgd" in verdict


def test_any_direction_counts() -> None:
    rows = history((0.5, 0.6), (0.5, 0.6))
    rows[0] |= {"attacked_t2i": 0.5, "one_step_t2i": 0.6}
    rows[1] |= {"attacked_t2i": 0.2, "one_step_t2i": 0.7}
    assert "t2i MAP" in MONITOR.verdict(rows)


def test_a_collapse_of_training_against_one_step_is_stopped(
    tmp_path: Path,
    data: RetrievalData,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A large step and a large rate: one step is withstood, several are not."""
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)
    model = ModelConfig(
        code_length=16, image_network="small-resnet", text_width=32, retrieval="cosine"
    )
    fast = FitConfig(epochs=1, batch_size=16, image_rate=1e-3, text_rate=1e-2, head_factor=10)
    train_run(TrainConfig(method="dual-encoder", model=model, fit=fast), tmp_path / "victim")
    config = HardenConfig(
        defense="rocmr",
        victim=str(tmp_path / "victim"),
        options={
            "variant": "fast",
            "eps": "12/255",
            "modalities": ["image"],
            "weights": [0, 1, 0, 0],
        },
        fit=FitConfig(epochs=12, batch_size=16, image_rate=5e-3, warmup=0.0, flip=False),
    )
    with caplog.at_level(logging.WARNING):
        harden_run(config, tmp_path / "hardened")
    info = RunFolder(tmp_path / "hardened").require("model")
    rows, best = info["history"], info["best_epoch"]
    assert len(rows) < 12 and best < len(rows)
    assert rows[best - 1]["select"] == max(row["select"] for row in rows[:-1])
    assert rows[-1]["attacked_i2t"] < 0.75 * max(row["attacked_i2t"] for row in rows[:-1])
    assert rows[-1]["one_step_i2t"] > rows[-1]["attacked_i2t"] + 0.1
    assert f"stopped after epoch {len(rows)}: catastrophic overfitting" in caplog.text


class Stopping(DCMH):
    """Wants to end after two epochs."""

    def verdict(self, history: Sequence[dict[str, float]]) -> str:
        return "enough" if len(history) == 2 else ""


def test_a_stopped_training_keeps_the_best_epoch_before_and_stays_stopped(
    data: RetrievalData, tmp_path: Path
) -> None:
    config = FitConfig(epochs=4, batch_size=24, flip=False)
    states, model = [], make_model()

    def score(m: HashModel) -> dict[str, float]:
        states.append(copy.deepcopy(m.state_dict()))
        return {"select": float(len(states))}

    checkpoint = tmp_path / "c.safetensors"
    for _ in range(2):
        fitted = fit(model, Stopping(), data, config=config, score=score, checkpoint=checkpoint)
        assert len(fitted.history) == len(states) == 2 and fitted.best_epoch == 1
        kept = model.state_dict()
        assert all(torch.equal(v, kept[k]) for k, v in states[0].items())
