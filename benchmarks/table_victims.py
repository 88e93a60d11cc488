"""Every victim's own recipe on openclipart27, one or several seeds, as one table.

    python benchmarks/table_victims.py --out runs/victims --seeds 0 1 2

Resumes, so that parts of it (--recipes, --seeds) can run side by side and be printed together by
a last call. Scores are on the queries; epochs were chosen on validation items.
"""

import argparse
import statistics
from pathlib import Path

import torch

from hamward.process import tune_process

tune_process()

from hamward.artifacts import read_json  # noqa: E402
from hamward.cli.settings import assemble  # noqa: E402
from hamward.config import from_mapping  # noqa: E402
from hamward.evaluation import TrainConfig, train_run  # noqa: E402
from hamward.progress import progress_of  # noqa: E402
from hamward.recipes import recipe_names  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="over recipes")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    ours = [n for n in recipe_names() if not n.endswith("-paper")]
    lines = []
    for name in arguments.recipes or ours:
        cards = []
        for seed in arguments.seeds:
            values = assemble(None, arguments.set, {"fit.seed": seed}, {}, recipe=name)
            config = from_mapping(TrainConfig, values)
            folder = arguments.out / f"{name}-{seed}"
            train_run(config, folder, resume=True, progress=progress_of("plain"))
            cards.append(read_json(folder / "card.json"))
        cells = []
        for direction in ("i2t", "t2i", "i2i"):
            values = [c["scores"][direction]["map"] for c in cards if direction in c["scores"]]
            if not values:
                cells.append("")
                continue
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.3f}{spread}")
        chance = next(iter(cards[0]["scores"].values()))["chance"]
        lines.append(
            f"| {name} | {cards[0]['retrieval']} | {' | '.join(cells)} | {chance:.3f} | "
            f"{cards[0]['fit']['epochs']} |"
        )
    seeds = ", ".join(map(str, arguments.seeds))
    print(f"| recipe | retrieval | i2t | t2i | i2i | chance | epochs |  (seeds {seeds})")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
