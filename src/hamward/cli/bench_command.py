"""`hamward bench`: published tables as commands."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from hamward.cli.parameters import Show, prepare

__all__ = ["bench"]


def bench(
    recipe: Annotated[
        str, Parameter(help="Name (standard-v1, cmla, fpad, prosgan, aach, rocmr, saat) or a file.")
    ],
    *,
    data: Annotated[str, Parameter(help="Data set: `hamward data list`.")] = "openclipart27",
    scale: Annotated[
        str, Parameter(help="full, or small: few items, epochs and steps, to see all of it run.")
    ] = "full",
    out: Annotated[
        Path, Parameter(help="Folder of cells; benchmarks and hosts may share it.")
    ] = Path("runs/bench"),
    workers: Annotated[
        int | None, Parameter(help="Cells at a time, one thread each; changes no number.")
    ] = None,
    shard: Annotated[
        str | None, Parameter(help="I/N: this host's part of the cells, of N on a shared folder.")
    ] = None,
    executor: Annotated[
        Literal["local", "ray"], Parameter(help="ray: a cluster, see RAY_ADDRESS.")
    ] = "local",
    retry: Annotated[bool, Parameter(negative=(), help="Try failed cells again.")] = False,
    dry_run: Annotated[
        bool, Parameter(negative=(), help="Print the plan and its estimated cost; run nothing.")
    ] = False,
    progress: Show = "auto",
) -> None:
    """Run a benchmark and print its table, e.g. `hamward bench cmla --scale small`.

    Goes on where it stopped: the same command finishes what is missing. Exit code 1 says that
    cells failed; they are listed, and tried again with --retry.
    """
    watch = prepare(1, progress)
    from hamward import benchmark
    from hamward.benchmark.api import plan_lines

    part = benchmark.Shard.read(shard) if shard is not None else None
    if dry_run:
        plan = benchmark.planned(recipe, data=data, scale=scale)
        sys.stdout.write("".join(f"{line}\n" for line in plan_lines(plan, out)))
        return
    try:
        made = benchmark.bench(
            recipe,
            data=data,
            scale=scale,
            out=out,
            workers=workers,
            shard=part,
            executor=executor,
            retry=retry,
            progress=watch,
        )
    except KeyboardInterrupt:
        print("hamward: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    print(made.table)
    cells, summary = made.plan.cells, made.summary
    print(f"{len(summary.made)} cells run now, {len(summary.done)} of {len(cells)} done")
    for name, message in summary.failures.items():
        print(f"failed: {cells[name].label}: {message}")
    if summary.blocked:
        print(f"{len(summary.blocked)} cells need a failed one; --retry tries failed cells again")
    if summary.left:
        print(
            f"{len(summary.left)} cells are left to other shards or wait for them: run those, then "
            "this command again for the whole table"
        )
    print(f"table: {made.folder}")
    if summary.failures:
        sys.exit(1)
