import os
import platform
import subprocess
import sys


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
