"""Progress with ETA behind one small protocol: rich bars, plain lines, JSON events, none."""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal, Protocol, TextIO, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

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
    """One live bar a loop, with elapsed and remaining time; loops within loops below theirs.

    Args:
        stream: Where to draw; the standard error by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        from rich.console import Console

        self._console = Console(file=stream) if stream else Console(stderr=True)
        self._bars: "Bars | None" = None

    def track(self, items: Iterable[T], *, total: int, label: str) -> Iterator[T]:
        """Yield the items under a bar; that of an inner loop goes when the loop ends."""
        bars, outermost = self._bars, self._bars is None
        if bars is None:
            bars = self._bars = _bars_on(self._console)
            bars.start()
        task = bars.add_task(label, total=total)
        try:
            for item in items:
                yield item
                bars.advance(task)
        finally:
            if outermost:
                bars.stop()
                self._bars = None
            else:
                bars.remove_task(task)

    def say(self, text: str) -> None:
        """Print the line above the bars."""
        self._console.print(text, highlight=False, markup=False)


def _bars_on(console: "Console") -> "Bars":
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description:<38}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
    )


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
