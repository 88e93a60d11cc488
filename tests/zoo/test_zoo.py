"""Models into a zoo and out of it, from a folder and over http; what is damaged is refused."""

import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hamward.artifacts import RunFolder, read_json, read_tensors, write_json
from hamward.cli.app import main
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError, DataError, UnknownNameError
from hamward.evaluation import load_victim
from hamward.evaluation.runs import items_digest
from hamward.models import HashModel, save_model
from hamward.zoo import file_of, pull, push, read_zoo
from hamward.zoo.transfer import narrowest


class Quiet(http.server.SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def victim(model: HashModel, data: RetrievalData, tmp_path: Path) -> Path:
    run = RunFolder(tmp_path / "runs" / "tiny")
    run.start("model", {"method": "dcmh"}, resume=False)
    facts = {"method": "dcmh", "options": {}, "data": "tiny", "data_options": {}}
    digests = {"data_digest": data.digest, "items_digest": items_digest(data)}
    save_model(run.path, model, **facts, **digests)
    scores = {"i2t": {"map": 0.5}, "i2i": {"map": 0.4}}
    write_json(run.path / "card.json", {"method": "dcmh", "code_length": 16, "scores": scores})
    run.finish()
    return run.path


@pytest.fixture
def zoo(victim: Path, tmp_path: Path) -> Path:
    push(victim, tmp_path / "zoo")
    return tmp_path / "zoo"


@pytest.fixture
def served(zoo: Path) -> Iterator[tuple[str, list[str]]]:
    """The zoo behind an address, and what was asked for."""
    asked: list[str] = []
    kind = type("Handler", (Quiet,), {"asked": asked})
    handler = functools.partial(kind, directory=str(zoo))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", asked
        server.shutdown()


def same(folder: Path, model: HashModel) -> bool:
    state = load_victim(folder)[0].state_dict()
    return all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_a_model_goes_in_and_comes_out_by_folder_address_and_server(
    zoo: Path, victim: Path, model: HashModel, served: tuple[str, list[str]], tmp_path: Path
) -> None:
    (entry,) = read_zoo(zoo).models
    assert entry.files[-1].path == "run.json" and entry.data == "tiny"
    assert entry.card["scores"]["i2t"]["map"] == 0.5
    base, asked = served
    for number, source in enumerate((zoo, str(zoo), zoo.as_uri(), base)):
        out = pull("tiny", source, tmp_path / f"out{number}")
        assert out == tmp_path / f"out{number}" / "tiny" and same(out, model)
        assert RunFolder(out).require("model") == RunFolder(victim).require("model")
        assert sorted(p.name for p in out.iterdir()) == sorted(f.path for f in entry.files)
    count = len(asked)
    pull("tiny", base, tmp_path / "out3")
    assert asked[count:] == ["/manifest.json"], "what is there is only checked"
    (tmp_path / "out3" / "tiny" / "run.json").unlink()  # as an interruption leaves it
    (tmp_path / "out3" / "tiny" / "model.json").unlink()
    pull("tiny", base, tmp_path / "out3")
    assert asked[count + 2 :] == ["/tiny/model.json", "/tiny/run.json"]


def test_a_damaged_file_is_refused_and_nothing_half_written_counts(
    zoo: Path, served: tuple[str, list[str]], tmp_path: Path
) -> None:
    weights = zoo / "tiny" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    wanted = file_of(zoo / "tiny", "model.safetensors").sha256
    weights.write_bytes(content)
    for number, source in enumerate((str(zoo), served[0])):
        with pytest.raises(ArtifactError) as refused:
            pull("tiny", source, tmp_path / f"out{number}")
        found = file_of(zoo / "tiny", "model.safetensors").sha256
        assert f"has sha256 {found}, expected {wanted}" in str(refused.value)
        assert not [p for p in (tmp_path / f"out{number}").rglob("*") if p.is_file()]
    weights.write_bytes(content[:-5])
    with pytest.raises(ArtifactError, match=r"model.safetensors: has [\d,]+ bytes, expected"):
        pull("tiny", served[0], tmp_path / "out2")
    weights.unlink()
    with pytest.raises(DataError, match="File not found"):
        pull("tiny", served[0], tmp_path / "out3")
    with pytest.raises(ArtifactError, match="is missing, and the manifest lists it"):
        pull("tiny", zoo, tmp_path / "out3")
    assert not (tmp_path / "out3" / "tiny" / "run.json").exists()


def test_another_run_in_the_way_is_left_alone(zoo: Path, victim: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "tiny").mkdir(parents=True)
    (tmp_path / "out" / "tiny" / "run.json").write_text("{}")
    with pytest.raises(ArtifactError, match="holds another run; choose another folder"):
        pull("tiny", zoo, tmp_path / "out")
    assert (tmp_path / "out" / "tiny" / "run.json").read_text() == "{}"
    with pytest.raises(UnknownNameError, match="unknown model of this zoo 'tinny': did you mean"):
        pull("tinny", zoo, tmp_path / "out")
    with pytest.raises(ConfigError, match="a zoo is a folder or a http, https or file address"):
        pull("tiny", "ftp://example.org/zoo", tmp_path / "out")
    with pytest.raises(ArtifactError, match="no zoo"):
        read_zoo(tmp_path)


def test_pushing_twice_changes_nothing_and_another_model_is_refused(
    zoo: Path, victim: Path, model: HashModel
) -> None:
    before = {p: p.read_bytes() for p in zoo.rglob("*") if p.is_file()}
    push(victim, zoo)
    assert {p: p.read_bytes() for p in zoo.rglob("*") if p.is_file()} == before
    with torch.no_grad():
        next(model.parameters()).add_(1)
    facts = {
        k: v for k, v in read_json(victim / "model.json").items() if k[:4] not in ("sche", "spec")
    }
    save_model(victim, model, **facts)
    with pytest.raises(ArtifactError, match="another model of this name; choose another"):
        push(victim, zoo)
    assert {p: p.read_bytes() for p in zoo.rglob("*") if p.is_file()} == before
    push(victim, zoo, name="second")
    assert [m.name for m in read_zoo(zoo).models] == ["second", "tiny"]
    with pytest.raises(ConfigError, match="name has letters, digits"):
        push(victim, zoo, name="../up")
    run = read_json(victim / "run.json")
    write_json(victim / "run.json", run | {"status": "started"})
    with pytest.raises(ArtifactError, match="not finished"):
        push(victim, zoo, name="third")
    assert sorted(p.name for p in zoo.iterdir()) == ["manifest.json", "second", "tiny"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("../evil.json", "path must lie below its folder"),
        ("/evil.json", "path must lie below its folder"),
        ("weights.pkl", "weights travel as safetensors only"),
    ],
)
def test_a_manifest_cannot_reach_out_of_the_folder_or_bring_code(
    zoo: Path, tmp_path: Path, path: str, words: str
) -> None:
    content = json.loads((zoo / "manifest.json").read_text())
    content["models"][0]["files"][0]["path"] = path
    write_json(zoo / "manifest.json", content)
    with pytest.raises(ArtifactError) as refused:
        pull("tiny", zoo, tmp_path / "out")
    assert words in str(refused.value) and not (tmp_path / "out").exists()
    write_json(zoo / "manifest.json", content)
    (zoo / "manifest.json").write_text(json.dumps(content | {"schema_version": 9}))
    with pytest.raises(ArtifactError, match="schema version 9"):
        read_zoo(zoo)


