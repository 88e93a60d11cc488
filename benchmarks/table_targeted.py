"""Targeted attacks on pictures beside the codes that they aim at, as one table.

    python benchmarks/table_targeted.py runs/demo/undefended --queries 100 --attacks dhta prosgan

An attack may carry options: `prosgan:epochs=12,eps=16/255`. Target protocol T4, pictures scored
after rounding to 8 bits, tie-aware MAP over the whole database. Nothing is written but the table.
"""

import argparse
import dataclasses
from pathlib import Path

import torch

from hamward.process import tune_process

tune_process()

from hamward.attacks import (  # noqa: E402
    DHTA,
    FittedGenerator,
    TrainableAttack,
    choose_targets,
    craft,
    encode,
    encode_items,
    measure,
    own_code_goal,
)
from hamward.cli.settings import attack_words  # noqa: E402
from hamward.data import load_data  # noqa: E402
from hamward.evaluation.runs import load_victim, make_attack  # noqa: E402
from hamward.evaluation.scoring import counts_of  # noqa: E402
from hamward.metrics import chance_map, mean_average_precision  # noqa: E402
from hamward.models import Victim  # noqa: E402
from hamward.progress import progress_of  # noqa: E402

_HEAD = ("attack", "eps", "t-MAP i2t", "t-MAP i2i", "aimed at: i2t", "i2i", "bits off", "MAP i2t")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("victim", type=Path)
    parser.add_argument("--queries", type=int)
    parser.add_argument("--attacks", nargs="+", default=["p2p", "dhta", "prosgan", "tadch"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    seed, progress = arguments.seed, progress_of("plain")
    model, facts = load_victim(arguments.victim)
    data = load_data(facts["data"], **facts["data_options"])
    data = data if arguments.queries is None else data.limit(queries=arguments.queries)
    query, database = data.split.query, data.split.database
    ids, x = torch.tensor(data.ids[query]), data.inputs("image", query)
    own = data.label(query)
    target = choose_targets(own, data.label(database), ids=ids, protocol="T4", seed=seed)
    searched = {m: encode(model, data, m, database) for m in ("text", "image")}

    def counts(codes: torch.Tensor, label: torch.Tensor, searching: str = "text"):
        held = searched[searching]
        return counts_of(data, codes, held, query=query, database=database, query_labels=label)

    def cell(codes: torch.Tensor, label: torch.Tensor = target, searching: str = "text") -> str:
        return f"{mean_average_precision(counts(codes, label, searching)).value:.3f}"

    clean = encode(model, data, "image", query)
    chance = f"{chance_map(counts(clean, target)).value:.3f}"
    rows = [("chance", "", chance, chance, "", "", "", "")]
    rows.append(
        ("clean", "", cell(clean), cell(clean, searching="image"), "", "", "", cell(clean, own))
    )
    for name, options in attack_words(arguments.attacks).items():
        attack = make_attack(options.pop("attack"), options)
        victim = Victim(model=model, low_precision=True)
        if isinstance(attack, TrainableAttack):
            attack = attack.fit(victim, data, "image", seed=seed, progress=progress)
        goal = own_code_goal(attack, victim, data, "image", query, seed=seed, target_label=target)
        aims = None
        if isinstance(attack, FittedGenerator):
            aims = attack.codes(target, ids=ids, seed=seed)
        elif isinstance(attack, DHTA):
            aims = attack.anchors(goal, ids=ids, seed=seed).to(torch.int8)
        runs = [attack]
        if getattr(attack, "eps", 0) is None:
            runs.append(dataclasses.replace(attack, eps=8 / 255))
        for run in runs:
            made = craft(run, victim, x, goal, ids=ids, seed=seed).stored
            codes = encode_items(model, "image", made)
            size = "none" if run.eps is None else f"{run.eps * 255:g}/255"
            aimed = ("", "", "")
            if aims is not None:
                off = f"{(codes != aims).sum(1).double().mean():.1f}"
                aimed = (cell(aims), cell(aims, searching="image"), off)
            reached = (cell(codes), cell(codes, searching="image"))
            distance = f"{measure(made, x).rms.mean():.4f}"
            rows.append((name, size, *reached, *aimed, cell(codes, own), distance))
            print(rows[-1], flush=True)
    print("| " + " | ".join((*_HEAD, "D (rms)")) + " |\n|" + "---|" * (len(_HEAD) + 1))
    for row in rows:
        print("| " + " | ".join((*row, "")[: len(_HEAD) + 1]) + " |")


if __name__ == "__main__":
    main()
