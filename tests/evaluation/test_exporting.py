"""Victims as ONNX files: the same codes, the same black-box attacks, no gradients, no surprises."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import make_model, make_tiny_data
from torch import Tensor

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
import onnx
from onnx import TensorProto, helper

from hamward.artifacts import read_json
from hamward.attacks import ATTACKS, OwnCode
from hamward.cli.app import main
from hamward.data import RetrievalData
from hamward.errors import AccessError, ArtifactError, ConfigError, HamwardError, ShapeError
from hamward.evaluation import (
    EvaluateConfig,
    ExportConfig,
    HardenConfig,
    ImportConfig,
    ModelConfig,
    TrainConfig,
    evaluate,
    evaluate_run,
    export_onnx,
    export_run,
    harden_run,
    import_run,
    load_victim,
    report_run,
    train_run,
)
from hamward.evaluation import exporting as module
from hamward.models import HashModel, Victim, wrap_onnx
from hamward.models.onnx_files import OPSET, write_onnx
from hamward.training import FitConfig

FIT = FitConfig(epochs=1, batch_size=16)
TRAIN = TrainConfig(
    model=ModelConfig(code_length=16, image_network="tiny-resnet", text_width=32), fit=FIT
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, data: RetrievalData) -> None:
    """Every data set is the tiny one; options are recorded, not obeyed."""
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, HashModel]:
    """A victim's run folder, exported; and the victim."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        data = make_tiny_data()
        patch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)
        victim = train_run(TRAIN, root / "victim")
        parity = export_run(ExportConfig(victim=str(root / "victim")), root / "onnx")
    assert {m: (p.items, p.differing_bits) for m, p in parity.items()} == {
        "image": (72, 0.0),
        "text": (72, 0.0),
    }
    assert all(p.difference <= p.tolerance < 1e-2 for p in parity.values())
    return root, victim


@pytest.fixture
def folder(made: tuple[Path, HashModel]) -> Path:
    return made[0] / "onnx"


@pytest.fixture
def forward_only(folder: Path) -> HashModel:
    return wrap_onnx(image=folder / "image.onnx", text=folder / "text.onnx")


def test_the_files_say_what_they_are(folder: Path, data: RetrievalData) -> None:
    assert sorted(p.name for p in folder.iterdir()) == [
        "card.json",
        "card.md",
        "history.svg",
        "image.onnx",
        "model.json",
        "run.json",
        "text.onnx",
        "words.txt",
    ]
    assert tuple((folder / "words.txt").read_text().split()) == data.words
    for modality, shape in (("image", [3, 16, 16]), ("text", [12])):
        proto = onnx.load(folder / f"{modality}.onnx")
        facts = {entry.key: entry.value for entry in proto.metadata_props}
        assert facts["hamward.modality"] == modality and facts["hamward.code_length"] == "16"
        assert "float32 in" in facts["hamward.reads"] and "bit k" in proto.doc_string
        assert [o.version for o in proto.opset_import if not o.domain] == [OPSET]
        batch, *item = proto.graph.input[0].type.tensor_type.shape.dim
        assert batch.dim_param and [d.dim_value for d in item] == shape
        text = (folder / f"{modality}.onnx").read_bytes()
        assert str(Path(module.__file__).parents[2]).encode() not in text, "no paths of a machine"
    assert "hamward.words" in facts


def test_logits_are_the_models_for_every_batch_and_layout(
    made: tuple[Path, HashModel], forward_only: HashModel, data: RetrievalData
) -> None:
    assert forward_only.spec.image_side == 16 and forward_only.spec.vocabulary == 12
    victim = made[1].eval()
    for modality in ("image", "text"):
        x = data.inputs(modality, data.split.query)
        with torch.no_grad():
            expected = victim.logits(modality, x)
            for n in (1, 5, 24):
                found = forward_only.logits(modality, x[:n])
                torch.testing.assert_close(found, expected[:n], rtol=1e-4, atol=1e-6)
            assert forward_only.logits(modality, x.double()).dtype == torch.float64


BLACK_BOX: dict[str, dict[str, object]] = {
    "square": {"queries": 20},
    "square-list": {"queries": 20, "top_k": 20},
    "tag-edits-codes": {},
    "random-noise": {},
}


def test_black_box_attacks_make_the_same_of_file_and_model(
    made: tuple[Path, HashModel], folder: Path, data: RetrievalData, tmp_path: Path
) -> None:
    victims = {"victim": str(made[0] / "victim"), "onnx": str(folder)}
    few = {"queries": 6, "batch_size": 3}
    config = EvaluateConfig(victims=victims, attacks=BLACK_BOX, **few)  # type: ignore[arg-type]
    found = evaluate_run(config, tmp_path / "evaluation")
    rows = {
        name: [
            dataclasses.replace(r, victim="", crafted_on="", seconds=0.0)
            for r in found.rows
            if r.victim == name
        ]
        for name in victims
    }
    assert rows["victim"] == rows["onnx"]
    assert {r.attack for r in rows["onnx"]} == {"none", *BLACK_BOX}
    assert report_run(tmp_path / "evaluation").exists(), "a victim without training log, too"


