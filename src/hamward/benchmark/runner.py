"""Run a plan: ready cells first, each once, others' cells waited for, failures kept."""

import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from hamward.benchmark.board import Board
from hamward.benchmark.cells import Outcome
from hamward.benchmark.claims import STALE
from hamward.benchmark.costs import Costs
from hamward.benchmark.executors import Executor
from hamward.benchmark.plan import Cell, Plan
from hamward.benchmark.store import Store
from hamward.errors import ConfigError, HamwardError
from hamward.progress import SILENT, Progress

__all__ = ["Shard", "Summary", "run_plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Every so many-th cell of a plan: the part of one host.

    Attributes:
        number: Which part, from 1.
        of: How many parts there are.
    """

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ConfigError(f"--shard takes I/N with 1 <= I <= N, got {self.number}/{self.of}")

    @classmethod
    def read(cls, text: str) -> "Shard":
        """Read "2/3".

        Raises:
            ConfigError: it is no such text.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdigit() and of.isdigit()):
            raise ConfigError(f"--shard takes I/N, such as 1/2, got {text!r}")
        return cls(number=int(number), of=int(of))

    def holds(self, index: int) -> bool:
        """Return whether the cell at this place of the plan belongs to it."""
        return index % self.of == self.number - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run left.

    Attributes:
        done: Finished cells of the plan, whoever did them.
        made: Cells that this run did.
        failures: Message of each failed cell, by name.
        blocked: Cells that need a failed one.
        left: Cells of other shards, and those of ours that need them.
    """

    done: frozenset[str]
    made: tuple[str, ...]
    failures: dict[str, str]
    blocked: tuple[str, ...]
    left: tuple[str, ...]


@dataclass(kw_only=True)
class _Run:
    plan: Plan
    store: Store
    executor: Executor
    board: Board
    costs: Costs
    mine: set[str]
    done: set[str] = field(default_factory=set)
    made: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    running: dict[Future[Outcome], Cell] = field(default_factory=dict)
    busy: dict[str, str] = field(default_factory=dict)

    def blocked(self) -> list[str]:
        """Return the cells that need a failed one, directly or not."""
        found: dict[str, None] = {}
        for cell in self.plan.cells.values():
            if cell.name not in self.done and any(
                n in self.failures or n in found for n in cell.needs
            ):
                found[cell.name] = None
        return list(found)

    def ready(self) -> list[Cell]:
        """Return the cells of ours that can start, in the plan's order."""
        started = {cell.name for cell in self.running.values()}
        return [
            cell
            for name, cell in self.plan.cells.items()
            if name in self.mine
            and name not in self.done
            and name not in self.failures
            and name not in started
            and name not in self.busy
            and all(need in self.done for need in cell.needs)
        ]

    def look(self) -> None:
        """See what others have done meanwhile."""
        self.store.check()
        for name in self.plan.cells:
            if name not in self.done and self.store.done(name):
                self.done.add(name)
                self.busy.pop(name, None)
        for name in list(self.busy):
            if self.store.holder(name) is None:
                del self.busy[name]
        for name in self.store.failures() & self.plan.cells.keys() - self.done:
            self.failures.setdefault(name, self.store.failure(name) or "")
            self.busy.pop(name, None)
        self.show()

    def show(self) -> None:
        """Bring the board up to date."""
        open_cells = [
            c for n, c in self.plan.cells.items() if n not in self.done and n not in self.failures
        ]
        self.board.done, self.board.failed = len(self.done), len(self.failures)
        seconds = sum(self.costs.seconds(cell) for cell in open_cells if cell.name in self.mine)
        self.board.left = seconds / self.executor.slots

    def submit(self, cell: Cell) -> None:
        """Start a cell."""
        self.board.start(cell)
        self.running[self.executor.submit(self.store, cell)] = cell

    def take(self, future: Future[Outcome]) -> None:
        """Take what became of a cell."""
        cell = self.running.pop(future)
        outcome = self._outcome(future, cell)
        if outcome.status == "busy":
            self.busy[cell.name] = outcome.message
        elif outcome.status == "failed":
            self.failures[cell.name] = outcome.message
        else:
            self.done.add(cell.name)
            if outcome.seconds:
                self.made.append(cell.name)
                self.costs.add(cell, outcome.seconds)
        self.show()
        said = f"held by {outcome.message}" if outcome.status == "busy" else outcome.status
        said += f": {outcome.message}" if outcome.status == "failed" else ""
        self.board.end(cell, said)

    def _outcome(self, future: Future[Outcome], cell: Cell) -> Outcome:
        try:
            return future.result()
        except HamwardError:
            raise
        except BrokenProcessPool:
            message = "its process died (killed, or out of memory); --retry tries again"
        except Exception as error:  # a task that the cluster gave up
            message = f"{type(error).__name__}: {error}"
        self.store.check()
        self.store.write_failure(cell.name, label=cell.label, message=message)
        return Outcome(cell=cell.name, status="failed", message=message)

    def awaited(self) -> list[str]:
        """Return the unfinished cells of others that cells of ours need, and those held."""
        blocked = {*self.blocked()}
        found: dict[str, None] = dict.fromkeys(self.busy)
        for name, cell in reversed(self.plan.cells.items()):
            if name in self.done or name in blocked or name not in self.mine | found.keys():
                continue
            found |= dict.fromkeys(n for n in cell.needs if n not in self.done | self.mine)
        return list(found)


