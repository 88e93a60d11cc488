"""Entries: what they say, that they are recomputed, and what is refused with which words."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from made_board import QUERIES, change, entry_file, made_once, with_new_hashes, write_victim

from hamward.artifacts import read_json, read_tensors, write_json, write_tensors
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError
from hamward.evaluation import EvaluateConfig, Evaluation, evaluate_run
from hamward.evaluation.results import Flag
from hamward.leaderboard import add_run, read_board, read_entry, verify_entry
from hamward.leaderboard.entry import Entry
from hamward.leaderboard.stored import items_file, read_items, sources_digest, write_items
from hamward.models import HashModel

LARGE, EDITS, BLACK = "image-linf-8/255", "text-edits-1+1", "black-box-3-image-linf-8/255"
THREATS = {LARGE, EDITS, BLACK, "image-linf-4/255", "text-linf-0.05-feature-space"}


@pytest.fixture(autouse=True)
def _tiny_data(monkeypatch: pytest.MonkeyPatch, data: RetrievalData) -> None:
    """Every data set is the tiny one."""
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)


@pytest.fixture(scope="module")
def evaluation(
    _trained: HashModel, data: RetrievalData, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return made_once(tmp_path_factory, _trained, data)[0]


def test_an_entry_for_each_threat_model_with_the_worst_case_of_each_query(
    made: Path, evaluation: Path, data: RetrievalData
) -> None:
    entries = {e.threat.id: e for e in read_board(made)}
    assert set(entries) >= THREATS
    kept = read_tensors(evaluation / "precision" / "tiny.safetensors")
    for threat, names in ((LARGE, ("own-code@8", "hag@8", "square@8")), (BLACK, ("square@8",))):
        entry = entries[threat]
        assert tuple(a.name for a in entry.threat.attacks) == names
        assert [s.direction for s in entry.scores] == ["i2t", "i2i"]
        for score in entry.scores:
            of_queries = []
            for query in range(QUERIES):
                each = [float(kept[f"{n}/tiny/{score.direction}"][query]) for n in names]
                of_queries.append(min(each))
            assert score.robust.map == pytest.approx(np.nanmean(of_queries), abs=1e-12)
            assert score.robust.low <= score.robust.map <= score.robust.high
            assert score.robust.map <= score.clean.map
    large, black = entries[LARGE], entries[BLACK]
    assert (large.threat.access, large.threat.queries) == ("gradients", None)
    assert (black.threat.access, black.threat.queries) == ("codes", 3)
    assert large.main.direction == "i2t" and entries[EDITS].main.direction == "t2i"
    assert entries[EDITS].threat.words == (1, 1) and entries[EDITS].threat.stored == "as typed"
    assert (large.protocol.queries, large.protocol.all_queries) == (QUERIES, 24)
    assert large.protocol.limited and large.data.items_digest != large.data.digest
    assert large.data.digest == data.limit(queries=QUERIES).digest
    assert large.cost.training_seconds == 7 and large.model.seed == 3
    assert large.cost.submissions == sum(a.submissions for a in large.threat.attacks) > 0
    assert large.code.sources == sources_digest() and large.model.card["method"] == "dcmh"


def test_what_was_added_is_verified_and_added_once(
    board: Path, evaluation: Path, made: Path
) -> None:
    kept: dict[object, object] = {}
    for entry in read_board(board):
        assert verify_entry(board / "entries" / f"{entry.name}.json", recomputed=kept) == ()
    assert len(kept) == 1, "the victim is read once"
    before = {p: p.read_bytes() for p in sorted(board.rglob("*")) if p.is_file()}
    again = add_run(evaluation, board)
    assert {p: p.read_bytes() for p in sorted(board.rglob("*")) if p.is_file()} == before
    assert [p.stem for p in again] and len(again) == len(read_board(made))
    # An interruption before the entry was written leaves artifacts that nothing refers to.
    again[0].unlink()
    (board / "artifacts" / again[0].stem / "results.json").unlink()
    add_run(evaluation, board)
    assert before[again[0]] == again[0].read_bytes() and verify_entry(again[0]) == ()


def rewrite(
    board: Path, file: Path, name: str, edit: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    entry = read_entry(file)
    place = file.parent / entry.artifacts / name
    tensors = read_tensors(place)
    edit(tensors)
    write_tensors(place, tensors)
    with_new_hashes(file)


def raised_precision(board: Path, file: Path) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["hag@8/tiny/i2t"][4] += 0.01

    rewrite(board, file, "precision/tiny.safetensors", edit)


def turned_picture(board: Path, file: Path) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["levels"][5] = 255 - tensors["levels"][5]

    rewrite(board, file, "items/hag@8.safetensors", edit)


def turned_code(board: Path, file: Path) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["database/text"][7] *= -1

    rewrite(board, file, "codes/tiny.safetensors", edit)


def other_weights(board: Path, file: Path) -> None:
    place = file.parent / read_entry(file).model.folder / "model.safetensors"
    tensors = read_tensors(place)
    name = next(k for k in tensors if "head" in k and k.endswith("weight"))
    tensors[name] = -tensors[name]
    write_tensors(place, tensors)
    with_new_hashes(file)


def higher_map(board: Path, file: Path) -> None:
    def edit(entry: Entry) -> Entry:
        first = entry.scores[0]
        robust = dataclasses.replace(first.robust, map=first.robust.map + 0.001)
        return dataclasses.replace(
            entry, scores=(dataclasses.replace(first, robust=robust), *entry.scores[1:])
        )

    change(file, edit)


def narrower_interval(board: Path, file: Path) -> None:
    place = file.parent / read_entry(file).artifacts / "results.json"
    content = read_json(place)
    for row in content["rows"]:
        row["low"] = row["map"]
    write_json(place, content)
    with_new_hashes(file)


def other_data(board: Path, file: Path) -> None:
    change(
        file, lambda e: dataclasses.replace(e, data=dataclasses.replace(e.data, digest="0" * 64))
    )


def other_split(board: Path, file: Path) -> None:
    change(
        file,
        lambda e: dataclasses.replace(e, data=dataclasses.replace(e.data, split_digest="1" * 64)),
    )


def all_queries(board: Path, file: Path) -> None:
    change(
        file,
        lambda e: dataclasses.replace(
            e, protocol=dataclasses.replace(e.protocol, all_queries=QUERIES)
        ),
    )


def larger_steps(board: Path, file: Path) -> None:
    def edit(entry: Entry) -> Entry:
        first, *rest = entry.threat.attacks
        first = dataclasses.replace(first, options={**first.options, "steps": 200})
        return dataclasses.replace(
            entry, threat=dataclasses.replace(entry.threat, attacks=(first, *rest))
        )

    change(file, edit)


def defended(board: Path, file: Path) -> None:
    change(
        file, lambda e: dataclasses.replace(e, model=dataclasses.replace(e.model, defenses=("x",)))
    )


@pytest.mark.parametrize(
    ("edit", "field", "words"),
    [
        (raised_precision, "rows.hag@8/tiny/i2t.precision[4]", "expected"),
        (turned_picture, "codes.adversarial/hag@8/tiny/image[5]", "does not give (1 items differ)"),
        (turned_picture, "items.hag@8[5]", "expected linf of 0.03137 around the clean item"),
        (turned_code, "codes.database/text[7]", "expected what the model gives"),
        (other_weights, "codes.query/image[0]", "expected what the model gives"),
        (higher_map, "scores.i2t.robust.map", "expected"),
        (narrower_interval, "rows.hag@8/tiny/i2t.low", "expected"),
        (other_data, "data.digest", f"expected {'0' * 64}"),
        (other_split, "data.split_digest", f"expected {'1' * 64}"),
        (all_queries, "data.digest", "seen"),
        (larger_steps, "attacks.own-code@8.steps", "seen 200, expected 2"),
        (defended, "model.defenses", "seen [], expected ['x']"),
    ],
)
def test_what_differs_is_named_with_both_values(
    board: Path, edit: Callable[[Path, Path], None], field: str, words: str
) -> None:
    file = entry_file(board, LARGE)
    edit(board, file)
    found = {d.field: str(d) for d in verify_entry(file)}
    assert field in found, found
    assert words in found[field] and found[field].startswith(f"{field}: seen ")


def test_a_changed_file_is_named_before_anything_is_computed(board: Path) -> None:
    file = entry_file(board, LARGE)
    entry = read_entry(file)
    picture = items_file(file.parent / entry.artifacts, "hag@8")
    content = bytearray(picture.read_bytes())
    content[-1] ^= 1
    picture.write_bytes(content)
    weights = file.parent / entry.model.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    (file.parent / entry.artifacts / "gallery.json").unlink()
    found = {d.field: str(d) for d in verify_entry(file)}
    assert set(found) == {
        "files[items/hag@8.safetensors]", "files[gallery.json]", "model.files[model.safetensors]",
    }  # fmt: skip
    wanted = next(f for f in entry.files if f.path.startswith("items/hag"))
    assert found["files[items/hag@8.safetensors]"].endswith(f"expected {wanted.sha256}")
    assert "is missing" in found["files[gallery.json]"]


def test_doubts_that_the_rows_raise_cannot_be_left_out(board: Path) -> None:
    file = entry_file(board, LARGE)
    with_flags = read_entry(file).flags
    # Square never moved an item by more than the gradient attacks here; let it seem so.
    place = file.parent / read_entry(file).artifacts
    evaluation = Evaluation.load(place)
    rows = tuple(
        dataclasses.replace(r, map=0.0) if r.attack == "square@8" and r.direction == "i2t" else r
        for r in evaluation.rows
    )
    dataclasses.replace(evaluation, rows=rows).save(place)
    with_new_hashes(file)
    told = [str(d) for d in verify_entry(file) if d.field == "flags"]
    assert told == ["flags: seen black-box-beats-white-box (square@8, i2t), expected none"]
    assert not any(f.id == "black-box-beats-white-box" for f in with_flags)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c | {"schema_version": 2}, "schema version 2, this hamward reads 1"),
        (lambda c: c | {"score": 1}, "unknown key 'score': did you mean 'scores'"),
        (lambda c: {k: v for k, v in c.items() if k != "threat"}, "missing key 'threat'"),
        (lambda c: c | {"scores": []}, "scores must have at least one direction"),
        (lambda c: c | {"name": "another"}, "name is 'another', expected"),
        (lambda c: c | {"artifacts": "/etc"}, "folders must be relative to the entry"),
        (lambda c: c | {"probed": "yes"}, "probed must be true or false, got str 'yes'"),
        (
            lambda c: c | {"scores": [c["scores"][0] | {"direction": "x2t"}]},
            "scores[0].direction must be one of ['i2t', 't2i', 'i2i', 't2t'], got 'x2t'",
        ),
        (
            lambda c: c | {"files": [c["files"][0] | {"path": "../secret.json"}]},
            "path must lie below its folder, got '../secret.json'",
        ),
        (
            lambda c: c | {"files": [c["files"][0] | {"path": "weights.pkl"}]},
            "weights travel as safetensors only",
        ),
    ],
)
def test_an_entry_of_another_schema_is_refused(
    board: Path, edit: Callable[[dict[str, object]], dict[str, object]], words: str
) -> None:
    file = entry_file(board, LARGE)
    file.write_text(json.dumps(edit(json.loads(file.read_text()))), encoding="utf-8")
    with pytest.raises(ArtifactError) as refused:
        read_entry(file)
    assert words in str(refused.value) and str(file) in str(refused.value)


def test_evaluations_that_are_no_entries_are_refused(
    evaluation: Path, tmp_path: Path, model: HashModel, data: RetrievalData
) -> None:
    run = Path(shutil.copytree(evaluation, tmp_path / "run"))
    info = read_json(run / "run.json")
    board = tmp_path / "board"
    write_json(run / "run.json", info | {"status": "started"})
    with pytest.raises(ArtifactError, match="this run is not finished"):
        add_run(run, board)
    write_json(run / "run.json", info)
    (run / "precision" / "tiny.safetensors").unlink()
    with pytest.raises(ArtifactError, match="keeps no precision per query"):
        add_run(run, board)
    # Codes that the victim does not give: nothing gets a name.
    shutil.copytree(evaluation / "precision", run / "precision", dirs_exist_ok=True)
    codes = read_tensors(run / "codes" / "tiny.safetensors")
    codes["adversarial/own-code@4/tiny/image"] *= -1
    write_tensors(run / "codes" / "tiny.safetensors", codes)
    with pytest.raises(ArtifactError, match="does not follow from its own files: codes"):
        add_run(run, board)
    assert not list((board / "entries").iterdir()) and not list((board / "artifacts").iterdir())
    with pytest.raises(ArtifactError, match="no leaderboard"):
        read_board(board)


def test_an_evaluation_on_validation_items_has_no_place_on_a_board(
    tmp_path: Path, model: HashModel, data: RetrievalData, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = write_victim(tmp_path / "tiny", model, data)
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)
    config = EvaluateConfig(
        victims={"tiny": str(victim)},
        attacks={"own-code": {"steps": 1}},
        validation=True,
        diagnose=False,
    )
    evaluate_run(config, tmp_path / "run")
    with pytest.raises(ConfigError, match="a board ranks by queries"):
        add_run(tmp_path / "run", tmp_path / "board")
    assert not list((tmp_path / "board").rglob("*.json"))


def test_items_are_kept_without_loss(tmp_path: Path) -> None:
    ids = torch.arange(2)
    pictures = torch.tensor([[0, 128, 255], [3, 7, 11]]).float() / 255
    write_items(tmp_path / "a.safetensors", ids, pictures)
    assert read_tensors(tmp_path / "a.safetensors")["levels"].dtype == torch.uint8
    fractions = torch.tensor([[0.05, 1.0], [0.0, 0.3]])
    tokens = torch.tensor([[5, 900], [0, 1]])
    for name, items in (("a", pictures), ("b", fractions), ("c", tokens)):
        write_items(tmp_path / f"{name}.safetensors", ids, items)
        again = read_items(tmp_path / f"{name}.safetensors")
        assert torch.equal(again[0], ids) and torch.equal(again[1], items)
    write_tensors(tmp_path / "d.safetensors", {"ids": ids})
    with pytest.raises(ArtifactError, match="no adversarial items"):
        read_items(tmp_path / "d.safetensors")


def test_flags_of_a_defense_count_as_masking(made: Path) -> None:
    entry = read_entry(entry_file(made, LARGE))
    flag = Flag(id="scale", victim="tiny", subject="x", value=1, threshold=0, message="m")
    hardened = dataclasses.replace(entry.model, defenses=("cmla",))
    assert not dataclasses.replace(entry, flags=(flag,)).masking
    assert not dataclasses.replace(entry, model=hardened, flags=()).masking
    assert dataclasses.replace(entry, model=hardened, flags=(flag,)).masking
    ties = dataclasses.replace(flag, id="ties")
    assert not dataclasses.replace(entry, model=hardened, flags=(ties,)).masking
    assert dataclasses.replace(entry, model=hardened, flags=(ties, flag)).masking
