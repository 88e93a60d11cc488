"""Cost of adversarial training in multiples of plain training, for several numbers of inner steps.

    python benchmarks/bench_harden.py

Both run the same `fit` on the same items of openclipart27, pictures and texts; the hardened one
crafts samples of both in every step (CMLA's mixture, own-code PGD inside). Epochs of the two take
turns; medians and their ratio, beside k + 1, the passes forward and backward that k inner steps and
a step of training are.
"""

import argparse
import statistics
import time

import torch

from hamward.process import tune_process

tune_process()

from hamward import DCMH, FitConfig, OwnCode, fit, load_data  # noqa: E402
from hamward.defenses import AdversarialObjective  # noqa: E402
from hamward.models import ModelSpec, build_hash_model  # noqa: E402
from hamward.training import Objective  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["small-resnet", "efficientnet-lite0"])
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 3, 7], help="inner steps")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--items", type=int, default=640, help="training items of an epoch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_data("openclipart27").limit(train=arguments.items)
    print(f"{len(data.split.train)} items, batch {arguments.batch}, {arguments.threads} threads")
    config = FitConfig(epochs=1, batch_size=arguments.batch, image_rate=1e-5, text_rate=1e-5)

    for network in arguments.networks:
        spec = ModelSpec(code_length=32, vocabulary=len(data.words), image_network=network)
        model = build_hash_model(spec, seed=0)

        def seconds(objective: Objective) -> float:
            found: list[float] = []
            start = time.perf_counter()

            def score(_: object) -> dict[str, float]:
                found.append(time.perf_counter() - start)
                return {"select": 0.0}

            fit(model, objective, data, config=config, score=score)  # noqa: B023
            return found[0]

        def hardened(steps: int) -> Objective:
            attack = OwnCode(steps=steps, random_start=True)
            return AdversarialObjective(base=DCMH(), attack=attack)

        times: dict[int, list[float]] = {steps: [] for steps in (0, *arguments.steps)}
        for turn in range(arguments.repeats + 1):
            for steps, kept in times.items():
                took = seconds(hardened(steps) if steps else DCMH())
                if turn:  # the first turn warms up
                    kept.append(took)
        plain = statistics.median(times[0])
        for steps in arguments.steps:
            ratio = statistics.median(times[steps]) / plain
            print(
                f"{network}, k = {steps}: {ratio:.2f} x plain training, "
                f"{ratio / (steps + 1):.2f} x (k + 1)"
            )


if __name__ == "__main__":
    main()
