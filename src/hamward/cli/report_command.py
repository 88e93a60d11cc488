"""`hamward report`: a run as a page."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hamward.cli.parameters import Show, Threads, prepare

__all__ = ["report"]


def report(
    run: Annotated[Path, Parameter(help="Run folder of an evaluation, an attack or the demo.")],
    *,
    out: Annotated[Path | None, Parameter(help="Folder to write; default RUN/report.")] = None,
    threads: Threads = None,
    progress: Show = "auto",
) -> None:
    """Write the report of a run: one HTML page, Markdown and JSON."""
    watch = prepare(threads, progress)
    from hamward.evaluation.runs import report_run

    folder = run / "evaluation" if (run / "evaluation" / "run.json").exists() else run
    print(report_run(folder, out or run / "report", progress=watch))
