import os
import platform
import subprocess
import sys

import pytest
import torch

from hamward.errors import ConfigError
from hamward.process import device_of


def test_the_allocator_takes_it_where_there_is_glibc() -> None:
    """In a process of its own: the setting is for the whole process."""
    code = "from hamward.process import tune_process; print(tune_process())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.strip() == str(platform.libc_ver()[0] == "glibc")


def test_threads_spin_shortly_unless_told_otherwise() -> None:
    code = "import os; from hamward import tune_process; tune_process(); import sys; "
    code += "print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    plain = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}

    def printed(env: dict[str, str]) -> str:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        return done.stdout.strip()

    assert printed(plain) == "1000 False"
    assert printed({**plain, "GOMP_SPINCOUNT": "7"}) == "7 False"
    assert printed({**plain, "OMP_WAIT_POLICY": "ACTIVE"}) == "None False"


def test_device_words() -> None:
    assert device_of("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        assert device_of("auto") == torch.device("cpu")
        with pytest.raises(ConfigError, match=r"device cuda: PyTorch .* sees no GPU here"):
            device_of("cuda")
    for word in ("gpu", "cuda:", "cuda:x", "cpu:0"):
        with pytest.raises(ConfigError, match="must be auto, cpu, cuda or cuda:N, got"):
            device_of(word)


def test_ranks_of_a_host_take_its_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = []
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        found.append(str(device_of("auto")))
    assert found == ["cuda:0", "cuda:1", "cuda:0"]
    assert str(device_of("cuda:1")) == "cuda:1"
    with pytest.raises(ConfigError, match="GPUs 0 to 1"):
        device_of("cuda:2")
