"""Purified victims as run folders: written at once, evaluated, hardened, refused."""

import dataclasses
from pathlib import Path

import pytest
import torch

from hamward.artifacts import RunFolder, read_json, write_tensors
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError, UnknownNameError
from hamward.evaluation import (
    HardenConfig,
    ModelConfig,
    PurifyConfig,
    TrainConfig,
    harden_run,
    load_victim,
    purify_run,
    train_run,
)
from hamward.models import BitDepth, NoiseVote
from hamward.training import FitConfig

FIT = FitConfig(epochs=1, batch_size=16)
MODEL = ModelConfig(code_length=16, image_network="tiny-resnet", text_width=32)


@pytest.fixture
def victim(monkeypatch: pytest.MonkeyPatch, data: RetrievalData, tmp_path: Path) -> Path:
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)
    train_run(TrainConfig(model=MODEL, fit=FIT), tmp_path / "victim")
    return tmp_path / "victim"


def test_a_purified_victim_is_a_run_folder_that_evaluates_and_hardens_on(
    victim: Path, tmp_path: Path
) -> None:
    write_tensors(victim / "objective.safetensors", {"kept": torch.ones(1)})
    before = {p.name: p.read_bytes() for p in victim.iterdir()}
    options = {"sigma": "1/2", "votes": 2, "seed": 3}
    config = PurifyConfig(purifier="noise-vote", victim=str(victim), options=options)
    made = purify_run(config, tmp_path / "out")
    assert {p.name: p.read_bytes() for p in victim.iterdir()} == before
    expected = {"image": NoiseVote(sigma=0.5, votes=2, seed=3)}
    loaded, facts = load_victim(tmp_path / "out")
    assert loaded.purifiers == made.purifiers == expected
    bare, known = load_victim(victim)
    assert facts == known | {"purifiers": facts["purifiers"]}
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in bare.state_dict().items())
    assert (tmp_path / "out" / "objective.safetensors").exists()
    card = read_json(tmp_path / "out" / "card.json")
    assert card["purifiers"] == facts["purifiers"]
    assert "noise-vote" in (tmp_path / "out" / "card.md").read_text()
    scores, bare_scores = card["scores"], read_json(victim / "card.json")["scores"]
    assert scores["i2t"] != bare_scores["i2t"], "scored with the purifier"
    info = RunFolder(tmp_path / "out").require("model")
    assert info["config"]["options"] == options

    (tmp_path / "out" / "objective.safetensors").unlink()
    hardening = HardenConfig(defense="control", victim=str(tmp_path / "out"), fit=FIT)
    harden_run(hardening, tmp_path / "hard")
    hard, facts = load_victim(tmp_path / "hard")
    assert hard.purifiers == expected and facts["hardened"][0]["defense"] == "control"


def test_it_is_made_once_and_misuse_is_refused_before_a_folder_is_claimed(
    victim: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    config = PurifyConfig(purifier="bit-depth", victim=str(victim))
    for change, error, message in (
        ({"purifier": "jpg"}, UnknownNameError, "unknown purifier 'jpg': did you mean 'jpeg'"),
        ({"options": {"bits": 12}}, ConfigError, r"bits must be in \[1, 8\], got 12"),
        ({"options": {"bit": 2}}, ConfigError, "unknown key 'options.bit': did you mean 'bits'"),
        ({"victim": str(tmp_path / "none")}, ArtifactError, "none: no run folder"),
    ):
        with pytest.raises(error, match=message):
            purify_run(dataclasses.replace(config, **change), out)
        assert not out.exists()
    purify_run(config, out)
    written = (out / "model.json").stat().st_mtime_ns
    assert purify_run(config, out, resume=True).purifiers == {"image": BitDepth()}
    assert (out / "model.json").stat().st_mtime_ns == written
    with pytest.raises(ArtifactError, match="holds a run of kind 'model' already"):
        purify_run(config, out)
    twice = PurifyConfig(purifier="jpeg", victim=str(out))
    with pytest.raises(ConfigError, match="in front of its image encoder"):
        purify_run(twice, tmp_path / "twice")
    assert not (tmp_path / "twice").exists()
