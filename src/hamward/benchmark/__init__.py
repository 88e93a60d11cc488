"""Benchmarks: published tables as commands, from cells that are run once and shared."""

from hamward.benchmark.api import BenchResult, bench, planned
from hamward.benchmark.executors import Executor, executor_of
from hamward.benchmark.plan import Cell, Plan, make_plan
from hamward.benchmark.recipe import BenchRecipe, bench_names, read_bench
from hamward.benchmark.runner import Shard, Summary, run_plan
from hamward.benchmark.store import Store, evaluations_in
from hamward.benchmark.table import bench_tables, write_tables

__all__ = [
    "BenchRecipe",
    "BenchResult",
    "Cell",
    "Executor",
    "Plan",
    "Shard",
    "Store",
    "Summary",
    "bench",
    "bench_names",
    "bench_tables",
    "evaluations_in",
    "executor_of",
    "make_plan",
    "planned",
    "read_bench",
    "run_plan",
    "write_tables",
]
