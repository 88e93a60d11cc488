"""Training throughput of `fit` against a bare forward + backward + optimizer loop.

    python benchmarks/bench_train.py

Both train the same networks on the same batches and precision; the bare loop has its batches in
memory, a squared sum as loss, and nothing else. Medians over epochs and their ratio.
"""

import argparse
import statistics
import time

import torch

from hamward.process import tune_process

tune_process()

from hamward import DCMH, FitConfig, fit, load_data  # noqa: E402
from hamward.models import ModelSpec, build_hash_model  # noqa: E402
from hamward.types import MODALITIES  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["efficientnet-lite0", "small-resnet"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_data("openclipart27")
    positions = data.split.train
    steps = len(positions) // arguments.batch
    print(f"{len(positions)} items, batch {arguments.batch}, 64 px, {arguments.threads} threads")
    for network in arguments.networks:
        spec = ModelSpec(code_length=32, vocabulary=len(data.words), image_network=network)
        model = build_hash_model(spec, seed=0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        batches = {
            m: torch.split(data.inputs(m, positions), arguments.batch)[:steps] for m in MODALITIES
        }

        def bare() -> None:
            model.train()  # noqa: B023
            for modality in MODALITIES:
                for x in batches[modality]:  # noqa: B023
                    u = model.logits(modality, x, low_precision=True)  # noqa: B023
                    optimizer.zero_grad(set_to_none=True)  # noqa: B023
                    u.square().mean().backward()
                    optimizer.step()  # noqa: B023

        config = FitConfig(epochs=2, batch_size=arguments.batch, image_rate=1e-5, text_rate=1e-5)
        times: dict[str, list[float]] = {"bare": [], "fit": []}
        for turn in range(arguments.repeats + 1):
            start = time.perf_counter()
            bare()
            middle = time.perf_counter()
            seconds: list[float] = []

            def score(_: object, seconds: list[float] = seconds, begin: float = middle):  # type: ignore[no-untyped-def]
                seconds.append(time.perf_counter() - begin)
                return {"select": 0.0}

            fit(model, DCMH(), data, config=config, score=score)
            if turn:  # the first turn warms up
                times["bare"].append(middle - start)
                times["fit"].append(seconds[1] - seconds[0])
        ours, theirs = statistics.median(times["fit"]), statistics.median(times["bare"])
        rate = 2 * steps * arguments.batch
        print(
            f"{network}: bare {rate / theirs:.0f} items/s, fit {rate / ours:.0f} items/s "
            f"(data loading included, an epoch after the first): {theirs / ours:.2f} of bare"
        )


if __name__ == "__main__":
    main()
