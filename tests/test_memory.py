import os
import platform
import subprocess
import sys


def test_the_allocator_takes_it_where_there_is_glibc() -> None:
    """In a process of its own: the setting is for the whole process."""
    code = "from hamward.memory import tune_allocator; print(tune_allocator())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.strip() == str(platform.libc_ver()[0] == "glibc")
