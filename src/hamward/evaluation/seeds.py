"""One training under several seeds: mean and spread instead of one lucky number."""

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hamward.artifacts import RunFolder, read_json, write_json
from hamward.config import to_mapping
from hamward.errors import ConfigError
from hamward.evaluation.configs import TrainConfig
from hamward.evaluation.training_runs import train_run
from hamward.progress import SILENT, Progress

__all__ = ["train_seeds"]


def train_seeds(
    config: TrainConfig,
    out: Path,
    seeds: Sequence[int],
    *,
    resume: bool = False,
    progress: Progress = SILENT,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train a victim once a seed, in folders seed-0, seed-1, ... of `out`.

    Returns:
        What summary.json holds: per direction the MAP of each seed, their mean and their sample
        standard deviation, and the same for the validation scores.

    Raises:
        ConfigError: fewer than two seeds, or one twice.
        HamwardError: as `train_run`.
    """
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds must be at least two different numbers, got {list(seeds)}")
    run = RunFolder(out)
    run.start("seeds", {"train": to_mapping(config), "seeds": list(seeds)}, resume=resume)
    scores: dict[str, list[float]] = {}
    validation: dict[str, list[float]] = {}
    chance: dict[str, float] = {}
    for seed in seeds:
        folder = out / f"seed-{seed}"
        one = dataclasses.replace(config, fit=dataclasses.replace(config.fit, seed=seed))
        progress.say(f"seed {seed}")
        train_run(one, folder, resume=True, progress=progress, device=device)
        for direction, score in read_json(folder / "card.json")["scores"].items():
            scores.setdefault(direction, []).append(score["map"])
            chance[direction] = score["chance"]
        for name, value in RunFolder(folder).info()["validation"].items():
            validation.setdefault(name, []).append(value)
    summary = {
        "method": config.method,
        "data": config.data,
        "seeds": list(seeds),
        "map": {k: _spread(v) for k, v in scores.items()},
        "chance": chance,
        "validation": {k: _spread(v) for k, v in validation.items()},
    }
    write_json(out / "summary.json", summary)
    if not run.done:
        run.finish()
    return summary


def _spread(values: list[float]) -> dict[str, Any]:
    return {
        "values": values,
        "mean": statistics.fmean(values),
        "deviation": statistics.stdev(values),
    }
