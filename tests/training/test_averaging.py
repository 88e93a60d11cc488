"""The running mean of the weights, against a loop, and its place in the training."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from tiny import TINY_FIT, make_model
from torch import nn

from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.evaluation.scoring import validation_scores
from hamward.models import HashModel
from hamward.training import DCMH, FitConfig, fit
from hamward.training.averaging import WeightAverage


def test_it_is_the_recursion_and_counts_are_copied() -> None:
    model = nn.BatchNorm1d(1)
    average = WeightAverage(model, 0.5)
    expected = model.weight.item()
    for step, value in enumerate([3.0, -1.0, 4.0, 1.0], start=1):
        with torch.no_grad():
            model.weight.fill_(value)
            model.num_batches_tracked.fill_(step)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.state["weight"].item() == pytest.approx(expected, abs=1e-6)
    assert average.state["num_batches_tracked"].item() == 4
    with average.applied():
        assert model.weight.item() == pytest.approx(expected, abs=1e-6)
    assert model.weight.item() == 1.0


def test_without_decay_it_is_the_model_itself() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.0)
    before = copy.deepcopy(model.state_dict())
    average.update(1)
    with average.applied():
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert average.state == {}


def train(data: RetrievalData, config: FitConfig, checkpoint: Path | None = None) -> HashModel:
    model = make_model()
    rules = {"score": lambda m: validation_scores(m, data), "checkpoint": checkpoint}
    fit(model, DCMH(), data, config=config, **rules)  # type: ignore[arg-type]
    return model


def test_the_average_is_kept_and_a_resumed_training_ends_with_the_same_bits(
    data: RetrievalData, tmp_path: Path
) -> None:
    config = dataclasses.replace(TINY_FIT, epochs=3, average=0.9, crop=0.2, flip=True)
    whole = train(data, config)
    plain = train(data, dataclasses.replace(config, average=0.0))
    assert not torch.equal(whole.encoders["text"].head.weight, plain.encoders["text"].head.weight)
    file = tmp_path / "checkpoint.safetensors"

    def dies(model: HashModel) -> dict[str, float]:
        if file.exists():
            raise KeyboardInterrupt
        return dict(validation_scores(model, data))

    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), DCMH(), data, config=config, score=dies, checkpoint=file)
    resumed = train(data, config, file)
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())


@pytest.mark.parametrize("values", [{"crop": 1.0}, {"crop": -0.1}, {"average": 1.0}])
def test_shares_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        FitConfig(**values)  # type: ignore[arg-type]
