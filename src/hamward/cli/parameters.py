"""Parameters that several commands share, and the set-up of the process that they ask for."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from hamward.progress import Progress, ProgressKind, progress_of

__all__ = [
    "Audience",
    "ConfigFile",
    "Device",
    "Options",
    "Out",
    "RankTimeout",
    "Resume",
    "Set",
    "Show",
    "TargetProtocol",
    "Threads",
    "Transforms",
    "Validation",
    "prepare",
]

Show = Annotated[
    ProgressKind, Parameter(name="--progress", help="Progress display; auto is rich on a terminal.")
]
Threads = Annotated[
    int | None, Parameter(help="CPU threads; default all cores, shared by the ranks of this host.")
]
RankTimeout = Annotated[
    float, Parameter(help="Minutes that a rank waits for the others (several processes only).")
]
Device = Annotated[
    str, Parameter(help="Where to compute: auto (the GPU, if there is one), cpu, cuda or cuda:N.")
]
Diagnose = Annotated[
    bool, Parameter(help="Probe each victim for masked gradients with a few queries.")
]
Validation = Annotated[
    bool,
    Parameter(
        negative=(), help="Let validation items ask and search the training items: for settings."
    ),
]
Out = Annotated[Path, Parameter(help="Run folder to write.")]
Resume = Annotated[bool, Parameter(negative=(), help="Continue an interrupted run in --out.")]
Options = Annotated[
    str, Parameter(help="Options of the method, e.g. --steps 20; see `hamward list METHOD`.")
]
ConfigFile = Annotated[
    Path | None, Parameter(name="--config", help="TOML file; the command line overrides it.")
]
TargetProtocol = Annotated[
    Literal["T1", "T2", "T3", "T4"],
    Parameter(help="Labels that targeted attacks shall reach; T4: none of the query's own."),
]
Transforms = Annotated[
    tuple[str, ...],
    Parameter(help="Score pictures after this, too, e.g. --transform jpeg-75.", negative=()),
]
Role = Annotated[
    Literal["query", "candidate", "hub"],
    Parameter(
        help="What is attacked: queries, database items that shall not be found (candidate), or "
        "database items that shall be found by as many queries as possible (hub)."
    ),
]
Items = Annotated[int | None, Parameter(help="How many database items are attacked; default 100.")]
ItemLabel = Annotated[str | None, Parameter(help="Attack database items with this label only.")]
Audience = Annotated[str | None, Parameter(help="Label of the queries that hubs aim at.")]
ListLength = Annotated[int | None, Parameter(help="Count who is in the first so many; default 10.")]
Set = Annotated[
    tuple[str, ...] | None,
    Parameter(
        name="--set",
        help="Any configuration keys, e.g. --set fit.epochs=3 fit.crop=0.2.",
        negative=(),
        consume_multiple=True,
    ),
]


def prepare(threads: int | None, progress: ProgressKind, *, shared: bool = False) -> Progress:
    """Set up this process: allocator, threads, progress display.

    Args:
        threads: Of this process.
        progress: Display; ranks after the first show nothing.
        shared: Whether several processes may do this together.

    Raises:
        ConfigError: a launcher started several processes for what one does.
    """
    import os

    from hamward.errors import ConfigError
    from hamward.process import placed, tune_process

    rank, ranks, local = placed()
    if ranks > 1 and not shared:
        raise ConfigError(f"{ranks} processes were started: only train and harden run in several")
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {threads}")
    tune_process()
    import torch  # after tune_process: OpenMP reads its settings once

    if threads is None and hasattr(os, "sched_getaffinity"):  # not on macOS
        threads = max(len(os.sched_getaffinity(0)) // local, 1)
    torch.set_num_threads(threads or max((os.cpu_count() or 1) // local, 1))
    return progress_of(progress if rank == 0 else "none")