def run_plan(
    plan: Plan,
    store: Store,
    executor: Executor,
    *,
    shard: Shard | None = None,
    retry: bool = False,
    progress: Progress = SILENT,
    poll: float = 2.0,
    patience: float = STALE,
) -> Summary:
    """Run what is missing of a plan.

    Finished cells are never run again, and neither are failed ones without `retry`. Where cells
    of another shard are needed, this waits as long as somebody works on one of them.

    Args:
        plan: The cells.
        store: Where they go.
        executor: Who runs them.
        shard: Which of them are ours; None is all.
        retry: Try failed cells again.
        progress: Watches.
        poll: Seconds between looks at what others do.
        patience: Seconds to wait for others while nobody works on what is needed.

    Raises:
        ArtifactError: the store is gone.
    """
    part = shard or Shard()
    mine = {name for index, name in enumerate(plan.cells) if part.holds(index)}
    if retry:
        for name in store.failures() & mine:
            store.forget_failure(name)
    run = _Run(
        plan=plan,
        store=store,
        executor=executor,
        board=Board(total=len(plan.cells), progress=progress),
        costs=Costs.of(store, plan.cells.values()),
        mine=mine,
    )
    last = time.monotonic()
    run.look()
    with run.board.shown():
        while True:
            for cell in run.ready()[: executor.slots - len(run.running)]:
                run.submit(cell)
            if run.running:
                ended = wait(run.running, timeout=poll, return_when=FIRST_COMPLETED).done
                for future in ended:
                    run.take(future)
                if not ended or run.busy or part.of > 1:
                    run.look()
                last = time.monotonic()
                continue
            run.look()
            if run.ready():
                continue
            awaited = run.awaited()
            held = [str(h) for h in map(store.holder, awaited) if h is not None]
            if held:
                last = time.monotonic()
            if not awaited or time.monotonic() - last > patience:
                break
            who = f"held by {', '.join(dict.fromkeys(held))}" if held else "held by nobody yet"
            run.board.wait(f"waiting for {len(awaited)} cells of others, {who}")
            time.sleep(poll)
    blocked = run.blocked()
    rest = plan.cells.keys() - run.done - run.failures.keys() - {*blocked}
    return Summary(
        done=frozenset(run.done),
        made=tuple(run.made),
        failures={n: run.failures[n] for n in plan.cells if n in run.failures},
        blocked=tuple(blocked),
        left=tuple(name for name in plan.cells if name in rest),
    )
