"""Every registered attack on one victim, its defaults, as one table.

    python benchmarks/table_attacks.py runs/demo/undefended --out runs/attacks

Resumes. Attacks whose published settings take thousands of steps are left out unless named. An
attack may carry options: `--attacks square:queries=500`.
"""

import argparse
from pathlib import Path

import torch

from hamward.process import tune_process

tune_process()

from hamward.attacks import ATTACKS  # noqa: E402
from hamward.cli.settings import attack_words  # noqa: E402
from hamward.evaluation import EvaluateConfig, evaluate_run  # noqa: E402
from hamward.evaluation.table import flag_lines  # noqa: E402
from hamward.progress import progress_of  # noqa: E402

# Published optimizers of 1,500 and 2,000 steps, published generators of 100 epochs and more, and
# `transfer`, which needs a surrogate's folder.
_LONG = {
    *(n for n in ATTACKS if n.endswith(("-official", "-published")) and n != "cmla-official"),
    *("transfer", "eqb2a", "eqb2a-pgd", "fpad-as-coded"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("victim", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--queries", type=int)
    parser.add_argument("--attacks", nargs="+", help="NAME or NAME:KEY=VALUE,...")
    parser.add_argument("--modality", choices=["image", "text"], action="append")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    words = arguments.attacks or [n for n in ATTACKS if n not in _LONG]
    made = evaluate_run(
        EvaluateConfig(
            victims={arguments.victim.name: str(arguments.victim)},
            attacks=attack_words(words),
            modalities=tuple(arguments.modality or ("image", "text")),
            queries=arguments.queries,
            diagnose=False,
        ),
        arguments.out,
        resume=True,
        progress=progress_of("plain"),
    )
    head = ("attack", "direction", "budget", "MAP", "chance", "t-MAP", "t-chance", "flips")
    head += ("D (rms)", "submissions an item", "s an item")
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in sorted(made.rows, key=lambda r: (r.direction[0] != "i", r.map)):
        if not row.counts or row.direction not in ("i2t", "t2i"):
            continue
        attacked = row.attack != "none"
        budget = f"{row.eps * 255:g}/255" if row.stored == "8-bit" else f"{row.eps:g} {row.stored}"
        cells = (
            row.attack if attacked else "clean",
            row.direction,
            budget if attacked else "",
            f"{row.map:.3f}",
            f"{row.chance:.3f}",
            "" if row.target_map is None else f"{row.target_map:.3f}",
            "" if row.target_chance is None else f"{row.target_chance:.3f}",
            f"{row.flips:.0%}" if attacked else "",
            f"{row.rms:.4f}" if attacked else "",
            f"{row.submissions / row.queries:.1f}" if attacked else "",
            f"{row.seconds:.2f}" if attacked else "",
        )
        print("| " + " | ".join(cells) + " |")
    for line in flag_lines(made):
        print(line)


if __name__ == "__main__":
    main()
