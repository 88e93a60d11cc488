"""Victims with networks of their own, in the one loop: they learn, and survive a kill."""

import dataclasses
from functools import partial
from pathlib import Path

import pytest
import torch
from test_fit import Killing, equal
from tiny import SPEC, make_model

from hamward.artifacts import read_tensors
from hamward.config import call_with, from_mapping
from hamward.data import RetrievalData
from hamward.errors import ArtifactError
from hamward.evaluation.configs import TrainConfig
from hamward.evaluation.scoring import validation_scores
from hamward.models import HashModel, ModelSpec
from hamward.progress import NoProgress
from hamward.recipes import read_recipe
from hamward.training import ACMR, DCMH, OBJECTIVES, SSAH, FitConfig, Fitted, Objective, fit

CONFIG = FitConfig(epochs=2, batch_size=16, image_rate=1e-3, text_rate=5e-3, head_factor=10)
NECKED = dataclasses.replace(SPEC, neck=(24,), dropout=0.1)
GAMES = {
    "ssah": (SSAH, NECKED, 12),
    "acmr": (ACMR, dataclasses.replace(SPEC, retrieval="cosine"), 3),
    "acmr-h": (partial(ACMR, margin=1.4), dataclasses.replace(SPEC, text_network="multi-scale"), 3),
}


def train(
    data: RetrievalData,
    objective: Objective,
    spec: ModelSpec,
    *,
    config: FitConfig = CONFIG,
    checkpoint: Path | None = None,
    progress: NoProgress | None = None,
) -> tuple[HashModel, Fitted]:
    model = make_model(spec=spec)
    fitted = fit(
        model,
        objective,
        data,
        config=config,
        score=lambda m: validation_scores(m, data),
        checkpoint=checkpoint,
        progress=progress or NoProgress(),
    )
    return model, fitted


@pytest.mark.parametrize("name", GAMES)
def test_it_learns(data: RetrievalData, name: str) -> None:
    kind, spec, _ = GAMES[name]
    config = dataclasses.replace(CONFIG, epochs=10, image_rate=2e-3, text_rate=1e-2, flip=False)
    _, fitted = train(data, kind(), spec, config=config)
    assert fitted.best["i2t"] > data.chance("i2t") + 0.2
    assert fitted.best["t2i"] > data.chance("t2i") + 0.2


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("late", [0, 1])
def test_a_killed_run_resumes_to_the_same_bits(
    data: RetrievalData, tmp_path: Path, name: str, late: int
) -> None:
    """Weights, buffers and the networks beside the model."""
    kind, spec, steps = GAMES[name]
    first, whole = kind(), tmp_path / "whole.safetensors"
    expected, scores = train(data, first, spec, checkpoint=whole)
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(data, kind(), spec, checkpoint=file, progress=Killing(steps + late))
    second = kind()
    resumed, fitted = train(data, second, spec, checkpoint=file)
    assert equal(resumed, expected)
    assert fitted.best == scores.best
    states = [o.modules.state_dict() for o in (first, second)]
    assert states[0] and all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    assert first.buffers.keys() == second.buffers.keys()
    assert all(torch.equal(v, second.buffers[k]) for k, v in first.buffers.items())
    kept, again = read_tensors(whole), read_tensors(file)
    assert any(k.startswith("modules/") for k in kept)
    assert all(torch.equal(v, again[k]) for k, v in kept.items() if k != "log")


@pytest.mark.parametrize("name", GAMES)
def test_a_checkpoint_without_its_networks_is_refused(
    data: RetrievalData, tmp_path: Path, name: str
) -> None:
    kind, spec, _ = GAMES[name]
    file = tmp_path / "checkpoint.safetensors"
    train(data, DCMH(), spec, config=dataclasses.replace(CONFIG, epochs=1), checkpoint=file)
    with pytest.raises(ArtifactError, match="not a checkpoint of this training run"):
        train(data, kind(), spec, checkpoint=file)


def test_the_same_seed_gives_the_same_networks(data: RetrievalData) -> None:
    config = dataclasses.replace(CONFIG, epochs=1)
    found = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        objective = SSAH()
        train(data, objective, NECKED, config=config)
        found.append(objective.modules.state_dict())
    assert all(torch.equal(v, found[1][k]) for k, v in found[0].items())


@pytest.mark.parametrize("recipe", ["ssah", "ssah-paper", "acmr", "acmr-h", "acmr-paper"])
def test_recipes_build_what_they_name(recipe: str) -> None:
    config = from_mapping(TrainConfig, read_recipe(recipe))
    assert recipe.startswith(config.method)
    call_with(OBJECTIVES[config.method].make, config.options, path="options.")
    real = config.method == "acmr" and recipe != "acmr-h"
    assert config.model.retrieval == ("cosine" if real else "hamming")
    if config.method == "ssah":
        assert config.model.neck == (512,)
    if recipe == "ssah-paper":
        assert (config.model.text_network, config.model.text_width) == ("multi-scale", 4096)
