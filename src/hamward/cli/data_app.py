"""`hamward data`: list, info, prepare, check, fetch."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from hamward.cli.parameters import Show, Threads, prepare

__all__ = ["data_app"]

data_app = App(name="data", help="Data sets: what there is, and what is in them.")


@data_app.command(name="list")
def data_list() -> None:
    """List the data sets."""
    from hamward.cli.listing import show

    show("data")


@data_app.command(name="info")
def data_info(
    name: str,
    *,
    picture: Annotated[
        Path | None, Parameter(help="Write example pairs as a picture to this PNG file.")
    ] = None,
    seed: int = 0,
    **options: Annotated[str, Parameter(help="Options of the data set, e.g. --text harder.")],
) -> None:
    """Show counts, label histogram, chance MAP and (with --picture) example pairs."""
    from hamward.cli.listing import show_data
    from hamward.cli.settings import plain_options

    show_data(name, picture=picture, seed=seed, options=plain_options(options))


@data_app.command(name="prepare")
def data_prepare(
    name: Annotated[str, Parameter(help="Importer: `hamward data list` shows them.")],
    *,
    root: Annotated[Path, Parameter(help="Folder with the owners' or your own files.")],
    out: Annotated[
        Path | None,
        Parameter(help="Folder to write; default NAME in HAMWARD_DATA or ~/.local/share/hamward."),
    ] = None,
    protocol: str = "random",
    image_side: int = 64,
    seed: int | None = None,
    queries: int | None = None,
    train: Annotated[int | None, Parameter(help="Training items, with validation.")] = None,
    validation: int | None = None,
    min_count: Annotated[int, Parameter(help="Training texts a word must occur in.")] = 3,
    max_words: int | None = None,
    keep_unlabeled: Annotated[
        bool, Parameter(negative=(), help="Keep items without a label: searched, never relevant.")
    ] = False,
    skip_bad: Annotated[
        bool, Parameter(negative=(), help="Leave out what is bad; skipped.csv lists it.")
    ] = False,
    resume: Annotated[
        bool, Parameter(negative=(), help="Continue an interrupted preparation in --out.")
    ] = False,
    threads: Threads = None,
    progress: Show = "auto",
    **options: Annotated[str, Parameter(help="Options of the importer, e.g. --separator '|'.")],
) -> None:
    """Make a prepared set from files on disk, e.g. `hamward data prepare folder --root pictures`.

    Train on it with `--data FOLDER`.
    """
    from hamward.cli.settings import plain_options

    watch = prepare(threads, progress)
    from hamward.cli.data_commands import prepare_set
    from hamward.data import PrepareConfig

    prepare_set(
        name,
        root,
        out,
        config=PrepareConfig(
            image_side=image_side,
            protocol=protocol,
            seed=seed,
            queries=queries,
            train=train,
            validation=validation,
            min_count=min_count,
            max_words=max_words,
            keep_unlabeled=keep_unlabeled,
        ),
        options=plain_options(options),
        resume=resume,
        skip_bad=skip_bad,
        threads=threads,
        progress=watch,
    )


@data_app.command(name="check")
def data_check(
    name: Annotated[str, Parameter(help="Data set, prepared set or its folder.")],
    *,
    threads: Threads = None,
    progress: Show = "auto",
) -> None:
    """Verify checksums, split disjointness, copies, labels, texts and chance MAP."""
    watch = prepare(threads, progress)
    from hamward.cli.data_commands import check_set

    check_set(name, progress=watch)


@data_app.command(name="fetch")
def data_fetch(
    name: Annotated[str, Parameter(help="Importer.")],
    *,
    addresses: Annotated[
        tuple[str, ...],
        Parameter(name="--from", negative=(), help="Address of an archive; may be repeated."),
    ] = (),
    out: Annotated[Path, Parameter(help="Folder for the archives.")] = Path(),
    md5: Annotated[str | None, Parameter(help="Checksum of the archive, if you know it.")] = None,
    yes: Annotated[
        bool, Parameter(negative=(), help="Download; else only say what would be done.")
    ] = False,
    progress: Show = "auto",
) -> None:
    """Print which archives the owners publish, with known checksums; download one on request.

    hamward knows no addresses: `--from` gives one, for example from the owners' page. A download
    that was interrupted goes on with the same command.
    """
    from hamward.cli.data_commands import fetch_archives
    from hamward.progress import progress_of

    fetch_archives(name, addresses, out, md5=md5, yes=yes, progress=progress_of(progress))
