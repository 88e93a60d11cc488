import json
import os
from pathlib import Path

import pytest
import torch

from hamward.artifacts import (
    SCHEMA_VERSION,
    RunFolder,
    digest_of,
    environment,
    read_json,
    read_table,
    read_tensors,
    write_atomically,
    write_json,
    write_table,
    write_tensors,
)
from hamward.errors import ArtifactError


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.txt"
    write_atomically(file, lambda part: part.write_text("old") and None)

    def half(part: Path) -> None:
        part.write_text("ne")
        assert part.parent == file.parent, "a rename must not cross file systems"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, half)
    assert file.read_text() == "old"
    assert [p.name for p in file.parent.iterdir()] == ["a.txt"]


def test_a_writer_that_fails_at_first_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    with pytest.raises(OSError):
        write_atomically(tmp_path / "b", lambda part: os.rmdir(part))
    assert not list(tmp_path.iterdir())


def test_tensors_come_back_in_dtype_and_bits(tmp_path: Path) -> None:
    tensors = {
        "float": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        "half": torch.tensor([1.0, 2.0]).half(),
        "code": torch.tensor([[1, -1]], dtype=torch.int8),
        "step": torch.tensor(3.0),
        "strided": torch.arange(24.0)
        .view(1, 2, 3, 4)
        .contiguous(memory_format=torch.channels_last),
        "view": torch.arange(9.0).view(3, 3).T,
        "grad": torch.ones(2, requires_grad=True),
    }
    write_tensors(tmp_path / "a.safetensors", tensors)
    again = read_tensors(tmp_path / "a.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[k], v) and again[k].dtype == v.dtype for k, v in tensors.items())


def test_tables_and_summaries_come_back(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", {"a": [1, 2], "b": ["x", "y"]})
    assert read_table(tmp_path / "t.parquet") == {"a": [1, 2], "b": ["x", "y"]}
    write_json(tmp_path / "s.json", {"a": [1]})
    assert read_json(tmp_path / "s.json") == {"schema_version": SCHEMA_VERSION, "a": [1]}


@pytest.mark.parametrize("read", [read_tensors, read_table, read_json])
@pytest.mark.parametrize("content", [None, b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{", b"\xff" * 99])
def test_files_that_cannot_be_read_are_named(tmp_path: Path, read, content) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "broken.file"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"broken.file: not a readable"):
        read(file)


def test_other_schema_versions_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for content in ({"schema_version": 99}, {}, [1]):
        file.write_text(json.dumps(content))
        with pytest.raises(
            ArtifactError, match=rf"a.json: schema version .*reads {SCHEMA_VERSION}"
        ):
            read_json(file)


def test_digests_follow_content_not_order_or_container() -> None:
    assert digest_of({"a": 1, "b": (2, 3)}) == digest_of({"b": [2, 3], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert digest_of(None) != digest_of("None")


def test_the_environment_names_versions_and_threads() -> None:
    facts = environment()
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()


CONFIG = {"method": "dcmh", "fit": {"epochs": 3}}


def test_a_run_is_started_finished_and_required(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert not run.done
    run.start("model", CONFIG, resume=False)
    assert not run.done and run.info()["status"] == "started"
    with pytest.raises(ArtifactError, match="not finished; continue with --resume"):
        run.require("model")
    run.finish(best_epoch=2)
    assert run.done
    info = run.require("model")
    assert (info["best_epoch"], info["config"]) == (2, CONFIG)
    assert info["environment"]["packages"]["torch"]
    with pytest.raises(ArtifactError, match="holds a 'model' run, expected 'evaluation'"):
        run.require("evaluation")


def test_a_used_folder_needs_resume_and_the_same_configuration(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.start("model", CONFIG, resume=False)
    written = (tmp_path / "run.json").read_bytes()
    with pytest.raises(ArtifactError, match=r"holds a run of kind 'model' already.*--resume"):
        run.start("model", CONFIG, resume=False)
    run.start("model", dict(CONFIG), resume=True)
    other = {"method": "dcmh", "fit": {"epochs": 4}, "seed": 1}
    with pytest.raises(ArtifactError, match=r"another configuration.*differing keys: fit, seed"):
        run.start("model", other, resume=True)
    with pytest.raises(ArtifactError, match="kind 'model' against 'demo'; differing keys: none"):
        run.start("demo", CONFIG, resume=True)
    assert (tmp_path / "run.json").read_bytes() == written


def test_resuming_nothing_is_starting(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "new")
    run.start("model", CONFIG, resume=True)
    assert run.info()["status"] == "started"


def test_foreign_folders_and_files_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ArtifactError, match="not empty and no run folder"):
        RunFolder(tmp_path).start("model", CONFIG, resume=True)
    with pytest.raises(ArtifactError, match="not a folder"):
        RunFolder(tmp_path / "thesis.tex").start("model", CONFIG, resume=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ArtifactError, match="no run folder"):
        RunFolder(tmp_path).info()


def test_what_a_killed_start_left_is_no_foreign_content(tmp_path: Path) -> None:
    (tmp_path / ".run.json.17.part").write_text("{")
    RunFolder(tmp_path).start("model", CONFIG, resume=False)
    assert RunFolder(tmp_path).info()["kind"] == "model"


def test_a_run_json_of_something_else_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"distance_km": 10, "kind": "marathon"})
    with pytest.raises(ArtifactError, match=r"run.json: lacks \['config', .*'status'\]"):
        RunFolder(tmp_path).start("model", CONFIG, resume=True)