def test_attacks_with_gradients_are_refused_before_work_starts(
    forward_only: HashModel, folder: Path, data: RetrievalData, tmp_path: Path
) -> None:
    message = "own-code on 'v' needs access to 'gradients', but this victim grants 'codes' only"
    with pytest.raises(AccessError, match=message):
        evaluate({"v": forward_only}, data, {"own-code": OwnCode()}, folder=tmp_path)
    assert not list(tmp_path.iterdir())
    with (
        pytest.raises(AccessError, match="grants 'codes' only"),
        Victim(model=forward_only).attacked(),
    ):
        Victim(model=forward_only).logits("text", torch.zeros(1, 12))
    refused = {n for n, e in ATTACKS.items() if e.access == "gradients"}
    assert {"cmla", "strongest", "prosgan"} <= refused
    config = HardenConfig(victim=str(folder), fit=FIT)
    with pytest.raises(ConfigError, match="cannot be trained further"):
        harden_run(config, tmp_path / "hard")
    with pytest.raises(ArtifactError, match="only a PyTorch model can be exported"):
        export_onnx(forward_only, tmp_path, data)
    out = tmp_path / "export"
    with pytest.raises(ArtifactError, match="only a PyTorch model can be exported"):
        export_run(ExportConfig(victim=str(folder)), out)
    assert not out.exists()


