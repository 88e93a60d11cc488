"""Reading batches of a prepared set against one training step of the demo's image network.

    python benchmarks/bench_loader.py

Prepares random pictures of side 64, then takes turns: batches of 128 random positions as float
tensors (mirrored by half, as in training), and steps of the network on one batch. Prints medians
and the ratio, and how long opening takes.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hamward import tune_allocator
from hamward.data import PrepareConfig, Source, open_prepared, prepare
from hamward.models import ModelSpec, build_hash_model


class Noise:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, position: int) -> Image.Image:
        rng = np.random.default_rng(position)
        return Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tune_allocator()
    count, batch = arguments.pictures, arguments.batch
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        source = Source(
            name="noise",
            ids=np.arange(count, dtype=np.int64),
            pictures=Noise(count),
            texts=tuple(f"word{i % 500}" for i in range(count)),
            labels=np.eye(20, dtype=np.uint8)[np.arange(count) % 20],
            label_names=tuple(f"label{i}" for i in range(20)),
        )
        prepare(source, out, config=PrepareConfig())
        start = time.perf_counter()
        data = open_prepared(out)
        print(f"opening {count} items: {time.perf_counter() - start:.3f} s")
        rng = np.random.default_rng(0)
        spec = ModelSpec(code_length=32, vocabulary=len(data.words))
        encoder = build_hash_model(spec, seed=0).encoder("image").train()
        optimizer = torch.optim.AdamW(encoder.parameters())
        mirror = torch.rand(batch, 1, 1, 1) < 0.5
        seconds: dict[str, list[float]] = {"read": [], "step": []}
        for turn in range(arguments.repeats + 1):
            start = time.perf_counter()
            x = data.inputs("image", rng.choice(count, batch, replace=False))
            x = torch.where(mirror, x.flip(-1), x)
            middle = time.perf_counter()
            optimizer.zero_grad()
            encoder(x).square().mean().backward()
            optimizer.step()
            end = time.perf_counter()
            if turn:
                seconds["read"].append(middle - start)
                seconds["step"].append(end - middle)
        read, step = (statistics.median(seconds[name]) for name in ("read", "step"))
        print(
            f"batches of {batch}, 64 px, {arguments.threads} threads: reading {read * 1e3:.1f} ms, "
            f"one training step {step * 1e3:.0f} ms, ratio {step / read:.0f}"
        )


if __name__ == "__main__":
    main()
