"""`hamward leaderboard`: add, verify, build."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from hamward.cli.parameters import Show, Threads, prepare

__all__ = ["leaderboard_app"]

leaderboard_app = App(
    name="leaderboard", help="Results that anyone can recompute, and a site made of them."
)


@leaderboard_app.command
def add(
    *runs: Annotated[
        Path,
        Parameter(help="Run folders of finished evaluations, or of `bench`: all in it."),
    ],
    to: Annotated[Path, Parameter(help="Folder of the leaderboard.")],
    models: Annotated[
        Path | None, Parameter(help="Zoo that keeps the victims; default models in the board.")
    ] = None,
    threads: Threads = None,
    progress: Show = "auto",
) -> None:
    """Make entries of evaluations, one for each victim and threat model.

    `hamward leaderboard add runs/eval --to board`. Each is verified before it is written.
    """
    watch = prepare(threads, progress)
    from hamward.benchmark import evaluations_in
    from hamward.errors import ConfigError
    from hamward.leaderboard import add_run

    if not runs:
        raise ConfigError("give at least one run folder of an evaluation, or of a benchmark")
    found: list[tuple[Path, bool]] = []
    for run in runs:
        inside = evaluations_in(run)
        if inside == []:
            raise ConfigError(f"{run}: no attack of this benchmark is finished yet")
        found += [(run, False)] if inside is None else [(cell, True) for cell in inside]
    for run, optional in watch.track(found, total=len(found), label="add"):
        for file in add_run(run, to, models=models, optional=optional, progress=watch):
            print(file)


@leaderboard_app.command
def verify(
    *entries: Annotated[Path, Parameter(help="Entries, or leaderboards: all of their entries.")],
    threads: Threads = None,
    progress: Show = "auto",
) -> None:
    """Recompute entries from their artifacts; what differs is named and refused."""
    watch = prepare(threads, progress)
    from hamward.errors import ArtifactError, ConfigError, HamwardError
    from hamward.leaderboard import read_board, verify_entry

    if not entries:
        raise ConfigError("give at least one entry (a .json file) or leaderboard folder")
    files: list[Path] = []
    for place in entries:
        folder = place / "entries"
        known = (
            [folder / f"{e.name}.json" for e in read_board(place)] if place.is_dir() else [place]
        )
        files += known
    wrong: list[Path] = []
    kept: dict[Any, Any] = {}  # victims and their codes, for the entries after them
    for file in watch.track(files, total=len(files), label="verify"):
        try:
            differences = [str(d) for d in verify_entry(file, recomputed=kept)]
        except HamwardError as error:
            differences = [str(error)]
        print(f"{file}: {'REFUSED' if differences else 'verified'}")
        for difference in differences:
            print(f"  {difference}")
        wrong += [file] if differences else []
    if wrong:
        raise ArtifactError(
            f"{len(wrong)} of {len(files)} entries do not follow from their artifacts"
        )


@leaderboard_app.command
def build(
    board: Annotated[Path, Parameter(help="Folder of the leaderboard.")],
    *,
    out: Annotated[Path, Parameter(help="Folder of the site.")],
) -> None:
    """Write the site: an index and a page for each entry, to be opened from disk or served."""
    prepare(None, "none")
    from hamward.leaderboard import build_site

    print(build_site(board, out))
