"""What every objective over pairs must keep in the loop: learn, resume, leave streams alone."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from tiny import SPEC, TINY_FIT, make_model

from hamward.config import call_with, from_mapping
from hamward.data import RetrievalData
from hamward.evaluation.configs import TrainConfig
from hamward.evaluation.scoring import validation_scores
from hamward.models import HashModel, ModelSpec
from hamward.progress import NoProgress
from hamward.recipes import read_recipe
from hamward.training import (
    DJSRH,
    FPAD,
    OBJECTIVES,
    DualEncoder,
    FitConfig,
    Fitted,
    Objective,
    fit,
)

NECKED = dataclasses.replace(SPEC, neck=(24,), dropout=0.2)
COSINE = dataclasses.replace(SPEC, retrieval="cosine")
CASES: dict[str, tuple[Callable[[], Objective], ModelSpec]] = {
    "fpad": (FPAD, NECKED),
    "fpad-free": (lambda: FPAD(clusters="free", restart="heads"), NECKED),
    "fpad-networks": (lambda: FPAD(prototype_share=0.4, restart="networks"), NECKED),
    "djsrh": (DJSRH, SPEC),
    "dual-encoder": (DualEncoder, COSINE),
    "dual-encoder-hash": (DualEncoder, SPEC),
    "dual-encoder-pairs": (lambda: DualEncoder(targets="pairs"), COSINE),
}
CONFIG = FitConfig(epochs=3, batch_size=16, image_rate=1e-3, text_rate=1e-2)
STEPS = 3  # an epoch: 48 items in batches of 16


class Killing(NoProgress):
    """Raises after some steps, as a kill would."""

    def __init__(self, after: int) -> None:
        self.after = after

    def track(self, items: Iterable, *, total: int, label: str) -> Iterator:  # type: ignore[type-arg]
        for done, item in enumerate(items):
            if done == self.after:
                raise KeyboardInterrupt
            yield item


def train(
    name: str,
    data: RetrievalData,
    *,
    config: FitConfig = CONFIG,
    checkpoint: Path | None = None,
    progress: NoProgress | None = None,
) -> tuple[HashModel, Fitted]:
    make, spec = CASES[name]
    model = make_model(spec=spec)
    fitted = fit(
        model,
        make(),
        data,
        config=config,
        score=lambda m: validation_scores(m, data),
        checkpoint=checkpoint,
        progress=progress or NoProgress(),
    )
    return model, fitted


@pytest.mark.parametrize(
    ("name", "epochs"),
    [("fpad", 12), ("djsrh", 8), ("dual-encoder", 8), ("dual-encoder-hash", 8)],
)
def test_it_learns(data: RetrievalData, name: str, epochs: int) -> None:
    before = validation_scores(make_model(spec=CASES[name][1]), data)
    config = dataclasses.replace(TINY_FIT, epochs=epochs)
    _, fitted = train(name, data, config=config)
    assert fitted.best["select"] > before["select"] + 0.1
    assert fitted.best["i2t"] > data.chance("i2t") + 0.1, fitted.best
    assert fitted.best["t2i"] > data.chance("t2i") + 0.1, fitted.best


@pytest.mark.parametrize(
    ("name", "after"), [("fpad", STEPS), *((name, 2 * STEPS + 1) for name in CASES)]
)
def test_a_killed_run_resumes_to_the_same_bits(
    data: RetrievalData, tmp_path: Path, name: str, after: int
) -> None:
    state = torch.get_rng_state()
    whole, expected = train(name, data)
    assert torch.equal(torch.get_rng_state(), state)
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(name, data, checkpoint=file, progress=Killing(after))
    resumed, fitted = train(name, data, checkpoint=file)
    other = whole.state_dict()
    assert all(torch.equal(v, other[k]) for k, v in resumed.state_dict().items())
    keys = ("epoch", "loss", "i2t", "t2i", "select")
    assert [[r[k] for k in keys] for r in fitted.history] == [
        [r[k] for k in keys] for r in expected.history
    ]


@pytest.mark.parametrize(
    ("recipe", "kind"),
    [
        ("fpad", FPAD),
        ("fpad-paper", FPAD),
        ("djsrh", DJSRH),
        ("djsrh-paper", DJSRH),
        ("dual-encoder", DualEncoder),
        ("dual-encoder-hash", DualEncoder),
    ],
)
def test_recipes_build_what_they_name(data: RetrievalData, recipe: str, kind: type) -> None:
    config = from_mapping(TrainConfig, read_recipe(recipe))
    objective = call_with(OBJECTIVES[config.method].make, config.options)
    assert isinstance(objective, kind)
    if kind is DualEncoder:
        assert config.model.retrieval == ("hamming" if "hash" in recipe else "cosine")
    small = min(config.model.neck[-1:], default=0)
    spec = dataclasses.replace(SPEC, neck=(small,) if small else ())
    objective.start(make_model(spec=spec), data, data.split.train)
