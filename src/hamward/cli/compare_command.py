"""`hamward compare`: hardened victims held against the undefended one."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hamward.cli.parameters import prepare

__all__ = ["compare"]


def compare(
    *runs: Path,
    base: Annotated[
        str | None,
        Parameter(help="Name of the undefended victim; default the first of the first run."),
    ] = None,
    out: Annotated[
        Path | None, Parameter(help="Folder for compare.md, compare.json and compare.svg.")
    ] = None,
) -> None:
    """Hold hardened victims against the undefended one, e.g. `hamward compare runs/eval`.

    Takes evaluations (or folders that hold some) on the same queries, under the same attacks.
    """
    prepare(None, "none")
    from hamward.evaluation.compare import compare_runs
    from hamward.evaluation.report.comparison import comparison_markdown, write_comparison

    made = compare_runs(runs, base=base)
    print(comparison_markdown(made))
    if out is not None:
        print(f"\n{write_comparison(out, made)}")
