"""Train, harden and evaluate into folders: chained, resumed, refused."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tiny import make_tiny_data

from hamward.artifacts import RunFolder, read_json, read_table, read_tensors, write_tensors
from hamward.attacks import CMLA, OwnCode
from hamward.data import RetrievalData, Split
from hamward.errors import ArtifactError, ConfigError, HamwardError, UnknownNameError
from hamward.evaluation import (
    CLEAN,
    EvaluateConfig,
    Evaluation,
    HardenConfig,
    ModelConfig,
    TrainConfig,
    evaluate_run,
    harden_run,
    load_victim,
    make_attack,
    train_run,
)
from hamward.evaluation.runs import kept_data, open_data
from hamward.models import HashModel
from hamward.training import SSAH, FitConfig, Step

FIT = FitConfig(epochs=3, batch_size=16, image_rate=1e-3, text_rate=1e-2, head_factor=10)
MODEL = ModelConfig(code_length=16, image_network="tiny-resnet", text_width=32)
TRAIN = TrainConfig(model=MODEL, fit=FIT)
ATTACKS = {"own-code@4/255": {"eps": "4/255", "steps": 2}, "random-noise": {}}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, data: RetrievalData) -> None:
    """Every data set is the tiny one; options are recorded, not obeyed."""
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)


def harden_config(folder: Path) -> HardenConfig:
    return HardenConfig(
        defense="cmla",
        victim=str(folder),
        options={"steps": 1, "references": 16},
        fit=dataclasses.replace(FIT, epochs=2),
    )


def equal(a: HashModel, b: HashModel) -> bool:
    other = b.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.state_dict().items())


def kill_after(monkeypatch: pytest.MonkeyPatch, name: str, calls: int) -> None:
    """Make the validation raise after some epochs, as a kill would."""
    import hamward.evaluation.training_runs as runs

    original, seen = getattr(runs, name), []

    def killing(*args: object, **options: object) -> object:
        seen.append(1)
        if len(seen) > calls:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(runs, name, killing)


def test_train_harden_evaluate(tmp_path: Path, data: RetrievalData) -> None:
    victim, hardened, out = tmp_path / "victim", tmp_path / "hardened", tmp_path / "evaluation"
    trained = train_run(TRAIN, victim)
    assert sorted(p.name for p in victim.iterdir()) == [
        "card.json",
        "card.md",
        "history.parquet",
        "history.svg",
        "model.json",
        "model.safetensors",
        "run.json",
    ]
    model, facts = load_victim(victim)
    assert equal(model, trained) and not model.training
    assert facts["method"] == "dcmh" and facts["data_digest"] == data.digest
    info = RunFolder(victim).require("model")
    assert info["config"]["fit"]["epochs"] == 3
    assert len(info["history"]) == 3 and 1 <= info["best_epoch"] <= 3
    assert read_table(victim / "history.parquet")["epoch"] == [1, 2, 3]

    before = {p.name: p.read_bytes() for p in victim.iterdir()}
    strong = harden_run(harden_config(victim), hardened)
    assert {p.name: p.read_bytes() for p in victim.iterdir()} == before
    assert not equal(strong, trained)
    assert load_victim(hardened)[1]["hardened"][0]["defense"] == "cmla"
    assert "attacked_i2t" in RunFolder(hardened).info()["validation"]

    config = EvaluateConfig(
        victims={"a": str(victim), "b": str(hardened)}, attacks=ATTACKS, queries=10
    )
    evaluation = evaluate_run(config, out)
    assert evaluation.victims() == ["a", "b"] and evaluation.attacks() == list(ATTACKS)
    assert evaluation.find("a", CLEAN, "i2t").queries == 10
    assert evaluation.find("a", "own-code@4/255", "i2t").eps == 4 / 255
    assert evaluation.find("a", "random-noise", "i2t").eps == 8 / 255
    assert Evaluation.load(out).rows == evaluation.rows
    assert RunFolder(out).require("evaluation")["config"]["attacks"] == ATTACKS


def test_an_evaluation_on_validation_repeats_the_score_of_the_chosen_epoch(tmp_path: Path) -> None:
    train_run(TRAIN, tmp_path / "victim")
    chosen = RunFolder(tmp_path / "victim").info()["validation"]
    config = EvaluateConfig(victims={"a": str(tmp_path / "victim")}, validation=True)
    made = evaluate_run(config, tmp_path / "evaluation")
    for direction in ("i2t", "t2i"):
        assert made.find("a", CLEAN, direction).map == pytest.approx(chosen[direction], abs=1e-12)
    assert "validation items ask" in made.protocol["split"]["protocol"]


def test_a_killed_training_resumes_and_a_finished_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_run(TRAIN, tmp_path / "whole")
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        kill_after(patch, "validation_scores", 1)
        with pytest.raises(KeyboardInterrupt):
            train_run(TRAIN, out)
    with pytest.raises(ArtifactError, match="this run is not finished"):
        load_victim(out)
    with pytest.raises(ArtifactError, match="holds a run of kind 'model' already"):
        train_run(TRAIN, out)
    other = dataclasses.replace(TRAIN, fit=dataclasses.replace(FIT, epochs=4))
    with pytest.raises(ArtifactError, match="differing keys: fit"):
        train_run(other, out, resume=True)
    with monkeypatch.context() as patch:
        kill_after(patch, "validation_scores", 2)  # the first epoch is not trained again
        assert equal(train_run(TRAIN, out, resume=True), whole)
    assert not (out / "checkpoint.safetensors").exists()
    with monkeypatch.context() as patch:
        kill_after(patch, "validation_scores", 0)
        assert equal(train_run(TRAIN, out, resume=True), whole)


def test_a_killed_hardening_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    train_run(TRAIN, victim)
    whole = harden_run(harden_config(victim), tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, "robust_validation_scores", 1)
        with pytest.raises(KeyboardInterrupt):
            harden_run(harden_config(victim), tmp_path / "killed")
    resumed = harden_run(harden_config(victim), tmp_path / "killed", resume=True)
    assert equal(resumed, whole)


def test_hardening_goes_on_with_the_networks_of_the_objective(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SSAH's label network leads both encoders: a fresh one would lead somewhere else."""
    victim, started = tmp_path / "victim", []
    fit_config = dataclasses.replace(FIT, epochs=1)
    model = dataclasses.replace(MODEL, neck=(8,))
    options = {"label_passes": 1}
    train_run(TrainConfig(method="ssah", options=options, model=model, fit=fit_config), victim)
    kept = read_tensors(victim / "objective.safetensors")
    assert {"buffers/label", "buffers/codes", "modules/label.head.weight"} < set(kept)
    assert not any(k.startswith("model/") for k in kept)

    original = SSAH.loss

    def watching(self: SSAH, model: HashModel, step: Step) -> torch.Tensor:
        if step.number == 0:
            started.append(self.modules["label"].head.weight.detach().clone())
        return original(self, model, step)

    monkeypatch.setattr(SSAH, "loss", watching)
    config = HardenConfig(defense="control", victim=str(victim), fit=fit_config)
    harden_run(config, tmp_path / "hard")
    assert torch.equal(started[0], kept["modules/label.head.weight"])
    moved = read_tensors(tmp_path / "hard" / "objective.safetensors")
    assert moved.keys() == kept.keys()
    assert not torch.equal(moved["modules/label.head.weight"], started[0])

    wrong = {**kept, "buffers/label": kept["buffers/label"][:3]}
    write_tensors(victim / "objective.safetensors", wrong)
    with pytest.raises(ArtifactError, match=r"are not those of this objective \(buffer label has"):
        harden_run(config, tmp_path / "wrong")
    (victim / "objective.safetensors").unlink()  # as folders of older versions are
    harden_run(config, tmp_path / "anew")
    assert not torch.equal(started[-1], kept["modules/label.head.weight"])
    assert "no networks were kept beside the model" in caplog.text


