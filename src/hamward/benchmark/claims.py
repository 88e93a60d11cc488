"""Claims on a folder that several processes and hosts share: one cell, one worker."""

import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["BEAT", "STALE", "Holder", "claimed", "holder_of"]

BEAT = 10.0
"""Seconds between two signs of life."""
STALE = 120.0
"""Seconds without one after which a claim may be taken over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a claim.

    Attributes:
        host: Host name, with the boot and the process namespace that pids belong to.
        pid: Process.
        token: Random, so that two claims of one process differ.
    """

    host: str
    pid: int
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.partition('/')[0]}"

    @property
    def dead(self) -> bool:
        """Whether it is known to be gone: a process of this very host that is no more."""
        if self.host != _host():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def holder_of(file: Path) -> Holder | None:
    """Return who holds a claim alive; None if nobody does, or the claim is stale."""
    holder = _read(file)
    if holder is None or holder.dead:
        return None
    return holder if _age(file) < STALE else None


@contextmanager
def claimed(file: Path, *, beat: float = BEAT) -> Iterator[Holder | None]:
    """Hold a claim for a block, giving signs of life; yield None, or who else holds it.

    A claim whose holder died, or gave no sign of life for `STALE` seconds, is taken over. Ages are
    read on the clock of the file system, so hosts need not agree on the time. Where a holder was
    only asleep, two may work on one cell for a while: they write the same bytes, each under a
    temporary name first.

    Args:
        file: The claim; its folder is there.
        beat: Seconds between signs of life.
    """
    own = Holder(host=_host(), pid=os.getpid(), token=secrets.token_hex(8))
    other = _take(file, own)
    if other is not None:
        yield other
        return
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(file, ended, beat), daemon=True)
    keeper.start()
    try:
        yield None
    finally:
        ended.set()
        keeper.join()
        if _read(file) == own:
            with suppress(OSError):
                file.unlink()


def _take(file: Path, own: Holder) -> Holder | None:
    """Write the claim; return who was there before, alive."""
    for _ in range(3):
        try:
            handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            other = holder_of(file)
            if other is not None:
                return other
            _remove_stale(file, own)
            continue
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            json.dump(asdict(own), opened)
        return None
    return _read(file) or Holder(host="another host", pid=0, token="")


def _remove_stale(file: Path, own: Holder) -> None:
    """Move a stale claim away; what another put in its place meanwhile is put back."""
    judged = _read(file)
    aside = file.with_name(f".{file.name}.{own.token}.stale")
    with suppress(FileNotFoundError):
        file.rename(aside)
        if _read(aside) != judged and not file.exists():
            aside.rename(file)
        aside.unlink(missing_ok=True)


def _keep(file: Path, ended: threading.Event, beat: float) -> None:
    while not ended.wait(beat):
        with suppress(OSError):  # a folder that is gone is noticed where work is written
            os.utime(file)


def _read(file: Path) -> Holder | None:
    """Return what a claim says; one that is being written says nothing yet, but is held."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        return None
    try:
        said = json.loads(text)
        return Holder(host=str(said["host"]), pid=int(said["pid"]), token=str(said["token"]))
    except (ValueError, KeyError, TypeError):
        return Holder(host="an unknown host", pid=0, token="")


def _age(file: Path) -> float:
    """Return the seconds since the last sign of life, on the file system's own clock."""
    probe = file.with_name(f".{file.name}.{secrets.token_hex(4)}.clock")
    try:
        probe.touch()
        return probe.stat().st_mtime - file.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _host() -> str:
    """Return what a pid is unique in: host, boot, process namespace."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # no Linux: the name alone
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)
