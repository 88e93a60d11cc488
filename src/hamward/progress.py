"""Progress with ETA behind one small protocol: rich bars, plain lines, JSON events, none."""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Literal, Protocol, TextIO, TypeVar, runtime_checkable

__all__ = [
    "SILENT",
    "JsonProgress",
    "NoProgress",
    "PlainProgress",
    "Progress",
    "ProgressKind",
    "RichProgress",
    "progress_of",
]

T = TypeVar("T")
ProgressKind = Literal["auto", "rich", "plain", "json", "none"]


@runtime_checkable
class Progress(Protocol):
    """Something that watches loops."""

    def track(self, items: Iterable[T], *, total: int, label: str) -> Iterator[T]:
        """Yield the items, showing how many of `total` are done."""
        ...

    def say(self, text: str) -> None:
        """Show one line."""
        ...


class NoProgress:
    """Shows nothing."""

    def track(self, items: Iterable[T], *, total: int, label: str) -> Iterator[T]:
        """Yield the items."""
        yield from items

    def say(self, text: str) -> None:
        """Drop the line."""


SILENT = NoProgress()


class RichProgress:
    """One live bar a loop, with elapsed and remaining time."""

    def track(self, items: Iterable[T], *, total: int, label: str) -> Iterator[T]:
        """Yield the items under a bar."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description:<38}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=Console(stderr=True), transient=False) as bars:
            yield from bars.track(items, total=total, description=label)

    def say(self, text: str) -> None:
        """Print the line above the bars."""
        from rich.console import Console

        Console(stderr=True).print(text, highlight=False, markup=False)


class PlainProgress:
    """A line at most every five seconds, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None, *, every: float = 5.0) -> None:
        self.stream = stream or sys.stderr
        self.every = every

    def track(self, items: Iterable[T], *, total: int, label: str) -> Iterator[T]:
        """Yield the items, writing how far it is and how long it will take."""
        start = last = time.monotonic()
        done = 0
        for item in items:
            yield item
            done += 1
            now = time.monotonic()
            if now - last >= self.every and done < total:
                eta = (now - start) / done * (total - done)
                self.say(f"{label}: {done}/{total}, {now - start:.0f} s, ETA {eta:.0f} s")
                last = now
        self.say(f"{label}: {done}/{total} in {time.monotonic() - start:.1f} s")

    def say(self, text: str) -> None:
        """Write the line."""
        self.stream.write(text + "\n")
        self.stream.flush()


class JsonProgress:
    """One JSON object a line, for programs."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr

    def track(self, items: Iterable[T], *, total: int, label: str) -> Iterator[T]:
        """Yield the items, writing an event per item."""
        start = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            self._write(label=label, done=done, total=total, seconds=time.monotonic() - start)

    def say(self, text: str) -> None:
        """Write the line as an event."""
        self._write(message=text)

    def _write(self, **event: object) -> None:
        self.stream.write(json.dumps(event) + "\n")
        self.stream.flush()


def progress_of(kind: ProgressKind) -> Progress:
    """Return the progress display of a name; "auto" is rich on a terminal, else plain."""
    if kind == "auto":
        kind = "rich" if sys.stderr.isatty() else "plain"
    if kind == "rich":
        return RichProgress()
    if kind == "plain":
        return PlainProgress()
    return JsonProgress() if kind == "json" else SILENT
