"""What is done, what runs and how long it will take: a live table, lines, or events."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hamward.benchmark.costs import told
from hamward.benchmark.plan import Cell
from hamward.progress import SILENT, Progress, RichProgress

__all__ = ["Board"]


@dataclass(kw_only=True)
class Board:
    """The state of a run as its watcher sees it.

    Attributes:
        total: Cells of the plan.
        done: Finished ones.
        failed: Failed ones.
        running: Start of each that runs, by label.
        left: Estimated seconds until the end.
        note: What is waited for.
        progress: How it is shown: rich a live table, others a line an event.
    """

    total: int
    done: int = 0
    failed: int = 0
    running: dict[str, float] = field(default_factory=dict)
    left: float = 0.0
    note: str = ""
    progress: Progress = SILENT

    def start(self, cell: Cell) -> None:
        """Show that a cell runs."""
        self.running[cell.label] = time.monotonic()
        self.note = ""
        self._say(f"{cell.label}: started")

    def end(self, cell: Cell, text: str) -> None:
        """Show what became of a cell."""
        self.running.pop(cell.label, None)
        self._say(f"{cell.label}: {text} ({self.line()})")

    def wait(self, note: str) -> None:
        """Show what is waited for."""
        if note != self.note:
            self.note = note
            self._say(note)

    def line(self) -> str:
        """Return where the run stands, in one line."""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done}/{self.total} cells{failed}, about {told(self.left)} to go"

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the live table for a block, where the display is one."""
        if not isinstance(self.progress, RichProgress):
            yield
            return
        from rich.console import Console
        from rich.live import Live

        with Live(get_renderable=self._table, console=Console(stderr=True), refresh_per_second=2):
            yield

    def _say(self, text: str) -> None:
        if not isinstance(self.progress, RichProgress):
            self.progress.say(text)

    def _table(self) -> Any:
        from rich.table import Table

        table = Table(title=self.line(), title_justify="left")
        table.add_column("running")
        table.add_column("for", justify="right")
        now = time.monotonic()
        for label, started in list(self.running.items()):
            table.add_row(label, told(now - started))
        if self.note:
            table.add_row(self.note, "")
        return table
