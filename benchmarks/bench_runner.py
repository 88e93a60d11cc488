"""What `hamward bench` costs beside the work it runs.

    python benchmarks/bench_runner.py

First 10,000 cells are planned and listed. Then a small benchmark is run on openclipart27, and the
time that is not spent inside train_run, harden_run and evaluate_run (planning, claims, records,
metrics, the table) is held against the time that is.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hamward.process import tune_process

tune_process()

from hamward.benchmark import bench, cells, make_plan, read_bench  # noqa: E402
from hamward.benchmark.api import plan_lines  # noqa: E402
from hamward.data import load_data  # noqa: E402

MANY = """
title = "Many"
source = "hamward"
VICTIMS
THREATS
[tables.main]
title = "Many"
rows = ["threat", "victim"]
columns = ["code_length"]
victims = [VICTIM_NAMES]
threats = [THREAT_NAMES]
code_lengths = [8, 16, 24, 32, 40, 48, 56, 64, 72, 80]
directions = ["i2t"]
"""


def many(folder: Path, *, victims: int = 10, threats: int = 99) -> str:
    """Write a recipe of victims x 10 code lengths x (1 + threats) cells."""
    names = [f"v{i}" for i in range(victims)]
    attacks = [f"t{i}" for i in range(threats)]
    text = MANY.replace("VICTIM_NAMES", ", ".join(f'"{n}"' for n in names))
    text = text.replace("THREAT_NAMES", ", ".join(f'"{n}"' for n in attacks))
    made = [
        f'[victims.{n}]\nrecipe = "dcmh"\nset.fit.epochs = {i + 1}' for i, n in enumerate(names)
    ]
    text = text.replace("VICTIMS", "\n".join(made))
    made = [f"[threats.{n}]\nattacks.own-code.steps = {i + 1}" for i, n in enumerate(attacks)]
    file = folder / "many.toml"
    file.write_text(text.replace("THREATS", "\n".join(made)), encoding="utf-8")
    return str(file)


def timed(name: str, spent: list[float]) -> Callable[..., Any]:
    """Return a function of `cells` that notes the seconds of its calls."""
    inner = getattr(cells, name)

    def call(*words: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return inner(*words, **options)
        finally:
            spent.append(time.perf_counter() - start)

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="cmla")
    parser.add_argument("--scale", default="small")
    parser.add_argument("--out", type=Path, help="keep the cells here; they must not be done yet")
    arguments = parser.parse_args()
    data = load_data("openclipart27")
    with tempfile.TemporaryDirectory() as made:
        recipe = many(Path(made))
        start = time.perf_counter()
        plan = make_plan(read_bench(recipe), data, name="openclipart27")
        lines = list(plan_lines(plan, Path(made) / "none"))
        seconds = time.perf_counter() - start
        print(
            f"{len(plan.cells):,} cells planned and listed in {len(lines):,} lines: {seconds:.2f} s"
        )
        spent: list[float] = []
        for name in ("train_run", "harden_run", "evaluate_run"):
            setattr(cells, name, timed(name, spent))
        start = time.perf_counter()
        result = bench(
            arguments.recipe,
            data="openclipart27",
            scale=arguments.scale,
            out=arguments.out or Path(made) / "out",
        )
        whole, work = time.perf_counter() - start, sum(spent)
        print(
            f"{arguments.recipe} {arguments.scale}: {len(result.summary.made)} cells, {work:.1f} s"
        )
        print(f"the rest: {whole - work:.1f} s, {(whole - work) / work:.2%} of the work")


if __name__ == "__main__":
    main()
