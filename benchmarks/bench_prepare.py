"""Preparing JPEG pictures against the bare decode-and-resize loop of the same library.

    python benchmarks/bench_prepare.py --pictures 1500

Generates pictures of 500 x 375, then takes turns: the bare loop (open, convert, resize to the
side, on the same threads, nothing kept) and `prepare` (with hashes, splits, files and
checksums). Prints the medians, their ratio, and the peak memory of a preparation in a process of
its own for a part of the pictures and for all of them.
"""

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from hamward.data.folder import read_folder
from hamward.data.preparing import PrepareConfig, prepare

MEMORY = """
import sys
from pathlib import Path
from hamward.data.folder import read_folder
from hamward.data.preparing import PrepareConfig, prepare
root, out, side, threads, table = sys.argv[1:]
def peak():  # not ru_maxrss, which begins with that of the parent
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
before = peak()
prepare(read_folder(Path(root), table=table), Path(out), config=PrepareConfig(image_side=int(side)),
        threads=int(threads))
print(peak(), before)
"""


def generate(root: Path, count: int) -> list[Path]:
    """Photograph-like pictures: smooth shapes with grain, about 100 kB each."""
    rng = np.random.default_rng(0)
    files = []
    rows = []
    for i in range(count):
        small = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
        smooth = np.asarray(Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC))
        grain = rng.normal(0, 12, smooth.shape[:2])[..., None]
        file = root / f"{i:05d}.jpg"
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(file, quality=90)
        files.append(file)
        rows.append([file.name, f"word{i % 50} and word{i % 7}", f"label{i % 10}"])
    for name, part in (("all.csv", rows), ("part.csv", rows[: count // 4])):
        with (root / name).open("w", newline="") as handle:
            csv.writer(handle).writerows([["file", "caption", "labels"], *part])
    return files


def bare(files: list[Path], side: int, threads: int) -> None:
    def one(file: Path) -> None:
        with Image.open(file) as picture:
            picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(one, files):
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1500)
    parser.add_argument("--side", type=int, nargs="+", default=[224, 64])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "pictures", Path(folder) / "out"
        root.mkdir()
        files = generate(root, arguments.pictures)
        size = sum(f.stat().st_size for f in files) / len(files) / 1e3
        print(f"{len(files)} pictures of 500 x 375, {size:.0f} kB; {arguments.threads} threads")
        for side in arguments.side:
            times: dict[str, list[float]] = {"bare": [], "prepare": []}
            for turn in range(arguments.repeats + 1):
                start = time.perf_counter()
                bare(files, side, arguments.threads)
                middle = time.perf_counter()
                source = read_folder(root, table="all.csv")
                prepare(
                    source,
                    out,
                    config=PrepareConfig(image_side=side),
                    threads=arguments.threads,
                )
                end = time.perf_counter()
                shutil.rmtree(out)
                if turn:  # the first warms the file cache
                    times["bare"].append(middle - start)
                    times["prepare"].append(end - middle)
            median = {name: statistics.median(seconds) for name, seconds in times.items()}
            ratios = [p / b for p, b in zip(times["prepare"], times["bare"], strict=True)]
            print(
                f"side {side}: bare {len(files) / median['bare']:.0f} pictures/s, prepare "
                f"{len(files) / median['prepare']:.0f} pictures/s, ratio "
                f"{median['prepare'] / median['bare']:.2f} (per turn {min(ratios):.2f} to "
                f"{max(ratios):.2f})"
            )
        for table, count in (("part.csv", len(files) // 4), ("all.csv", len(files))):
            side = arguments.side[0]
            words = [sys.executable, "-c", MEMORY, root, out, side, arguments.threads, table]
            done = subprocess.run(list(map(str, words)), check=True, capture_output=True, text=True)
            peak, before = map(float, done.stdout.split())
            shutil.rmtree(out)
            print(
                f"side {side}, {count} pictures: peak memory {peak:.0f} MB "
                f"({before:.0f} MB after the imports)"
            )


if __name__ == "__main__":
    main()
