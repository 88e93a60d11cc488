"""Who runs cells: this process, several of this machine, or a Ray cluster."""

import atexit
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from multiprocessing.connection import wait
from typing import Any, Literal, Protocol

from hamward.benchmark.cells import Outcome, run_cell
from hamward.benchmark.plan import Cell
from hamward.benchmark.store import Store
from hamward.errors import ConfigError
from hamward.evaluation.runs import kept_data
from hamward.process import optional_module, tune_process

__all__ = ["Executor", "ExecutorName", "executor_of"]

ExecutorName = Literal["local", "ray"]


class Executor(Protocol):
    """Runs cells, `slots` at a time, on one thread each: how many run changes no number."""

    slots: int

    def submit(self, store: Store, cell: Cell) -> Future[Outcome]:
        """Start a cell. Its future raises what `run_cell` raises, or that its process died."""
        ...

    def close(self) -> None:
        """Stop what runs; cells that were on the way are gone on with next time."""
        ...


def executor_of(name: ExecutorName, workers: int | None) -> Executor:
    """Return an executor.

    Args:
        name: "local" or "ray".
        workers: Cells at a time; None is 1, or all CPUs of the cluster.

    Raises:
        ConfigError: `workers` is below 1, or Ray is not installed.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {workers}")
    if name == "ray":
        return _RayTasks(workers)
    return _ThisProcess() if workers in (None, 1) else _Processes(workers or 1)


class _ThisProcess:
    """One cell at a time, here."""

    def __init__(self) -> None:
        import torch

        self.slots = 1
        self._held = ExitStack()
        self._held.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        self._held.enter_context(kept_data())

    def submit(self, store: Store, cell: Cell) -> Future[Outcome]:
        made: Future[Outcome] = Future()
        try:
            made.set_result(run_cell(store, cell))
        except Exception as error:
            made.set_exception(error)
        return made

    def close(self) -> None:
        self._held.close()


class _Processes:
    """So many processes of this machine, started anew where one dies."""

    def __init__(self, count: int) -> None:
        self.slots = count
        self._free = [_pool() for _ in range(count)]
        self._busy: dict[Future[Outcome], ProcessPoolExecutor] = {}

    def submit(self, store: Store, cell: Cell) -> Future[Outcome]:
        pool = self._free.pop()
        made = pool.submit(run_cell, store, cell)
        self._busy[made] = pool
        made.add_done_callback(self._release)
        return made

    def close(self) -> None:
        for pool in [*self._free, *self._busy.values()]:
            processes = list((getattr(pool, "_processes", None) or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()

    def _release(self, made: Future[Outcome]) -> None:
        pool = self._busy.pop(made)
        if made.cancelled() or isinstance(made.exception(), BrokenProcessPool):
            pool.shutdown(wait=False)
            pool = _pool()
        self._free.append(pool)


def _pool() -> ProcessPoolExecutor:
    """Return a pool of one process: if it dies, only its own cell is hit."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=_set_up)


def _set_up() -> None:
    """Set up a worker: one thread, data kept between cells, gone when its runner is."""
    import torch

    tune_process()
    torch.set_num_threads(1)
    held = ExitStack()
    held.enter_context(kept_data())
    atexit.register(held.close)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


class _RayTasks:
    """Tasks of a Ray cluster that sees the same folder under the same path."""

    def __init__(self, workers: int | None) -> None:
        ray: Any = optional_module("ray", extra="cluster")
        self._own = not ray.is_initialized()
        if self._own:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no calls home
            # RAY_ADDRESS names a cluster; without it Ray starts one of this machine.
            ray.init(num_cpus=None if "RAY_ADDRESS" in os.environ else workers, log_to_driver=False)
        self._ray = ray
        self.slots = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        remote: Callable[..., Any] = ray.remote(num_cpus=1, max_retries=2)
        self._task = remote(_on_one_thread)

    def submit(self, store: Store, cell: Cell) -> Future[Outcome]:
        made: Future[Outcome] = self._task.remote(store, cell).future()
        return made

    def close(self) -> None:
        if self._own:
            self._ray.shutdown()


def _on_one_thread(store: Store, cell: Cell) -> Outcome:
    import torch

    tune_process()
    torch.set_num_threads(1)
    return run_cell(store, cell)
