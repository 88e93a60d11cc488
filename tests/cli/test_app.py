"""The command line in process: what it prints, refuses and leaves behind."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hamward.cli.app import main
from hamward.data import RetrievalData

TRAIN = (
    "train dcmh --image-network tiny-resnet --code-length 16 --epochs 2 --batch-size 16 "
    "--set model.text_width=32 --progress none --threads 1"
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: RetrievalData
) -> Run:
    """Run words; return exit code, output and errors. Data are tiny, this process stays as is."""
    monkeypatch.setattr("hamward.process.tune_process", lambda: True)
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})  # or --threads would be all
    monkeypatch.setenv("COLUMNS", "200")

    def call(words: str, *more: str) -> tuple[int, str, str]:
        try:
            main([*words.split(), *more])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            torch.set_num_threads(1)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def victim(run: Run, tmp_path: Path) -> Path:
    folder = tmp_path / "victim"
    assert run(TRAIN, "--out", str(folder))[0] == 0
    return folder


def test_train_harden_attack_evaluate(run: Run, victim: Path, tmp_path: Path) -> None:
    code, out, err = run(
        "harden cmla --steps 1 --references 16 --epochs 1 --batch-size 16 --progress none",
        "--victim", str(victim), "--out", str(tmp_path / "hard"),
    )  # fmt: skip
    assert code == 0, err
    assert "best epoch 1: tie-aware validation MAP i2t" in out
    code, out, err = run(
        "attack own-code --steps 1 --eps 4/255 --queries 8 --modality image --progress none",
        "--victim", str(victim), "--out", str(tmp_path / "attack"),
    )  # fmt: skip
    assert code == 0, err
    assert "| victim | own-code | 4/255 | i2t" in out and "t2i" in out
    assert "tiny: 8 queries" in out
    code, out, err = run(
        "purify noise-vote --sigma 8/255 --votes 2 --progress none",
        "--victim", str(victim), "--out", str(tmp_path / "noisy"),
    )  # fmt: skip
    assert code == 0, err
    assert "| purifiers | `{'image': {'name': 'noise-vote', 'sigma': 0.03137" in out
    code, out, err = run(
        "evaluate --attack own-code:eps=4/255,steps=1 --attack random-noise --queries 8",
        str(victim), str(tmp_path / "hard"), str(tmp_path / "noisy"),
        "--out", str(tmp_path / "both"), "--transfer-from", "hard", "--progress", "plain",
    )  # fmt: skip
    assert code == 0, err
    assert "| hard   | random-noise | 8/255 | i2t" in out
    assert "| noisy  | own-code     | 4/255 | i2t" in out
    assert "victim: random-noise, text: 1/1" in err, "progress goes to the error stream"
    rows = json.loads((tmp_path / "both" / "results.json").read_text())["rows"]
    assert {r["crafted_on"] for r in rows if r["victim"] == "victim"} == {"victim", "hard"}
    code, out, err = run("compare", str(tmp_path / "both"), "--out", str(tmp_path / "compared"))
    assert code == 0, err
    assert "| i2t, l∞ ≤ 4/255" in out and " from hard " in out
    compared = json.loads((tmp_path / "compared" / "compare.json").read_text())
    assert compared["per_query"] and compared["victims"][1]["cost"] > 1
    assert compared["victims"][1]["history"][0]["attacked_i2t"] > 0


def test_a_hardening_trains_as_its_victim_was_trained(run: Run, tmp_path: Path) -> None:
    """But for six epochs and seed 0, and what is said otherwise."""
    victim, hard = tmp_path / "victim", tmp_path / "hard"
    given = "fit.crop=0.1 fit.average=0.5 fit.image_rate=3e-4 --seed 2"
    assert run(f"{TRAIN} --set {given} --out {victim}")[0] == 0
    words = f"harden control --victim {victim} --out {hard} --progress none --threads 1"
    code, _, err = run(f"{words} --set fit.average=0.6")
    assert code == 0, err

    def fit(folder: Path) -> dict[str, object]:
        return json.loads((folder / "run.json").read_text())["config"]["fit"]

    assert fit(hard) == {**fit(victim), "average": 0.6, "epochs": 6, "seed": 0}
    assert fit(hard)["image_rate"] == 3e-4 and fit(hard)["batch_size"] == 16


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train dchm --out OUT", "unknown victim 'dchm': did you mean 'dcmh'"),
        ("train dcmh --out OUT --gama 2", "unknown key 'options.gama': did you mean 'gamma'"),
        ("train dcmh --out OUT --eta -1", "eta must be at least 0, got -1"),
        ("train dcmh --out OUT --set fit.epoch=3", "unknown key 'fit.epoch': did you mean 'epochs"),
        ("train dcmh --out OUT --set fit.epochs=many", "fit.epochs must be int, got str 'many'"),
        ("train dcmh --out OUT --set fit.image_rate=1/0", "fit.image_rate must be a number"),
        ("train dcmh --out OUT --set epochs", "--set takes KEY=VALUE, got 'epochs'"),
        ("train dcmh --out OUT --set fit=3 --epochs 2", "'fit' is a value, not a table"),
        ("train dcmh --out OUT --config none.toml", "none.toml: cannot be read"),
        ("train dcmh --out OUT --epochs 0", "epochs must be in [1, 100000], got 0"),
        ("train dcmh --out OUT --epochs many", "many"),
        ("train dcmh", "--out"),
        ("train dcmh --out OUT --threads 0", "--threads must be at least 1, got 0"),
        ("trian dcmh --out OUT", "train"),
        ("harden cmal --victim VICTIM --out OUT", "unknown defense 'cmal': did you mean 'cmla'"),
        ("harden cmla --victim VICTIM --out OUT --eps 8", "did you mean 8/255"),
        ("harden cmla --victim NONE --out OUT", "NONE: no run folder"),
        ("purify jpg --victim VICTIM --out OUT", "unknown purifier 'jpg': did you mean 'jpeg'"),
        (
            "purify jpeg --victim VICTIM --out OUT --quality 99",
            "quality must be in [1, 95], got 99",
        ),
        ("attack own-cod --victim VICTIM --out OUT", "did you mean 'own-code'"),
        ("attack own-code --victim VICTIM --out OUT --eps 8", "got 8 (did you mean 8/255?)"),
        ("attack own-code --victim VICTIM --out OUT --epss 0.1", "did you mean 'eps'"),
        ("attack own-code --victim VICTIM --out OUT --attack cmla", "unknown key 'attack'"),
        ("attack own-code --victim VICTIM --out OUT --steps 1.5", "steps must be int"),
        ("attack own-code --victim VICTIM --out OUT --queries 0", "queries must be at least 1"),
        ("attack own-code --victim NONE --out OUT", "NONE: no run folder"),
        ("evaluate --out OUT", "at least one victim"),
        ("evaluate VICTIM VICTIM --out OUT", "distinct folder names"),
        ("evaluate VICTIM --out OUT --attack cmla:eps", "--attack takes NAME:KEY=VALUE"),
        ("evaluate VICTIM --out OUT --attack own-code:attack=cmla", "unknown key 'attack'"),
        ("evaluate VICTIM --out OUT --attack cmla --attack cmla", "given twice"),
        ("evaluate VICTIM --out OUT --batch-size 0", "batch_size must be at least 1, got 0"),
        ("evaluate VICTIM --out OUT --transfer-from x", "transfer_from must be one of ['victim']"),
        ("report NONE", "NONE: no run folder"),
        ("compare NONE", "NONE: no evaluation, and none in it"),
        ("compare", "give at least one run folder of an evaluation"),
        ("list cmal", "did you mean 'cmla'"),
        ("data info openclipart", "did you mean 'openclipart27'"),
        ("data info openclipart27 --image-sid 32", "image_side"),
        ("data info openclipart27 --picture OUT.txt", "must name a .png file"),
    ],
)
def test_mistakes_end_with_two_a_sentence_and_nothing_left(
    run: Run, tmp_path: Path, request: pytest.FixtureRequest, words: str, message: str
) -> None:
    if "VICTIM" in words:
        request.getfixturevalue("victim")
    before = sorted(tmp_path.rglob("*"))
    for name in ("VICTIM", "OUT", "NONE"):
        folder = "victim" if name == "VICTIM" else name
        words = words.replace(f" {name}", f" {tmp_path / folder}")
    code, out, err = run(words)
    assert code == 2, (out, err)
    assert message in " ".join((out + err).split())
    assert "Traceback" not in out + err
    assert sorted(tmp_path.rglob("*")) == before


def test_database_items_are_attacked_and_reported(run: Run, tmp_path: Path, victim: Path) -> None:
    base = ("--victim", str(victim), "--out", str(tmp_path / "out"), "--progress", "none")
    for words, message in (
        ("attack hag --role candidate --items 5", "hag cannot attack items in the role 'candid"),
        ("attack own-code --role hub --items 73", "count must be at most 72"),
        (
            "attack own-code --role hub --items 5 --audience rd",
            "unknown label 'rd': did you mean 'red'",
        ),
        ("attack own-code --items 5 --list-length 3", "--items, --list-length: for --role cand"),
    ):
        code, _, err = run(words, *base)
        assert code == 2 and message in " ".join(err.split())
        assert not (tmp_path / "out").exists()
    words = "attack infonce --role candidate --items 5 --item-label red --list-length 3 --steps 1"
    code, out, err = run(words, *base, "--references", "16", "--no-diagnose")
    assert code == 0, err
    assert "N_3" in out and "5 of them perturbed (role candidate)" in out
    code, out, err = run("report --progress none", str(tmp_path / "out"))
    assert code == 0, err
    assert "5 items of the database were attacked" in Path(out.split()[-1]).read_text()


def test_a_damaged_checkpoint_is_named(run: Run, tmp_path: Path, victim: Path) -> None:
    weights = victim / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    for words in ("attack own-code", "harden cmla"):
        code, _, err = run(words, "--victim", str(victim), "--out", str(tmp_path / "out"))
        assert code == 2
        assert "victim/model.safetensors: not a readable safetensors file" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("between", [(), ("--set",)])
def test_several_keys_are_set_after_one_flag_or_several(
    run: Run, tmp_path: Path, between: tuple[str, ...]
) -> None:
    words = ("--set", "fit.average=0.1", *between, "fit.crop=7")
    code, _, err = run(TRAIN, "--out", str(tmp_path / "out"), *words)
    assert code == 2 and "crop must be in" in err


def test_resume_continues_the_same_run_only(
    run: Run, tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run(TRAIN, "--out", str(victim))
    assert code == 2 and "holds a run of kind 'model' already" in err and "--resume" in err
    code, _, err = run(TRAIN, "--out", str(victim), "--resume", "--set", "fit.seed=1")
    assert code == 2 and "differing keys: fit" in err
    code, out, _ = run(TRAIN, "--out", str(victim), "--resume")
    assert code == 0 and "best epoch" in out

    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hamward.evaluation.training_runs.fit", interrupt)
        code, _, err = run(TRAIN, "--out", str(tmp_path / "killed"))
    assert code == 130 and "--resume" in err
    code, _, err = run("attack own-code", "--victim", str(tmp_path / "killed"), "--out", "x")
    assert code == 2 and "this run is not finished" in err
    assert run(TRAIN, "--out", str(tmp_path / "killed"), "--resume")[0] == 0


@pytest.mark.parametrize(
    "words",
    ["train dcmh --seeds 0 1", "attack own-code --victim VICTIM", "evaluate VICTIM", "demo"],
)
def test_only_one_training_runs_in_several_processes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run(words, "--out", str(tmp_path / "out"))
    assert code == 2
    assert "(rank 1): error: 2 processes were started: only train and harden run in several" in err
    assert not (tmp_path / "out").exists()


def test_ranks_share_the_threads_of_a_host_and_the_first_speaks(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hamward.cli.parameters import prepare
    from hamward.progress import NoProgress, PlainProgress

    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    try:
        for rank, kind in ((0, PlainProgress), (1, NoProgress)):
            monkeypatch.setenv("RANK", str(rank))
            assert type(prepare(None, "plain", shared=True)) is kind
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


def test_the_command_line_overrides_the_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'data = "tiny"\n[options]\ngamma = 0.5\neta = 0.25\n[fit]\nepochs = 9\nbatch_size = 16\n'
        '[model]\ncode_length = 8\nimage_network = "tiny-resnet"\ntext_width = 16\n'
    )
    out = tmp_path / "out"
    code, _, err = run(
        "train dcmh --epochs 1 --set model.code_length=24 --gamma 2 --progress none",
        "--config", str(file), "--out", str(out),
    )  # fmt: skip
    assert code == 0, err
    config = json.loads((out / "run.json").read_text())["config"]
    assert config["options"] == {"tanh_head": True, "gamma": 2, "eta": 0.25}
    assert config["fit"]["epochs"] == 1 and config["fit"]["batch_size"] == 16
    assert config["model"]["code_length"] == 24 and config["data"] == "tiny"
    assert config["method"] == "dcmh"


def test_lists_show_methods_and_options(run: Run) -> None:
    code, out, _ = run("list")
    assert code == 0
    for word in ("dcmh", "cmla-official", "own-code", "random-noise", "control", "openclipart27"):
        assert word in out
    assert "white-box" in out and "NeurIPS 2019" in out
    code, out, _ = run("list attacks")
    assert code == 0 and "own-code" in out and "openclipart27" not in out and "dcmh" not in out
    code, out, _ = run("list cmla")
    assert code == 0
    assert "attack cmla" in out and "defense cmla" in out, "one name, two kinds"
    assert "--text-learning-rate" in out and "10/255" in out and "--refresh" in out
    assert "Differs:" in out, "the reader learns what is not as published"
    code, out, _ = run("list noise-vote")
    assert code == 0 and "purifier noise-vote" in out and "--sigma" in out
    code, out, _ = run("list saat")
    assert code == 0 and "eps: Image radius in [0, 1]." in out, "shared options are described"


def test_data_are_listed_and_described(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("data list")
    assert code == 0 and "openclipart27" in out and "public domain" in out
    picture = tmp_path / "pairs.png"
    code, out, err = run("data info openclipart27 --image-side 16", "--picture", str(picture))
    assert code == 0, err
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "items per label" in out


def test_the_version_is_the_packages(run: Run) -> None:
    import hamward

    assert run("--version")[1].strip() == hamward.__version__


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


@pytest.mark.parametrize(
    "words",
    [[c, "--help"] for c in ("train", "bench", "leaderboard", "zoo")] + [["--help"], ["--version"]],
)
def test_help_answers_without_torch(words: list[str]) -> None:
    done = python(
        "import sys\n"
        "from hamward.cli.app import main\n"
        "try:\n"
        f"    main({words!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'torch', 'numpy', 'numba', 'pyarrow', 'matplotlib', 'PIL', 'rich.progress'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    assert "HEAVY []" in done.stdout
    assert "hamward" in done.stdout or "0." in done.stdout


def test_the_package_is_a_command_too() -> None:
    words = [sys.executable, "-m", "hamward", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", done.stdout) and done.stderr == ""


def test_importing_the_package_is_light_and_quiet(tmp_path: Path) -> None:
    done = python(
        "import sys, hamward\n"
        "print(sorted({'torch', 'numpy', 'cyclopts', 'rich'} & set(sys.modules)))\n"
    )
    assert done.stdout == "[]\n" and done.stderr == ""
