"""A victim without texts from training to the report, alone and beside a cross-modal one."""

import contextlib
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_tiny_data

from hamward.artifacts import RunFolder
from hamward.cli.app import main
from hamward.data import RetrievalData
from hamward.errors import ConfigError, HamwardError
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
    markdown_table,
    train_run,
)
from hamward.evaluation.report.findings import Findings
from hamward.evaluation.runs import report_run
from hamward.models import build_hash_model
from hamward.training import FitConfig

FIT = FitConfig(epochs=2, batch_size=16, image_rate=1e-3, text_rate=1e-2, head_factor=10)
IMAGE = ModelConfig(code_length=16, image_network="tiny-resnet", text_network="")
BOTH = dataclasses.replace(IMAGE, text_network="bow-mlp", text_width=32)
TRAIN = TrainConfig(method="dpsh", model=IMAGE, fit=FIT)
ATTACKS = {"own-code": {"steps": 2}, "random-noise": {}}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, data: RetrievalData) -> None:
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An image-only and a cross-modal run."""
    folder, data = tmp_path_factory.mktemp("victims"), make_tiny_data()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)
        train_run(TRAIN, folder / "dpsh")
        train_run(dataclasses.replace(TRAIN, method="dcmh", model=BOTH), folder / "dcmh")
    return {name: str(folder / name) for name in ("dpsh", "dcmh")}


def directions(evaluation: Evaluation, victim: str) -> set[str]:
    return {row.direction for row in evaluation.rows if row.victim == victim}


def page_of(run: Path) -> tuple[str, str]:
    page = report_run(run)
    text = page.read_text()
    told = re.sub(r"<style.*?</style>", "", text.split('<section id="protocol"')[0], flags=re.S)
    assert not re.search(r">[^<]*\b(nan|None|inf)\b", told)
    return text, (page.parent / "report.md").read_text()


def test_a_victim_without_texts_is_trained_saved_and_searched(victims: dict[str, str]) -> None:
    model, facts = load_victim(Path(victims["dpsh"]))
    assert model.modalities == ("image",) and facts["method"] == "dpsh"
    assert set(RunFolder(Path(victims["dpsh"])).info()["validation"]) == {"i2i", "select"}


def test_its_evaluation_and_page_speak_of_i2i(victims: dict[str, str], tmp_path: Path) -> None:
    config = EvaluateConfig(victims={"dpsh": victims["dpsh"]}, attacks=ATTACKS, queries=12)
    evaluation = evaluate_run(config, tmp_path / "run")
    assert directions(evaluation, "dpsh") == {"i2i"}
    assert evaluation.find("dpsh", "own-code", "i2i").map <= 1
    table = markdown_table(evaluation)
    assert table.count("| i2i ") == 3, "clean and two attacks"
    page, text = page_of(tmp_path / "run")
    for section in (
        'id="results"',
        'id="lookup"',
        'id="distance"',
        'id="gallery"',
        'id="training"',
    ):
        assert section in page, section
    assert "Image-to-image (i2i)" in page and "image-to-text" not in page + text
    assert "image-to-image MAP of `dpsh`" in text
    assert 'class="card"' in page
    assert "What is found are texts" not in page


def test_clean_scores_alone_make_a_page(victims: dict[str, str], tmp_path: Path) -> None:
    evaluate_run(EvaluateConfig(victims={"dpsh": victims["dpsh"]}), tmp_path / "run")
    page, text = page_of(tmp_path / "run")
    assert "On clean queries, image-to-image MAP of `dpsh` is" in text
    assert 'class="card"' in page and 'id="lookup"' in page


@pytest.mark.parametrize("order", [("dpsh", "dcmh"), ("dcmh", "dpsh")])
def test_beside_a_cross_modal_victim_both_are_told(
    victims: dict[str, str], tmp_path: Path, order: tuple[str, str]
) -> None:
    config = EvaluateConfig(
        victims={name: victims[name] for name in order},
        attacks=ATTACKS,
        queries=12,
        transfer_from=order[0],
    )
    evaluation = evaluate_run(config, tmp_path / "run")
    assert directions(evaluation, "dcmh") == {"i2t", "t2i", "i2i", "t2t"}
    findings = Findings(evaluation=evaluation)
    assert findings.directions(within=False) == ["i2t", "t2i", "i2i"]
    assert findings.directions(within=True) == ["t2t"]
    assert findings.main_direction("image") == ("i2i" if order[0] == "dpsh" else "i2t")
    assert findings.main_direction("text") == "t2i"
    crossed = {(r.victim, r.direction[0]) for r in evaluation.rows if r.transfer}
    assert crossed == {(order[1], "i")}, "only pictures exist for both"
    page, text = page_of(tmp_path / "run")
    if order[0] == "dpsh":
        assert "image-to-image MAP of `dpsh`" in text and "Crafted anew against `dcmh`" in text
    assert "Image-to-image (i2i)" in page and "Image-to-text (i2t)" in page
    table = markdown_table(evaluation)
    assert not re.search(r"dcmh .* i2i", table) and re.search(r"dpsh .* i2i", table)


def test_attacks_on_a_side_that_a_victim_lacks_are_refused(
    victims: dict[str, str], tmp_path: Path
) -> None:
    config = EvaluateConfig(victims=victims, attacks=ATTACKS, modalities=("text",))
    with pytest.raises(ConfigError, match="'dpsh' has no text encoder to attack: it encodes image"):
        evaluate_run(config, tmp_path / "run")


@pytest.mark.parametrize(("method", "attack"), [("csq", "cmla"), ("hashnet", "own-code")])
def test_it_can_be_hardened(tmp_path: Path, method: str, attack: str) -> None:
    train_run(dataclasses.replace(TRAIN, method=method), tmp_path / "victim")
    options = {"steps": 1, "references": 16, "attack": attack}
    config = HardenConfig(victim=str(tmp_path / "victim"), options=options, fit=FIT)
    harden_run(config, tmp_path / "hard")
    validation = RunFolder(tmp_path / "hard").info()["validation"]
    assert set(validation) == {"i2i", "attacked_i2i", "select"}
    assert np.isfinite(list(validation.values())).all()


def test_its_training_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hamward.evaluation.training_runs as runs

    for method in ("hashnet", "csq"):
        config = dataclasses.replace(TRAIN, method=method)
        whole = train_run(config, tmp_path / method / "whole").state_dict()
        original, calls = runs.validation_scores, []

        def killing(*args: object, calls: list[int] = calls, original=original) -> object:
            calls.append(1)
            if len(calls) > 1:
                raise KeyboardInterrupt
            return original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(runs, "validation_scores", killing)
            with pytest.raises(KeyboardInterrupt):
                train_run(config, tmp_path / method / "killed")
        resumed = train_run(config, tmp_path / method / "killed", resume=True).state_dict()
        assert all(torch.equal(v, whole[k]) for k, v in resumed.items())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            dataclasses.replace(TRAIN, model=BOTH),
            "dpsh trains no text encoder, but model.text_network is 'bow-mlp': set "
            'model.text_network = ""',
        ),
        (
            dataclasses.replace(TRAIN, method="dcmh"),
            "dcmh trains a text encoder: model.text_network must name one",
        ),
        (
            dataclasses.replace(TRAIN, model=dataclasses.replace(IMAGE, image_network="alexnet")),
            "'alexnet' needs pictures of side 63 or more, got 16",
        ),
        (
            dataclasses.replace(TRAIN, model=dataclasses.replace(IMAGE, weights="none.pth")),
            "'tiny-resnet' reads no weight files",
        ),
        (
            dataclasses.replace(
                TRAIN,
                model=dataclasses.replace(IMAGE, image_network="resnet-18", weights="none.pth"),
            ),
            "none.pth: no such file of weights",
        ),
        (
            dataclasses.replace(
                TRAIN,
                method="csq",
                options={"centers": "random"},
                model=dataclasses.replace(IMAGE, code_length=2),
            ),
            "too short for centers of",
        ),
        (
            dataclasses.replace(
                TRAIN,
                method="csq",
                model=dataclasses.replace(IMAGE, code_length=12),
            ),
            "needs a code_length that is a power of two",
        ),
    ],
)
def test_what_cannot_be_trained_leaves_no_folder(
    tmp_path: Path, config: TrainConfig, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if config.model.code_length == 2:
        monkeypatch.setattr(
            "hamward.evaluation.runs.load_data", lambda name, **options: many_classes()
        )
    with pytest.raises(HamwardError, match=re.escape(message)):
        train_run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def many_classes() -> RetrievalData:
    data = make_tiny_data()
    labels = np.eye(8, dtype=np.uint8)[np.arange(len(data)) % 8]
    names = tuple(f"c{i}" for i in range(8))
    return dataclasses.replace(data, labels=labels, label_names=names, digest="")


def test_one_class_only_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_tiny_data()
    labels = data.labels.copy()
    labels[data.split.train, 2] = 1
    same = dataclasses.replace(data, labels=labels, digest="")
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: same)
    for config in (TRAIN, dataclasses.replace(TRAIN, method="dcmh", model=BOTH)):
        with pytest.raises(ConfigError, match="every training item of tiny has the label 'blue'"):
            train_run(config, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_batch_of_one_is_refused_before_the_first_step() -> None:
    with pytest.raises(ConfigError, match=r"batch_size must be in \[2, 65536\], got 1"):
        FitConfig(batch_size=1)


def test_a_users_weights_reach_the_run(tmp_path: Path) -> None:
    model = dataclasses.replace(IMAGE, image_network="resnet-18")
    spec = load_spec(tmp_path, model)
    trunk = build_hash_model(spec, seed=7).encoder("image").trunk
    torch.save(trunk.state_dict(), tmp_path / "r18.pth")
    config = dataclasses.replace(
        TRAIN,
        model=dataclasses.replace(model, weights=str(tmp_path / "r18.pth")),
        fit=dataclasses.replace(FIT, epochs=1, image_rate=0, weight_decay=0),
    )
    trained = train_run(config, tmp_path / "out")
    own = trained.encoder("image").trunk.state_dict()
    assert torch.equal(own["conv1.weight"], trunk.state_dict()["conv1.weight"])
    assert json.loads((tmp_path / "out" / "model.json").read_text())["weights"] == "r18.pth"


def load_spec(folder: Path, model: ModelConfig):  # type: ignore[no-untyped-def]
    from hamward.models import ModelSpec

    return ModelSpec(
        code_length=model.code_length,
        vocabulary=12,
        image_side=16,
        image_network=model.image_network,
        text_network="",
    )


def test_the_command_line_trains_attacks_and_reports_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hamward.process.tune_process", lambda: True)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    out = tmp_path / "victim"
    quiet = ("--progress", "none", "--threads", "1")

    def run(*words: str) -> str:
        with contextlib.suppress(SystemExit):
            main([*words])
        torch.set_num_threads(1)
        out, err = capsys.readouterr()
        assert not err, err
        return out

    for method in ("dpsh", "dph", "hashnet", "csq"):
        folder = out / method
        told = run(
            "train", method, "--image-network", "tiny-resnet", "--code-length", "16",
            "--epochs", "1", "--batch-size", "16", "--out", str(folder), *quiet,
        )  # fmt: skip
        assert "tie-aware validation MAP i2i" in told
    told = run(
        "attack", "own-code", "--victim", str(out / "csq"), "--out", str(tmp_path / "attack"),
        "--steps", "1", "--queries", "8", *quiet,
    )  # fmt: skip
    assert re.search(r"\| csq +\| own-code +\| 8/255 \| i2i", told)
    assert run("report", str(tmp_path / "attack"), *quiet).strip().endswith("index.html")
    assert CLEAN in Evaluation.load(tmp_path / "attack").rows[0].attack
