"""`hamward purify`: a trained victim behind an input transform."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hamward.cli.parameters import Options, Out, Resume, Show, Threads, prepare
from hamward.cli.settings import plain_options

__all__ = ["purify"]


def purify(
    purifier: str,
    *,
    victim: Annotated[Path, Parameter(help="Run folder of the trained victim.")],
    out: Out,
    resume: Resume = False,
    threads: Threads = None,
    progress: Show = "auto",
    **options: Options,
) -> None:
    """Put a purifier before a victim: `hamward purify jpeg --victim runs/victim --out runs/jpeg`.

    Nothing is trained. Attacks on the new folder know the purifier; `--adaptive false` makes one
    that passes no gradient, to see what masking looks like.
    """
    watch = prepare(threads, progress)
    from hamward.config import from_mapping
    from hamward.evaluation.purifying import PurifyConfig, purify_run

    values = {"purifier": purifier, "victim": str(victim), "options": plain_options(options)}
    purify_run(from_mapping(PurifyConfig, values), out, resume=resume, progress=watch)
    print((out / "card.md").read_text(encoding="utf-8"))
    print(f"run folder: {out}")
