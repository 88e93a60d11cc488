"""A benchmark from its name to its table."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hamward.benchmark.costs import Costs, told
from hamward.benchmark.executors import ExecutorName, executor_of
from hamward.benchmark.plan import Plan, data_options, make_plan
from hamward.benchmark.recipe import read_bench
from hamward.benchmark.runner import Shard, Summary, run_plan
from hamward.benchmark.specs import FULL
from hamward.benchmark.store import Store
from hamward.benchmark.table import write_tables
from hamward.errors import DataError, UnknownNameError
from hamward.evaluation.runs import kept_data, open_data
from hamward.progress import SILENT, Progress

__all__ = ["BenchResult", "bench", "plan_lines", "planned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """What a benchmark left.

    Attributes:
        folder: Folder of table.md and table.json.
        table: The text of table.md.
        plan: Its cells.
        summary: What was done, what failed, what is left to others.
    """

    folder: Path
    table: str
    plan: Plan
    summary: Summary


def planned(recipe: str, *, data: str, scale: str = FULL) -> Plan:
    """Plan a recipe on a data set.

    Args:
        recipe: Name of a shipped bench recipe, or a TOML file.
        data: A registered or prepared data set.
        scale: "full" or another scale of the recipe.

    Raises:
        HamwardError: recipe, scale, data or an option do not fit.
        DataError: the data set is not prepared.
    """
    asked = read_bench(recipe, scale=scale)
    try:
        loaded = open_data(data, data_options(asked, data))
    except UnknownNameError as error:
        raise DataError(
            f"{error}. {asked.name} needs a data set that is prepared: `hamward data list` shows "
            f"which can be, `hamward data prepare {data} --root FOLDER` makes it"
        ) from error
    return make_plan(asked, loaded, name=data)


def bench(
    recipe: str,
    *,
    data: str,
    out: Path,
    scale: str = FULL,
    workers: int | None = None,
    shard: Shard | None = None,
    executor: ExecutorName = "local",
    retry: bool = False,
    progress: Progress = SILENT,
) -> BenchResult:
    """Run what is missing of a benchmark and write its tables.

    Numbers do not depend on workers, shards or executor: each cell runs on one thread, alone.

    Args:
        recipe: Name of a shipped bench recipe, or a TOML file.
        data: A registered or prepared data set.
        out: Folder of cells, shared by any benchmarks and hosts.
        scale: "full" or another scale of the recipe.
        workers: Cells at a time.
        shard: Which part of the cells is ours.
        executor: "local" or "ray".
        retry: Try failed cells again.
        progress: Watches.

    Raises:
        HamwardError: something does not fit, or the folder went away.
    """
    with kept_data():
        plan = planned(recipe, data=data, scale=scale)
        store = Store.open(out)
        running = executor_of(executor, workers)
        try:
            summary = run_plan(plan, store, running, shard=shard, retry=retry, progress=progress)
        finally:
            running.close()
    folder = store.path / f"{plan.recipe.name}-{Path(data).name}-{scale}"
    store.check()
    table = write_tables(folder, plan, store, summary)
    return BenchResult(folder=folder, table=table, plan=plan, summary=summary)


def plan_lines(plan: Plan, out: Path) -> Iterator[str]:
    """Yield the plan, a line a cell, with what is finished in a folder and what the rest costs.

    Args:
        plan: The plan.
        out: Folder of cells; it need not be there.
    """
    store = Store.open(out) if (out / "bench.json").exists() else None
    finished = store.finished() if store is not None else set()
    failed = store.failures() if store is not None else set()
    costs = Costs.of(store, plan.cells.values())
    total, rough = 0.0, 0
    for cell in plan.cells.values():
        done = cell.name in finished
        state = "done" if done else "failed" if cell.name in failed else "to do"
        seconds = 0.0 if done else costs.seconds(cell)
        total += seconds
        rough += not done and not costs.calibrated(cell)
        cost = "" if done else f"~{told(seconds)}"
        yield f"{cell.name[:12]}  {state:<6}  {cost:>9}  {cell.kind:<8}  {cell.label}"
    kinds = [cell.kind for cell in plan.cells.values()]
    yield (
        f"{len(kinds)} cells: {kinds.count('train')} to train, {kinds.count('harden')} to harden, "
        f"{kinds.count('evaluate')} to evaluate; {len(finished & plan.cells.keys())} done"
    )
    basis = (
        "from cells that are finished here"
        if not rough
        else (f"{rough} of them by round figures, until cells of their kind are finished here")
    )
    yield f"estimated: {told(total)} on one worker ({basis})"
