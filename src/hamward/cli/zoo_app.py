"""`hamward zoo`: list, push, pull."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from hamward.cli.parameters import Show, Threads, prepare

__all__ = ["zoo_app"]

zoo_app = App(name="zoo", help="Trained models in a plain folder, or behind an address.")

From = Annotated[
    str, Parameter(name="--from", help="Folder of the zoo, or its http, https or file address.")
]


@zoo_app.command(name="list")
def zoo_list(*, source: From) -> None:
    """List the models of a zoo."""
    from hamward.evaluation.table import aligned
    from hamward.zoo import read_zoo

    lines = []
    for model in read_zoo(source).models:
        card = model.card
        scores = card.get("scores", {})
        defenses = [step["defense"] for step in card.get("hardened", ())]
        defenses += [purifier["name"] for purifier in card.get("purifiers", {}).values()]
        lines.append(
            [
                model.name,
                str(card.get("method", "unknown")),
                " + ".join(defenses) or "none",
                model.data,
                str(card.get("code_length", "unknown")),
                ", ".join(f"{d} {s['map']:.3f}" for d, s in scores.items() if d[0] != d[2]),
                f"{model.size / 1e6:.1f} MB",
            ]
        )
    print(aligned(["model", "method", "defenses", "data", "bits", "clean MAP", "size"], lines))


@zoo_app.command
def push(
    run: Annotated[Path, Parameter(help="Run folder of the trained victim.")],
    *,
    to: Annotated[Path, Parameter(help="Folder of the zoo.")],
    name: Annotated[str | None, Parameter(help="Name in the zoo; default the folder's.")] = None,
    threads: Threads = None,
) -> None:
    """Put a trained model into a zoo: `hamward zoo push runs/victim --to zoo --name dcmh-32`."""
    prepare(threads, "none")
    from hamward.zoo import push as push_model

    model = push_model(run, to, name=name)
    print(f"{to / model.name}: {len(model.files)} files, {model.size / 1e6:.1f} MB")


@zoo_app.command
def pull(
    name: Annotated[str, Parameter(help="Model: `hamward zoo list --from ZOO` shows them.")],
    *,
    source: From,
    to: Annotated[Path, Parameter(help="Folder in which the run folder NAME is made.")],
    threads: Threads = None,
    progress: Show = "auto",
) -> None:
    """Fetch a model: a run folder that `attack` and `evaluate` take. The same command goes on."""
    watch = prepare(threads, progress)
    from hamward.zoo import pull as pull_model

    print(f"run folder: {pull_model(name, source, to, progress=watch)}")
