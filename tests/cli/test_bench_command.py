"""`hamward bench` in process: plans, tables, exit codes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from make_bench import write_recipe

from hamward.benchmark import cells
from hamward.cli.app import main
from hamward.data import RetrievalData

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    data: RetrievalData,
    tmp_path: Path,
) -> Run:
    monkeypatch.setattr("hamward.process.tune_process", lambda: True)
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)
    recipe = write_recipe(tmp_path)

    def call(*words: str, out: str = "out") -> tuple[int, str, str]:
        given = ["bench", recipe, "--data", "tiny", "--out", str(tmp_path / out), *words]
        try:
            main(given)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            torch.set_num_threads(1)
        return code, *capsys.readouterr()

    return call


def test_a_dry_run_prints_the_plan_and_runs_nothing(run: Run, tmp_path: Path) -> None:
    code, out, err = run("--dry-run")
    assert (code, err) == (0, "")
    assert "train     train dcmh-8" in out and "8 cells: 1 to train" in out
    assert "estimated: " in out.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_failures_are_listed_with_exit_code_1(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train = cells.train_run

    def failing(*words: Any, **options: Any) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(cells, "train_run", failing)
    code, out, _ = run("--scale", "smaller", "--progress", "none")
    assert code == 1
    assert "failed: train dcmh-8: RuntimeError: no memory" in out
    assert "7 cells need a failed one" in out
    monkeypatch.setattr(cells, "train_run", train)
    code, out, err = run("--scale", "smaller", "--retry", "--progress", "plain")
    assert code == 0 and "8 cells run now, 8 of 8 done" in out
    assert "train dcmh-8: done (1/8 cells, about" in err
    assert "scale smaller" in out and f"table: {tmp_path / 'out' / 'tiny-tiny-smaller'}" in out
    code, out, _ = run("--scale", "smaller", "--progress", "rich")
    assert code == 0 and "0 cells run now, 8 of 8 done" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scale", "huge"], "unknown scale of"),
        (["--shard", "2"], "--shard takes I/N"),
        (["--workers", "0"], "--workers must be at least 1, got 0"),
    ],
)
def test_mistakes_exit_with_2(run: Run, words: list[str], message: str) -> None:
    code, _, err = run(*words)
    assert code == 2 and message in err
