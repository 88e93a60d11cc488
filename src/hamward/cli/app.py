"""`hamward`: commands, options and errors. Heavy imports happen inside the commands."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from hamward import __version__
from hamward.errors import HamwardError
from hamward.progress import Progress, ProgressKind, progress_of

__all__ = ["app", "main"]

app = App(
    name="hamward",
    version=__version__,
    help="Attack, harden and evaluate cross-modal Hamming retrieval.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,  # main() says how to go on
)
data_app = App(name="data", help="Data sets: what there is, and what is in them.")
app.command(data_app)

Show = Annotated[
    ProgressKind, Parameter(name="--progress", help="Progress display; auto is rich on a terminal.")
]
Threads = Annotated[int | None, Parameter(help="CPU threads; default all cores.")]
Out = Annotated[Path, Parameter(help="Run folder to write.")]
Resume = Annotated[bool, Parameter(negative=(), help="Continue an interrupted run in --out.")]
Options = Annotated[
    str, Parameter(help="Options of the method, e.g. --steps 20; see `hamward list METHOD`.")
]
ConfigFile = Annotated[
    Path | None, Parameter(name="--config", help="TOML file; the command line overrides it.")
]
Set = Annotated[
    tuple[str, ...] | None,
    Parameter(name="--set", help="Any configuration key, e.g. --set fit.epochs=3.", negative=()),
]


@app.command
def demo(
    *,
    out: Out = Path("runs/demo"),
    resume: Resume = False,
    image_network: str = "efficientnet-lite0",
    code_length: int = 32,
    seed: int = 0,
    queries: Annotated[int | None, Parameter(help="Use fewer queries (faster).")] = None,
    epochs: int | None = None,
    extra_epochs: int | None = None,
    threads: Threads = None,
    progress: Show = "auto",
) -> None:
    """Train, attack, harden, attack again and report, on real pictures and tags.

    About ten minutes on two CPU cores.
    """
    watch = _prepare(threads, progress)
    from hamward.config import from_mapping
    from hamward.evaluation.demo import DemoConfig, demo_run

    values = {
        "image_network": image_network,
        "code_length": code_length,
        "seed": seed,
        "queries": queries,
        "epochs": epochs,
        "extra_epochs": extra_epochs,
    }
    given = {k: v for k, v in values.items() if v is not None}
    result = demo_run(from_mapping(DemoConfig, given), out, resume=resume, progress=watch)
    _print_evaluation(result.evaluation)
    print(f"\nreport: {result.report}")


@app.command
def train(
    method: str,
    *,
    out: Out,
    data: str | None = None,
    image_side: int | None = None,
    code_length: int | None = None,
    image_network: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    config: ConfigFile = None,
    set_: Set = None,
    resume: Resume = False,
    threads: Threads = None,
    progress: Show = "auto",
    **options: Options,
) -> None:
    """Train a victim, e.g. `hamward train dcmh --out runs/victim`."""
    from hamward.cli.settings import assemble

    values = assemble(
        config,
        set_,
        {
            "method": method,
            "data": data,
            "data_options.image_side": image_side,
            "model.code_length": code_length,
            "model.image_network": image_network,
            "fit.epochs": epochs,
            "fit.batch_size": batch_size,
            "fit.seed": seed,
        },
        options,
    )
    watch = _prepare(threads, progress)
    from hamward.config import from_mapping
    from hamward.evaluation.runs import TrainConfig, train_run

    train_run(from_mapping(TrainConfig, values), out, resume=resume, progress=watch)
    _print_training(out)


@app.command
def harden(
    defense: str,
    *,
    victim: Annotated[Path, Parameter(help="Run folder of the trained victim.")],
    out: Out,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    config: ConfigFile = None,
    set_: Set = None,
    resume: Resume = False,
    threads: Threads = None,
    progress: Show = "auto",
    **options: Options,
) -> None:
    """Fine-tune a victim with a defense, e.g. `hamward harden cmla --victim runs/victim ...`."""
    from hamward.cli.settings import assemble

    values = assemble(
        config,
        set_,
        {
            "defense": defense,
            "victim": str(victim),
            "fit.epochs": epochs,
            "fit.batch_size": batch_size,
            "fit.seed": seed,
        },
        options,
    )
    watch = _prepare(threads, progress)
    from hamward.config import from_mapping
    from hamward.evaluation.runs import HardenConfig, harden_run

    harden_run(from_mapping(HardenConfig, values), out, resume=resume, progress=watch)
    _print_training(out)


@app.command
def attack(
    method: str,
    *,
    victim: Annotated[Path, Parameter(help="Run folder of the trained victim.")],
    out: Out,
    modality: Literal["image", "text", "both"] = "both",
    queries: Annotated[int | None, Parameter(help="Attack fewer queries (faster).")] = None,
    seed: int = 0,
    batch_size: int = 64,
    resume: Resume = False,
    threads: Threads = None,
    progress: Show = "auto",
    **options: Options,
) -> None:
    """Attack one victim with one method, e.g. `hamward attack cmla --victim runs/victim ...`."""
    from hamward.cli.settings import attack_options, unique_names

    _evaluate(
        victims=unique_names([victim]),
        attacks={method: attack_options(options)},
        out=out,
        modality=modality,
        queries=queries,
        seed=seed,
        batch_size=batch_size,
        resume=resume,
        threads=threads,
        progress=progress,
    )


@app.command
def evaluate(
    *victims: Path,
    out: Out,
    attack: Annotated[
        tuple[str, ...] | None,
        Parameter(help="Attack with options, e.g. --attack own-code:eps=4/255,steps=20."),
    ] = None,
    modality: Literal["image", "text", "both"] = "both",
    transfer_from: Annotated[
        str | None, Parameter(help="Victim (folder name) whose items are sent to the others too.")
    ] = None,
    queries: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    resume: Resume = False,
    threads: Threads = None,
    progress: Show = "auto",
) -> None:
    """Score victims, clean and under attacks, each crafted against the victim itself."""
    from hamward.cli.settings import attack_words, unique_names

    _evaluate(
        victims=unique_names(victims),
        attacks=attack_words(attack or ()),
        out=out,
        modality=modality,
        queries=queries,
        seed=seed,
        batch_size=batch_size,
        transfer_from=transfer_from,
        resume=resume,
        threads=threads,
        progress=progress,
    )


@app.command
def report(
    run: Annotated[Path, Parameter(help="Run folder of an evaluation, an attack or the demo.")],
    *,
    out: Annotated[Path | None, Parameter(help="Folder to write; default RUN/report.")] = None,
    threads: Threads = None,
    progress: Show = "auto",
) -> None:
    """Write the report of a run: one HTML page, Markdown and JSON."""
    watch = _prepare(threads, progress)
    from hamward.evaluation.runs import report_run

    folder = run / "evaluation" if (run / "evaluation" / "run.json").exists() else run
    print(report_run(folder, out or run / "report", progress=watch))


@app.command(name="list")
def list_(
    what: Annotated[
        str | None,
        Parameter(help="attacks, defenses, victims, data, or one method's name for its options."),
    ] = None,
) -> None:
    """List methods with citation, threat model and the access they need."""
    from hamward.cli.listing import show

    show(what)


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

    watch = _prepare(threads, progress)
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
    watch = _prepare(threads, progress)
    from hamward.cli.data_commands import check_set

    check_set(name, progress=watch)


@data_app.command(name="fetch")
def data_fetch(name: Annotated[str, Parameter(help="Importer.")]) -> None:
    """Print which archives the owners publish and their known checksums; downloads nothing."""
    from hamward.cli.data_commands import show_archives

    show_archives(name)


def _evaluate(
    *,
    victims: dict[str, str],
    attacks: dict[str, Any],
    out: Path,
    modality: str,
    queries: int | None,
    seed: int,
    batch_size: int,
    resume: bool,
    threads: int | None,
    progress: ProgressKind,
    transfer_from: str | None = None,
) -> None:
    watch = _prepare(threads, progress)
    from hamward.config import from_mapping
    from hamward.evaluation.runs import EvaluateConfig, evaluate_run

    values = {
        "victims": victims,
        "attacks": attacks,
        "modalities": ["image", "text"] if modality == "both" else [modality],
        "queries": queries,
        "seed": seed,
        "batch_size": batch_size,
        "transfer_from": transfer_from,
    }
    config = from_mapping(EvaluateConfig, values)
    _print_evaluation(evaluate_run(config, out, resume=resume, progress=watch))
    print(f"\nrun folder: {out} (page: hamward report {out})")


def _prepare(threads: int | None, progress: ProgressKind) -> Progress:
    """Set up this process: allocator, threads, progress display."""
    import os

    from hamward.errors import ConfigError
    from hamward.process import tune_process

    if threads is not None and threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {threads}")
    tune_process()
    import torch  # after tune_process: OpenMP reads its settings once

    if threads is None and hasattr(os, "sched_getaffinity"):  # not on macOS
        threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads or os.cpu_count() or 1)
    return progress_of(progress)


def _print_training(out: Path) -> None:
    from hamward.artifacts import RunFolder

    info = RunFolder(out).info()
    scores = ", ".join(f"{k} {v:.3f}" for k, v in info["validation"].items() if k != "select")
    print(f"best epoch {info['best_epoch']}: tie-aware validation MAP {scores}")
    print(f"run folder: {out}")


def _print_evaluation(evaluation: Any) -> None:
    from hamward.evaluation.table import markdown_table, protocol_line

    print()
    print(markdown_table(evaluation))
    print(f"\n{protocol_line(evaluation)}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors of the user's doing exit with code 2, Ctrl-C with 130."""
    try:
        app(arguments, exit_on_error=False, print_error=True)
    except CycloptsError:
        sys.exit(2)
    except HamwardError as error:
        print(f"hamward: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("hamward: interrupted; run again with --resume to continue", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        print(f"hamward: error: {error}", file=sys.stderr)
        sys.exit(2)
