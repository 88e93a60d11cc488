"""Two processes train as one does: the same bits on both, the same numbers as alone."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rank_worker import EXACT, SHARED, train_all
from torch import Tensor

from hamward.artifacts import read_json, read_tensors
from hamward.errors import ConfigError
from hamward.process import placed
from hamward.training import ALONE, FitConfig, joined

HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two real processes leave, started as torchrun starts them."""
    out = tmp_path_factory.mktemp("ranks")
    port = free_port()
    started = [
        subprocess.Popen(
            [sys.executable, str(HERE / "rank_worker.py"), str(out)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path]),
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Tensor]]:
    return [read_tensors(folder / f"rank{rank}.safetensors") for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    return train_all(ALONE)


def test_all_ranks_hold_the_same_bits(ranks: list[dict[str, Tensor]]) -> None:
    first, second = ranks
    assert first.keys() == second.keys() and len(first) > 100
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("name", EXACT)
def test_two_ranks_do_what_one_process_does(
    ranks: list[dict[str, Tensor]], alone: dict[str, Tensor], name: str
) -> None:
    """Weights after two sgd steps a pass, memories, and the networks beside the model."""
    start = {f"{name}/0/{k}": v for k, v in EXACT[name][1]().state_dict().items()}
    for key in (k for k in alone if k.startswith(f"{name}/")):
        torch.testing.assert_close(ranks[0][key], alone[key], rtol=1e-4, atol=1e-5, msg=key)
    for key in (k for k in start if k.endswith("weight")):
        moved = (alone[key] - start[key]).norm()
        assert (ranks[0][key] - alone[key]).norm() < 1e-3 * moved, key


@pytest.mark.parametrize("name", SHARED)
def test_what_happens_inside_trunks_is_a_ranks_own(
    ranks: list[dict[str, Tensor]], alone: dict[str, Tensor], name: str
) -> None:
    keys = [k for k in alone if k.startswith(f"{name}/")]
    assert any(not torch.allclose(ranks[0][k], alone[k], atol=1e-4) for k in keys)
    for key in (k for k in keys if "running_mean" in k):
        gap = (ranks[0][key] - alone[key]).norm() / alone[key].norm().clamp(min=1e-3)
        assert gap < 0.2, "shares have about the statistics of the batch"


def test_a_killed_training_resumes_on_all_ranks(folder: Path) -> None:
    assert all(read_json(folder / f"rank{rank}.json")["resumed"] for rank in range(2))


def test_one_failure_ends_all_with_a_reason(folder: Path) -> None:
    seen = [read_json(folder / f"rank{rank}.json")["errors"] for rank in range(2)]
    assert seen[0][0] == "ConfigError: no such folder"
    assert seen[1][0] == "TrainingError: rank 0 failed: no such folder"
    for one in seen:
        assert one[1].startswith(
            "TrainingError: train: the ranks do not hold the same bits in 3 tensors, first in "
            "'buffers/codes'"
        )
        assert one[2].startswith("ConfigError: batch_size 9 is shared by 2 ranks: it must be a")
    assert seen[0][3].startswith(
        "TrainingError: rank 0 of 2 waits for another rank that failed or is stuck"
    )
    assert seen[1][3] == "ConfigError: this rank has had enough"


def test_without_a_launcher_there_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with joined() as found:
        assert found == ALONE
    x = torch.randn(3, 2)
    assert ALONE.gather(ALONE.share(x)) is not None and torch.equal(ALONE.share(x), x)
    assert ALONE.first(lambda: 3) == 3 and ALONE.differing({"a": 1}) == []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert placed() == (1, 4, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert placed() == (1, 4, 2)
    with pytest.raises(ConfigError, match="timeout of ranks must be positive, got 0 minutes"):
        joined(timeout=0).__enter__()


def test_a_batch_must_have_equal_shares() -> None:
    FitConfig(batch_size=8).check(8, ranks=4)
    for size, ranks in ((9, 2), (8, 8)):
        with pytest.raises(ConfigError, match=f"a multiple of {ranks}, at least {2 * ranks}"):
            FitConfig(batch_size=size).check(48, ranks=ranks)
