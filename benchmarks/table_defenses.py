"""One victim hardened by every defense, all under `strongest`, as one table over seeds.

    python benchmarks/table_defenses.py --out runs/defenses --seeds 0 1 2

Trains the victim, hardens it in the same training loop (`control`: the same extra epochs
without an attack), evaluates all of them on the same queries: pictures within 8/255 and 4/255,
texts with 3 words put in and 3 taken out, and with 1 and 1. Items of the undefended victim are sent
to the others too (transfer), and every victim is probed for masked gradients. Prints mean ±
standard deviation over the seeds; the comparison of each seed (`hamward compare OUT/seed-0`) is
written beside its runs.

Resumes with the same options; another set of defenses needs another --out, so give all at once.
A defense may carry options (`--defenses cmla:text=edits,edits=3`), as may black-box attacks beside
the ensemble (`--also square:queries=500`). Without --defenses those that do not fit the victim are
left out and named. Hours at full size: start with --queries 100.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hamward.process import tune_process

tune_process()

from hamward.cli.settings import assemble, attack_words  # noqa: E402
from hamward.config import from_mapping  # noqa: E402
from hamward.defenses import DEFENSES  # noqa: E402
from hamward.errors import ConfigError  # noqa: E402
from hamward.evaluation import (  # noqa: E402
    Comparison,
    EvaluateConfig,
    HardenConfig,
    Standing,
    TrainConfig,
    compare_runs,
    evaluate_run,
    harden_run,
    hardening_fit,
    train_run,
    write_comparison,
)
from hamward.evaluation.report.comparison import threat_name  # noqa: E402
from hamward.evaluation.table import aligned  # noqa: E402
from hamward.progress import Progress, progress_of  # noqa: E402

BASE = "undefended"
BUDGETS = ((8, 3), (4, 1))  # l-infinity radius in levels of 255; words put in, and taken out


def trained(
    config: TrainConfig,
    out: Path,
    defenses: Mapping[str, Mapping[str, Any]],
    *,
    extra_epochs: int | None,
    strict: bool,
    progress: Progress,
) -> dict[str, str]:
    """Train the victim and harden it by each defense; return the folders by name.

    Args:
        config: Training of the victim; its seed is that of all.
        out: Folder of this seed.
        defenses: By name: "attack" (the registered defense) and its options.
        extra_epochs: Of every hardening; None is the default.
        strict: Raise where a defense does not fit the victim, instead of leaving it out.
        progress: Watches.
    """
    folders = {BASE: str(out / BASE)}
    train_run(config, out / BASE, resume=True, progress=progress)
    own = hardening_fit(out / BASE)
    fit = dataclasses.replace(own, seed=config.fit.seed, epochs=extra_epochs or own.epochs)
    for name, given in defenses.items():
        options = dict(given)
        hardening = HardenConfig(
            defense=options.pop("attack"),
            victim=str(out / BASE),
            options=options,
            fit=fit,
        )
        folder = out / name.replace("/", "_")
        try:
            harden_run(hardening, folder, resume=True, progress=progress)
        except ConfigError as error:
            if strict:
                raise
            progress.say(f"left out: {name}: {error}")
            continue
        folders[folder.name] = str(folder)
    return folders


def compared(
    folders: Mapping[str, str],
    out: Path,
    *,
    also: Mapping[str, Mapping[str, Any]],
    queries: int | None,
    steps: int,
    seed: int,
    progress: Progress,
) -> Comparison:
    """Evaluate the victims under every budget and compare them."""
    runs = []
    for radius, words in BUDGETS:
        eps = f"{radius}/255"
        ensemble = {"attack": "strongest", "eps": eps, "insertions": words, "deletions": words}
        attacks: dict[str, Any] = {f"strongest@{eps}": {**ensemble, "steps": steps}}
        attacks |= {f"{name}@{eps}": {**options, "eps": eps} for name, options in also.items()}
        runs.append(out / f"evaluation-{radius}")
        evaluate_run(
            EvaluateConfig(
                victims=dict(folders),
                attacks=attacks,
                transfer_from=BASE,
                queries=queries,
                seed=seed,
            ),
            runs[-1],
            resume=True,
            progress=progress,
        )
    made = compare_runs(runs, base=BASE)
    write_comparison(out / "comparison", made)
    return made


def defense_table(comparisons: Sequence[Comparison]) -> str:
    """Return mean ± standard deviation over seeds, a line for each threat and victim."""
    head = ["threat", "victim", "clean", "robust", "transfer", "recovered", "clean loss"]
    head += ["training", "diagnostics"]
    lines = []
    for first in comparisons[0].standings:
        if first.threat.direction not in ("i2t", "t2i"):
            continue
        found = [
            (made, standing)
            for made in comparisons
            for standing in made.standings
            if (standing.victim, standing.threat) == (first.victim, first.threat)
        ]
        doubts = sorted({f for made, _ in found for f in made.facts(first.victim).flags})
        masked = sum(made.masks(first.victim) for made, _ in found)
        lines.append(
            [
                threat_name(first.threat),
                first.victim,
                *(
                    _spread([getattr(standing, name) for _, standing in found], "{:.3f}")
                    for name in Standing.__dataclass_fields__
                    if name in ("clean", "robust", "transfer")
                ),
                _spread([s.recovered for _, s in found], "{:.0%}"),
                _spread([s.clean_loss for _, s in found], "{:+.3f}"),
                _spread([made.facts(first.victim).cost for made, _ in found], "{:.1f}x"),
                (f"masking in {masked} of {len(found)}: " if masked else "")
                + (", ".join(doubts) or "clear"),
            ]
        )
    return aligned(head, lines)


def _spread(values: Sequence[float | None], form: str) -> str:
    known = [value + 0.0 for value in values if value is not None]
    if not known:
        return ""
    around = f" ± {form.format(statistics.stdev(known)).lstrip('+')}" if len(known) > 1 else ""
    return form.format(statistics.fmean(known)) + around


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--victim", default="dcmh", help="recipe of the victim")
    parser.add_argument("--image-network")
    parser.add_argument("--epochs", type=int, help="of the victim")
    parser.add_argument("--extra-epochs", type=int, help="of every hardening")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="over the recipe")
    parser.add_argument("--defenses", nargs="+", help="NAME or NAME:KEY=VALUE,...")
    parser.add_argument("--also", nargs="+", default=[], help="attacks beside the ensemble")
    parser.add_argument("--queries", type=int)
    parser.add_argument("--steps", type=int, default=100, help="of the ensemble; less is weaker")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    progress = progress_of("plain")
    defenses = attack_words(arguments.defenses or list(DEFENSES))
    comparisons = []
    for seed in arguments.seeds:
        named = {
            "fit.seed": seed,
            "fit.epochs": arguments.epochs,
            "model.image_network": arguments.image_network,
        }
        values = assemble(None, arguments.set, named, {}, recipe=arguments.victim)
        out = arguments.out / f"seed-{seed}"
        folders = trained(
            from_mapping(TrainConfig, values),
            out,
            defenses,
            extra_epochs=arguments.extra_epochs,
            strict=arguments.defenses is not None,
            progress=progress,
        )
        comparisons.append(
            compared(
                folders,
                out,
                also=attack_words(arguments.also),
                queries=arguments.queries,
                steps=arguments.steps,
                seed=seed,
                progress=progress,
            )
        )
    print(defense_table(comparisons))
    print(f"\nseeds {', '.join(map(str, arguments.seeds))}; one comparison each: seed-*/comparison")


if __name__ == "__main__":
    main()