def test_the_control_is_chosen_by_clean_scores(tmp_path: Path) -> None:
    train_run(TRAIN, tmp_path / "victim")
    config = HardenConfig(defense="control", victim=str(tmp_path / "victim"), fit=FIT)
    harden_run(config, tmp_path / "control")
    validation = RunFolder(tmp_path / "control").info()["validation"]
    assert set(validation) == {"i2t", "t2i", "select"}


def test_a_killed_evaluation_resumes_to_equal_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_run(TRAIN, tmp_path / "victim")
    config = EvaluateConfig(
        victims={"v": str(tmp_path / "victim")}, attacks=ATTACKS, batch_size=8, diagnose=False
    )
    whole = evaluate_run(config, tmp_path / "whole")
    calls = []
    original = OwnCode.__call__

    def killing(self: OwnCode, *args: object, **options: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:  # in the second chunk of the texts
            raise KeyboardInterrupt
        return original(self, *args, **options)

    monkeypatch.setattr(OwnCode, "__call__", killing)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(config, tmp_path / "killed")
    assert list((tmp_path / "killed").rglob("*.parts"))
    resumed = evaluate_run(config, tmp_path / "killed", resume=True)
    assert len(calls) == 5 + 2, "finished chunks are not crafted again"
    strip = [dataclasses.replace(r, seconds=0.0) for r in resumed.rows]
    assert strip == [dataclasses.replace(r, seconds=0.0) for r in whole.rows]
    assert evaluate_run(config, tmp_path / "killed", resume=True).rows == resumed.rows


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dataclasses.replace(TRAIN, method="dchm"), "unknown victim 'dchm': did you mean 'dcmh'"),
        (dataclasses.replace(TRAIN, options={"gama": 1}), "options.gama': did you mean 'gamma'"),
        (dataclasses.replace(TRAIN, options={"eta": -1}), "eta must be at least 0"),
        (
            dataclasses.replace(TRAIN, model=dataclasses.replace(MODEL, image_network="vgg")),
            "unknown image network 'vgg'",
        ),
        (
            dataclasses.replace(TRAIN, model=dataclasses.replace(MODEL, pretrained=True)),
            "no pretrained weights",
        ),
        (
            dataclasses.replace(TRAIN, model=dataclasses.replace(MODEL, code_length=0)),
            "code_length must be in",
        ),
        (dataclasses.replace(TRAIN, fit=FitConfig(batch_size=64)), "exceeds the 48 training items"),
    ],
)
def test_a_wrong_training_leaves_no_folder(
    tmp_path: Path, config: TrainConfig, message: str
) -> None:
    with pytest.raises(HamwardError, match=message):
        train_run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_training_needs_validation_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_tiny_data()
    split = Split(
        query=data.split.query,
        database=data.split.database,
        train=data.split.train,
        validation=data.split.validation[:0],
    )
    bare = dataclasses.replace(data, split=split, digest="")
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: bare)
    with pytest.raises(ConfigError, match="tiny has no validation items"):
        train_run(TRAIN, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_hardenings_and_evaluations_leave_no_folder(tmp_path: Path) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out"
    train_run(TRAIN, victim)
    for config, message in (
        (dataclasses.replace(harden_config(victim), defense="cmal"), "unknown defense 'cmal'"),
        (dataclasses.replace(harden_config(victim), options={"eps": 8}), "did you mean 8/255"),
        (dataclasses.replace(harden_config(victim), fit=FitConfig(batch_size=64)), "exceeds"),
        (harden_config(tmp_path / "none"), "none: no run folder"),
    ):
        with pytest.raises(HamwardError, match=message):
            harden_run(config, out)
    for victims, attacks, message in (
        ({}, {}, "no victims"),
        ({"v": str(victim)}, {"cmal": {}}, "unknown attack 'cmal': did you mean 'cmla'"),
        ({"v": str(victim)}, {"cmla": {"epss": 1}}, "unknown key 'cmla: epss'"),
        ({"v": str(victim)}, {"cmla": {"eps": 8}}, "did you mean 8/255"),
        ({"v": str(tmp_path / "none")}, {}, "no run folder"),
    ):
        with pytest.raises(HamwardError, match=message):
            evaluate_run(EvaluateConfig(victims=victims, attacks=attacks), out)
    assert not out.exists()


def test_victims_of_other_data_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_run(TRAIN, tmp_path / name)
    file = tmp_path / "b" / "model.json"

    def change(**values: str) -> None:
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, **values}))

    victims = {n: str(tmp_path / n) for n in ("a", "b")}
    digest = read_json(file)["data_digest"]
    change(data_digest="0" * 64)
    with pytest.raises(ArtifactError, match=r"b: trained on other data .*evaluate them separately"):
        evaluate_run(EvaluateConfig(victims=victims), tmp_path / "out")
    change(data_digest=digest, items_digest="0" * 64)
    with pytest.raises(ArtifactError, match="b: trained with another vocabulary"):
        harden_run(harden_config(tmp_path / "b"), tmp_path / "out")
    content = json.loads(file.read_text())
    del content["items_digest"]
    file.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"model.json: lacks 'items_digest'"):
        load_victim(tmp_path / "b")


def test_attacks_are_made_by_name_or_by_the_part_before_the_at() -> None:
    assert make_attack("own-code", {}) == OwnCode()
    assert make_attack("own-code@strong", {"steps": 50}) == OwnCode(steps=50)
    assert make_attack("mine", {"attack": "cmla", "eps": "4/255"}) == CMLA(eps=4 / 255)
    with pytest.raises(UnknownNameError, match="unknown attack 'mine'"):
        make_attack("mine", {})


def test_data_are_loaded_once_where_they_are_kept(
    monkeypatch: pytest.MonkeyPatch, data: RetrievalData
) -> None:
    loads: list[str] = []

    def load(name: str, **options: object) -> RetrievalData:
        loads.append(f"{name} {options}")
        return data

    monkeypatch.setattr("hamward.evaluation.runs.load_data", load)
    with kept_data():
        with kept_data():
            assert open_data("a", {}) is open_data("a", {})
        assert open_data("a", {}) is open_data("a", {"image_side": 16})
    open_data("a", {})
    assert loads == ["a {}", "a {'image_side': 16}", "a {}"]