def test_a_file_that_encodes_otherwise_is_not_written(
    data: RetrievalData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    original = module.OnnxEncoder.forward
    monkeypatch.setattr(module.OnnxEncoder, "forward", lambda self, x: original(self, x) * 1.01)
    with pytest.raises(ArtifactError, match="does not encode as the model does"):
        export_onnx(model, tmp_path, data)
    assert not list(tmp_path.iterdir())
    for config in ({"items": 0}, {"tolerance": 0.0}, {"tolerance": 2.0}):
        with pytest.raises(ConfigError, match=next(iter(config))):
            ExportConfig(victim="x", **config)  # type: ignore[arg-type]


def test_a_folder_whose_file_was_exchanged_is_refused(
    made: tuple[Path, HashModel], tmp_path: Path
) -> None:
    out = tmp_path / "onnx"
    out.mkdir()
    for file in (made[0] / "onnx").iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    assert load_victim(out)[0].access == "codes"
    save(linear(12, 16), out / "text.onnx")
    with pytest.raises(ArtifactError, match=r"text.onnx: not the file that was checked"):
        load_victim(out)
    (out / "text.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"text.onnx: not an ONNX file"):
        load_victim(out)


def linear(
    words: int,
    bits: int,
    *,
    batch: int | str = "n",
    kind: int = TensorProto.FLOAT,
    shift: float = -0.5,
    rank: int = 2,
) -> onnx.ModelProto:
    """A text encoder by hand: logit k is word k of the bag, minus one half."""
    matrix = torch.eye(words, bits).flatten().tolist()
    nodes = [
        helper.make_node("Cast", ["bag"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "weight"], ["made"]),
        helper.make_node("Add", ["made", "shift"], ["logits" if rank == 2 else "flat"]),
    ]
    if rank == 3:
        nodes.append(helper.make_node("Unsqueeze", ["flat", "axis"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "text",
        [helper.make_tensor_value_info("bag", kind, [batch, words])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", bits, 1][:rank])],
        [
            helper.make_tensor("weight", TensorProto.FLOAT, [words, bits], matrix),
            helper.make_tensor("shift", TensorProto.FLOAT, [1], [shift]),
            helper.make_tensor("axis", TensorProto.INT64, [1], [2]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def save(proto: onnx.ModelProto, file: Path) -> Path:
    file.write_bytes(proto.SerializeToString())
    return file


def test_a_foreign_file_becomes_a_victim_of_the_command_line(
    data: RetrievalData, tmp_path: Path, made: tuple[Path, HashModel]
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("\n".join(data.words))
    file = save(linear(12, 12), tmp_path / "mine.onnx")
    config = ImportConfig(text=str(file), data="tiny", words=str(words))
    model = import_run(config, tmp_path / "mine")
    bags = data.inputs("text", data.split.query)
    assert torch.equal(model.logits("text", bags), bags - 0.5), "by hand"
    card = read_json(tmp_path / "mine" / "card.json")
    assert list(card["scores"]) == ["t2t"] and card["code_length"] == 12
    assert card["scores"]["t2t"]["map"] > card["scores"]["t2t"]["chance"]
    again = import_run(config, tmp_path / "mine", resume=True)
    assert torch.equal(again.logits("text", bags), bags - 0.5)
    evaluation = evaluate_run(
        EvaluateConfig(
            victims={"mine": str(tmp_path / "mine")},
            attacks={"tag-edits-codes": {}},
            modalities=("text",),
            queries=4,
        ),
        tmp_path / "evaluation",
    )
    row = evaluation.find("mine", "tag-edits-codes", "t2t", stored="as typed")
    assert row.flips > 0
    ours = ImportConfig(image=str(made[0] / "onnx" / "image.onnx"), data="tiny")
    assert import_run(ours, tmp_path / "seen").spec.image_side == 16


def exchanged(tmp_path: Path, made: Path) -> dict[str, str]:
    return {"text": str(made / "onnx" / "image.onnx")}


def image_and_text(tmp_path: Path, made: Path) -> dict[str, str]:
    text = save(linear(12, 8), tmp_path / "eight.onnx")
    return {"image": str(made / "onnx" / "image.onnx"), "text": str(text)}


def by_hand(**options: object) -> Callable[[Path, Path], dict[str, str]]:
    def make(tmp_path: Path, made: Path) -> dict[str, str]:
        values = {"words": 12, "bits": 12, **options}
        return {"text": str(save(linear(**values), tmp_path / "by-hand.onnx"))}  # type: ignore[arg-type]

    return make


def with_text(content: str) -> Callable[[Path, Path], dict[str, str]]:
    def make(tmp_path: Path, made: Path) -> dict[str, str]:
        (tmp_path / "file.txt").write_text(content)
        return {"text": str(tmp_path / "file.txt")}

    return make


def other_words(tmp_path: Path, made: Path) -> dict[str, str]:
    (tmp_path / "words.txt").write_text("\n".join(f"x{j}" for j in range(12)))
    return {**by_hand()(tmp_path, made), "words": str(tmp_path / "words.txt")}


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        (lambda *_: {}, ConfigError, "an import needs a file for image"),
        (lambda *_: {"text": "none.onnx"}, ArtifactError, "none.onnx: not an ONNX file"),
        (with_text("not ONNX"), ArtifactError, "not an ONNX file that onnxruntime can run"),
        (exchanged, ArtifactError, r"one input, float32 \(batch, words\), has items"),
        (image_and_text, ArtifactError, "16 bits and .*eight.onnx has 8 bits: they share no"),
        (by_hand(words=11, bits=11), ShapeError, "reads bags of 11 words, not 12"),
        (by_hand(words=12, batch=1), ArtifactError, "batches of 1 only: export it with a dynamic"),
        (by_hand(kind=TensorProto.INT64), ArtifactError, "one input, float32"),
        (by_hand(rank=3), ArtifactError, "one output, float32 logits"),
        (by_hand(shift=0.0), ConfigError, "one code: its output must be logits"),
        (other_words, ArtifactError, "words.txt: made for other words"),
    ],
)
def test_files_that_cannot_serve_are_refused(
    files: Callable[[Path, Path], dict[str, str]],
    error: type[HamwardError],
    message: str,
    tmp_path: Path,
    made: tuple[Path, HashModel],
) -> None:
    out = tmp_path / "out"
    with pytest.raises(error, match=message):
        import_run(ImportConfig(data="tiny", **files(tmp_path, made[0])), out)  # type: ignore[arg-type]
    assert not out.exists()


def test_a_text_file_of_ours_knows_its_words(
    folder: Path, data: RetrievalData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(data, words=tuple(reversed(data.words)))
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: other)
    config = ImportConfig(text=str(folder / "text.onnx"), data="tiny")
    with pytest.raises(ArtifactError, match="made for other words, or another order of them"):
        import_run(config, tmp_path / "out")


def test_without_the_extra_the_error_names_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxruntime", "onnx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"needs onnxruntime.*pip install 'hamward\[onnx\]'"):
        load_victim(folder)
    with pytest.raises(ConfigError, match=r"needs onnx, .*pip install 'hamward\[onnx\]'"):
        write_onnx(make_model(), "text", tmp_path / "x.onnx", facts={}, check=lambda e: None)


def test_the_commands_say_what_they_found(
    made: tuple[Path, HashModel],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hamward.process.tune_process", lambda: True)
    words = ["--threads", "1", "--progress", "none"]
    export = ["export", str(made[0] / "victim"), "--out", str(made[0] / "onnx"), *words]
    with pytest.raises(SystemExit, match="0"):
        main([*export, "--resume"])
    out = capsys.readouterr().out
    assert "text.onnx: 0.00% of the bits of 72 items differ, logits by up to" in out
    stored = read_json(made[0] / "onnx" / "run.json")
    assert stored["opset"] == OPSET and stored["parity"]["image"]["items"] == 72
    with pytest.raises(SystemExit, match="2"):
        main(export)
    assert "holds a run of kind 'model' already" in capsys.readouterr().err
    file = save(linear(12, 12), tmp_path / "mine.onnx")
    mine = ["--text", str(file), "--data", "tiny", "--out", str(tmp_path / "mine")]
    with pytest.raises(SystemExit, match="0"):
        main(["import", *mine, *words])
    assert "# imported, 12 bits" in capsys.readouterr().out


def test_items_of_another_size_are_refused(folder: Path) -> None:
    with pytest.raises(ShapeError, match="reads pictures of side 16, not 32"):
        wrap_onnx(image=folder / "image.onnx", image_side=32)
    model = wrap_onnx(text=folder / "text.onnx")

    def ask(x: Tensor) -> Tensor:
        return model.encoder("text")(x)

    with pytest.raises(ShapeError, match=r"text.onnx: cannot run on \(2, 5\)"):
        ask(torch.zeros(2, 5))
