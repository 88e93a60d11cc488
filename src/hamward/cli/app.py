"""`hamward`: commands, options and errors. Heavy imports happen inside the commands."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from hamward import __version__
from hamward.cli.bench_command import bench
from hamward.cli.compare_command import compare
from hamward.cli.data_app import data_app
from hamward.cli.leaderboard_app import leaderboard_app
from hamward.cli.onnx_commands import export, import_
from hamward.cli.parameters import (
    Audience,
    ConfigFile,
    Device,
    Diagnose,
    ItemLabel,
    Items,
    ListLength,
    Options,
    Out,
    RankTimeout,
    Resume,
    Role,
    Set,
    Show,
    TargetProtocol,
    Threads,
    Transforms,
    Validation,
    prepare,
)
from hamward.cli.purify_command import purify
from hamward.cli.report_command import report
from hamward.cli.settings import (
    assemble,
    attack_options,
    attack_words,
    candidate_options,
    unique_names,
)
from hamward.cli.zoo_app import zoo_app
from hamward.errors import HamwardError
from hamward.process import placed
from hamward.progress import ProgressKind

__all__ = ["app", "main"]

app = App(
    name="hamward",
    version=__version__,
    help="Attack, harden and evaluate cross-modal Hamming retrieval.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,  # main() says how to go on
)
app.command(data_app)
app.command(export)
app.command(import_, name="import")
app.command(purify)
app.command(compare)
app.command(report)
app.command(bench)
app.command(leaderboard_app)
app.command(zoo_app)


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
    device: Device = "auto",
    threads: Threads = None,
    progress: Show = "auto",
) -> None:
    """Train, attack, harden, attack again and report, on real pictures and tags.

    About eight minutes on two CPU cores.
    """
    watch = prepare(threads, progress)
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
    result = demo_run(
        from_mapping(DemoConfig, given), out, resume=resume, progress=watch, device=device
    )
    _print_evaluation(result.evaluation)
    print(f"\nreport: {result.report}")


@app.command
def train(
    method: str,
    *,
    out: Out,
    data: str | None = None,
    recipe: Annotated[
        str | None,
        Parameter(help="Named recipe; default the method's own: `hamward list recipes`."),
    ] = None,
    image_side: int | None = None,
    code_length: int | None = None,
    image_network: str | None = None,
    text_network: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    seeds: Annotated[
        tuple[int, ...] | None,
        Parameter(
            help="Train once a seed, e.g. --seeds 0 1 2; mean and spread.",
            negative=(),
            consume_multiple=True,
        ),
    ] = None,
    config: ConfigFile = None,
    set_: Set = None,
    resume: Resume = False,
    device: Device = "auto",
    threads: Threads = None,
    rank_timeout: RankTimeout = 30.0,
    progress: Show = "auto",
    **options: Options,
) -> None:
    """Train a victim, e.g. `hamward train dcmh --out runs/victim`.

    Settings come from the recipe, then --config, --set and the flags, the last word winning.
    """
    flags = {
        "method": method,
        "data": data,
        "data_options.image_side": image_side,
        "model.code_length": code_length,
        "model.image_network": image_network,
        "model.text_network": text_network,
        "fit.epochs": epochs,
        "fit.batch_size": batch_size,
        "fit.seed": seed,
    }
    values = assemble(config, set_, flags, options, recipe=recipe)
    watch = prepare(threads, progress, shared=seeds is None)
    from hamward.config import from_mapping
    from hamward.evaluation.configs import TrainConfig
    from hamward.evaluation.training_runs import train_run

    checked = from_mapping(TrainConfig, values)
    if seeds is None:
        fitting = {"resume": resume, "progress": watch, "device": device}
        _fit(train_run, checked, out, rank_timeout=rank_timeout, **fitting)
        return
    from hamward.evaluation.seeds import train_seeds

    made = train_seeds(checked, out, seeds, resume=resume, progress=watch, device=device)
    for direction, score in made["map"].items():
        print(
            f"{direction}: MAP {score['mean']:.3f} +- {score['deviation']:.3f} over seeds "
            f"{', '.join(map(str, seeds))} (chance {made['chance'][direction]:.3f})"
        )
    print(f"run folders: {out}/seed-*")


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
    device: Device = "auto",
    threads: Threads = None,
    rank_timeout: RankTimeout = 30.0,
    progress: Show = "auto",
    **options: Options,
) -> None:
    """Fine-tune a victim with a defense, e.g. `hamward harden cmla --victim runs/victim ...`.

    The training loop is the victim's own (rates, batch, cuts, averaging), for six epochs.
    """
    flags = {
        "defense": defense,
        "victim": str(victim),
        "fit.epochs": epochs,
        "fit.batch_size": batch_size,
        "fit.seed": seed,
    }
    values = assemble(config, set_, flags, options)
    watch = prepare(threads, progress, shared=True)
    from hamward.config import from_mapping, to_mapping
    from hamward.evaluation.configs import HardenConfig
    from hamward.evaluation.training_runs import harden_run, hardening_fit
    from hamward.recipes import merged

    fit = {"fit": to_mapping(hardening_fit(victim))}
    checked = from_mapping(HardenConfig, merged(fit, values))
    fitting = {"resume": resume, "progress": watch, "device": device}
    _fit(harden_run, checked, out, rank_timeout=rank_timeout, **fitting)


@app.command
def attack(
    method: str,
    *,
    victim: Annotated[Path, Parameter(help="Run folder of the trained victim.")],
    out: Out,
    modality: Literal["image", "text", "both"] = "both",
    queries: Annotated[int | None, Parameter(help="Attack fewer queries (faster).")] = None,
    role: Role = "query",
    items: Items = None,
    item_label: ItemLabel = None,
    audience: Audience = None,
    list_length: ListLength = None,
    target_protocol: TargetProtocol = "T4",
    seed: int = 0,
    batch_size: int = 64,
    pictures: Annotated[
        bool, Parameter(help="Write adversarial pictures as PNG; they are read back for the score.")
    ] = True,
    transform: Transforms = (),
    diagnose: Diagnose = True,
    resume: Resume = False,
    device: Device = "auto",
    threads: Threads = None,
    progress: Show = "auto",
    **options: Options,
) -> None:
    """Attack one victim with one method, e.g. `hamward attack cmla --victim runs/victim ...`."""
    _evaluate(
        victims=unique_names([victim]),
        attacks={method: attack_options(options)},
        out=out,
        modality=modality,
        queries=queries,
        candidates=candidate_options(
            role, count=items, label=item_label, audience=audience, k=list_length
        ),
        target_protocol=target_protocol,
        seed=seed,
        batch_size=batch_size,
        pictures=pictures,
        transform=transform,
        diagnose=diagnose,
        resume=resume,
        device=device,
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
    validation: Validation = False,
    role: Role = "query",
    items: Items = None,
    item_label: ItemLabel = None,
    audience: Audience = None,
    list_length: ListLength = None,
    target_protocol: TargetProtocol = "T4",
    seed: int = 0,
    batch_size: int = 64,
    pictures: Annotated[bool, Parameter(help="Write adversarial pictures as PNG.")] = False,
    transform: Transforms = (),
    diagnose: Diagnose = True,
    resume: Resume = False,
    device: Device = "auto",
    threads: Threads = None,
    progress: Show = "auto",
) -> None:
    """Score victims, clean and under attacks, each crafted against the victim itself."""
    _evaluate(
        victims=unique_names(victims),
        attacks=attack_words(attack or ()),
        out=out,
        modality=modality,
        queries=queries,
        candidates=candidate_options(
            role, count=items, label=item_label, audience=audience, k=list_length
        ),
        target_protocol=target_protocol,
        seed=seed,
        batch_size=batch_size,
        pictures=pictures,
        transform=transform,
        diagnose=diagnose,
        transfer_from=transfer_from,
        validation=validation,
        resume=resume,
        device=device,
        threads=threads,
        progress=progress,
    )


@app.command(name="list")
def list_(
    what: Annotated[
        str | None,
        Parameter(
            help="attacks, defenses, purifiers, victims, data, or a method, for its options."
        ),
    ] = None,
    *,
    published: Annotated[
        bool, Parameter(negative=(), help="Show the victims' published clean MAPs, too.")
    ] = False,
    runs: Annotated[
        tuple[Path, ...],
        Parameter(negative=(), help="Victims' run folders, or folders of some: ours beside them."),
    ] = (),
) -> None:
    """List methods with citation, threat model and the access they need.

    A victim's name shows its published MAPs; `--runs runs` puts ours on the same data beside them.
    """
    from hamward.cli.listing import show

    show(what, published=published, runs=runs)


def _evaluate(
    *,
    victims: dict[str, str],
    attacks: dict[str, Any],
    out: Path,
    modality: str,
    queries: int | None,
    candidates: dict[str, Any] | None,
    target_protocol: str,
    seed: int,
    batch_size: int,
    pictures: bool,
    transform: tuple[str, ...],
    diagnose: bool,
    resume: bool,
    device: str,
    threads: int | None,
    progress: ProgressKind,
    transfer_from: str | None = None,
    validation: bool = False,
) -> None:
    watch = prepare(threads, progress)
    from hamward.config import from_mapping
    from hamward.evaluation.configs import EvaluateConfig
    from hamward.evaluation.runs import evaluate_run

    values = {
        "victims": victims,
        "attacks": attacks,
        "modalities": ["image", "text"] if modality == "both" else [modality],
        "queries": queries,
        "validation": validation,
        "candidates": candidates,
        "target_protocol": target_protocol,
        "seed": seed,
        "batch_size": batch_size,
        "pictures": pictures,
        "transforms": list(transform),
        "diagnose": diagnose,
        "transfer_from": transfer_from,
    }
    config = from_mapping(EvaluateConfig, values)
    _print_evaluation(evaluate_run(config, out, resume=resume, progress=watch, device=device))
    print(f"\nrun folder: {out} (page: hamward report {out})")


def _fit(
    run: Callable[..., Any],
    config: Any,
    out: Path,
    *,
    rank_timeout: float,
    **fitting: Any,
) -> None:
    """Train or harden into a folder, together with the other ranks; the first reports."""
    from hamward.artifacts import RunFolder
    from hamward.training import joined

    with joined(timeout=rank_timeout) as ranks:
        run(config, out, ranks=ranks, **fitting)
    if ranks.rank:
        return
    info = RunFolder(out).info()
    scores = ", ".join(f"{k} {v:.3f}" for k, v in info["validation"].items() if k != "select")
    print(f"best epoch {info['best_epoch']}: tie-aware validation MAP {scores}")
    print(f"run folder: {out}")


def _print_evaluation(evaluation: Any) -> None:
    from hamward.evaluation.table import flag_lines, markdown_table, protocol_line

    print()
    print(markdown_table(evaluation))
    print(f"\n{protocol_line(evaluation)}")
    for line in flag_lines(evaluation):
        print(line)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors of the user's doing exit with code 2, Ctrl-C with 130."""
    try:
        app(arguments, exit_on_error=False, print_error=True)
        sys.stdout.flush()
    except CycloptsError:
        sys.exit(2)
    except BrokenPipeError:  # `hamward list | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (HamwardError, OSError) as error:
        rank, ranks, _ = placed()
        who = f"hamward (rank {rank})" if ranks > 1 else "hamward"
        print(f"{who}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("hamward: interrupted; run again with --resume to continue", file=sys.stderr)
        sys.exit(130)
