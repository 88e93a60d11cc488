"""Cost of an attack step against a bare forward + input-gradient pass, and bf16 against fp32.

    python benchmarks/bench_attack_step.py

All are run in turn in one process, on the same victim, batch and threads; medians of the
repeats and their ratios are printed. The bf16 line also gives the MAP after both attacks.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from hamward import OwnCode, Victim, load_data, tune_process
from hamward.attacks import craft, encode, own_code_goal
from hamward.evaluation.runs import load_victim
from hamward.evaluation.scoring import counts_of
from hamward.metrics import mean_average_precision
from hamward.models import HashModel, ModelSpec, build_hash_model, frozen


def bare(model: HashModel, x: Tensor, steps: int, *, low_precision: bool) -> None:
    with frozen(model):
        for _ in range(steps):
            leaf = x.detach().requires_grad_(True)
            u = model.logits("image", leaf, low_precision=low_precision)
            torch.autograd.grad(u.sum(), leaf)


def in_turn(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(repeats + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--networks", nargs="+", default=["efficientnet-lite0", "small-resnet"])
    parser.add_argument("--victim", help="run folder of a small-resnet victim, for the MAP")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tune_process()
    data = load_data("openclipart27")
    positions = data.split.query[: arguments.batch]
    x, ids = data.inputs("image", positions), torch.tensor(data.ids[positions])
    attack = OwnCode(steps=arguments.steps)
    print(f"{arguments.steps} steps, batch {len(x)}, 64 px, {arguments.threads} threads")
    for network in arguments.networks:
        spec = ModelSpec(code_length=32, vocabulary=len(data.words), image_network=network)
        model = build_hash_model(spec, seed=0)
        jobs: dict[str, Callable[[], object]] = {}
        for name, low in (("fp32", False), ("bf16", True)):
            victim = Victim(model=model, low_precision=low)
            goal = own_code_goal(attack, victim, data, "image", positions)

            def attacked(victim: Victim = victim, goal: object = goal) -> object:
                return attack(victim, x, goal, ids=ids, seed=0)  # type: ignore[arg-type]

            def plain(model: HashModel = model, low: bool = low) -> object:
                return bare(model, x, arguments.steps, low_precision=low)

            jobs[f"bare {name}"], jobs[f"attack {name}"] = plain, attacked
        times = in_turn(jobs, arguments.repeats)
        rate = {name: len(x) * arguments.steps / seconds for name, seconds in times.items()}
        for name in ("fp32", "bf16"):
            if name == "bf16" and not model.encoder("image").trunk.fast_in_bf16:
                print(f"{network}, bf16: not used for this trunk (slower there)")
                continue
            print(
                f"{network}, {name}: bare {rate[f'bare {name}']:.0f} picture-steps/s, attack "
                f"{rate[f'attack {name}']:.0f}; attack costs "
                f"{times[f'attack {name}'] / times[f'bare {name}']:.3f} x bare; attack runs at "
                f"{rate[f'attack {name}'] / rate['bare fp32']:.2f} x the bare fp32 rate"
            )
    if arguments.victim:
        _strength(arguments.victim, attack)


def _strength(folder: str, attack: OwnCode) -> None:
    from pathlib import Path

    model, facts = load_victim(Path(folder))
    data = load_data(facts["data"], **facts["data_options"])
    query, database = data.split.query, data.split.database
    texts = encode(model, data, "text", database)
    for name, low in (("fp32", False), ("bf16", True)):
        victim = Victim(model=model, low_precision=low)
        made = craft(
            attack,
            victim,
            data.inputs("image", query),
            own_code_goal(attack, victim, data, "image", query),
            ids=torch.tensor(data.ids[query]),
        )
        codes = victim.codes("image", made.stored)
        counts = counts_of(data, codes, texts, query=query, database=database)
        print(f"i2t MAP after {name} crafting: {mean_average_precision(counts).value:.4f}")


if __name__ == "__main__":
    main()