def test_weights_are_stored_narrow_only_where_nothing_is_lost(zoo: Path, model: HashModel) -> None:
    stored = read_tensors(zoo / "tiny" / "model.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(stored[name].to(value.dtype), value)
    assert narrowest(torch.tensor([1.0, -2.5])).dtype == torch.bfloat16
    assert narrowest(torch.tensor([1 + 2**-10])).dtype == torch.float16
    assert narrowest(torch.tensor([0.1])).dtype == torch.float32
    assert narrowest(torch.tensor([3])).dtype == torch.int64


def test_a_reader_that_has_enough_is_no_error(zoo: Path) -> None:
    """As in `hamward zoo list --from ZOO | head -n 1`."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "hamward", "zoo", "list", "--from", str(zoo)]
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"")


def test_from_the_zoo_to_the_leaderboard_by_command(
    zoo: Path,
    data: RetrievalData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("hamward.process.tune_process", lambda: True)
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)
    monkeypatch.chdir(tmp_path)

    def run(words: str) -> tuple[int, str]:
        try:
            main(words.split())
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out + err

    assert run(f"zoo push {zoo / 'tiny'} --to more --name again")[0] == 0
    code, told = run("zoo list --from more")
    assert code == 0 and "| again | dcmh   | none     | tiny | 16   | i2t 0.500 |" in told
    code, told = run(f"zoo pull again --from {(tmp_path / 'more').as_uri()} --to runs2")
    assert (code, told) == (0, "run folder: runs2/again\n")
    attack = "attack own-code --steps 1 --queries 4 --modality image --no-diagnose --no-pictures"
    code, told = run(f"{attack} --victim runs2/again --out eval --progress none --threads 1")
    assert code == 0, told
    code, told = run("leaderboard add eval --to board --progress none --threads 1")
    assert code == 0 and told.startswith("board/entries/again-image-linf-8-255-"), told
    file = Path(told.strip())
    code, told = run("leaderboard verify board --progress none --threads 1")
    assert (code, told) == (0, f"{file}: verified\n")
    assert run("leaderboard build board --out site") == (0, "site/index.html\n")
    content = json.loads(file.read_text())
    content["scores"][0]["chance"] = 0.01
    file.write_text(json.dumps(content))
    code, told = run(f"leaderboard verify {file} --progress none --threads 1")
    assert code == 2 and f"{file}: REFUSED\n  scores.i2t.chance: seen 0." in told
    assert "expected 0.01" in told and "1 of 1 entries do not follow" in told
    code, told = run("leaderboard verify --progress none")
    assert code == 2 and "give at least one entry" in told
