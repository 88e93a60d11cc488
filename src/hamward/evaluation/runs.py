"""Runs that judge: evaluations and reports in folders that resume, and what reads run folders."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from hamward.artifacts import RunFolder, digest_of
from hamward.attacks import ATTACKS, Attack, TrainableAttack
from hamward.config import call_with, from_mapping, to_mapping
from hamward.data import RetrievalData, load_data
from hamward.data.split import SPLIT_NAMES
from hamward.errors import ArtifactError, ConfigError
from hamward.evaluation.configs import EvaluateConfig
from hamward.evaluation.evaluate import Evaluation, evaluate
from hamward.evaluation.report import write_report
from hamward.models import (
    HashModel,
    load_model,
)
from hamward.process import device_of
from hamward.progress import SILENT, Progress
from hamward.registry import method_of

__all__ = [
    "data_of",
    "evaluate_run",
    "items_digest",
    "kept_data",
    "load_victim",
    "make_attack",
    "open_data",
    "report_run",
]


def evaluate_run(
    config: EvaluateConfig,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
    device: str = "cpu",
) -> Evaluation:
    """Attack and score trained victims into a run folder.

    Args:
        config: Which victims, attacks and items.
        out: The run folder.
        resume: Whether to go on in a folder that was started.
        progress: Watches.
        device: Where to compute, as in `process.device_of`; no part of the configuration.

    Raises:
        HamwardError: anything in the configuration, the victims or the folder does not fit.
    """
    place = device_of(device)
    if not config.victims:
        raise ConfigError("there are no victims to evaluate")
    attacks = {name: make_attack(name, options) for name, options in config.attacks.items()}
    victims: dict[str, HashModel] = {}
    data: RetrievalData | None = None
    first = next(iter(config.victims.values()))
    for name, folder in config.victims.items():
        model, facts = load_victim(Path(folder))
        own = data_of(facts, Path(folder)) if data is None else data
        if data is not None and facts["data_digest"] != data.digest:
            raise ArtifactError(
                f"{folder}: trained on other data ({facts['data']} {facts['data_digest'][:12]}) "
                f"than {first} ({data.name} {data.digest[:12]}): evaluate them separately"
            )
        victims[name], data = model.to(place), own
    assert data is not None
    data = config.part(data)
    if config.candidates is not None:
        config.candidates.check(data, attacks)
    run = RunFolder(out)
    run.start("evaluation", to_mapping(config), resume=resume)
    if run.done:
        return Evaluation.load(out)
    evaluation = evaluate(
        victims,
        data,
        attacks,
        modalities=config.modalities,
        transfer_from=config.transfer_from,
        target_protocol=config.target_protocol,
        seed=config.seed,
        batch_size=config.batch_size,
        diagnose=config.diagnose,
        pictures=config.pictures,
        transforms=config.transforms,
        candidates=config.candidates,
        progress=progress,
        folder=out,
    )
    evaluation.save(out)
    run.finish(data=data.name, data_digest=data.digest)
    return evaluation


def report_run(folder: Path, out: Path | None = None, *, progress: Progress = SILENT) -> Path:
    """Write the report of a finished evaluation run.

    Args:
        folder: The evaluation's run folder.
        out: Where to; by default `folder / "report"`.
        progress: Watches.

    Returns:
        The page.

    Raises:
        ArtifactError: the evaluation or one of its victims is not there, or not finished.
    """
    info = RunFolder(folder).require("evaluation")
    config = from_mapping(EvaluateConfig, info["config"])
    victims = {name: Path(path) for name, path in config.victims.items()}
    facts = {name: RunFolder(path).require("model") for name, path in victims.items()}
    first = next(iter(victims.values()))
    data = config.part(data_of(load_victim(first)[1], first))
    return write_report(
        out or folder / "report",
        Evaluation.load(folder),
        data=data,
        artifacts=folder,
        title="hamward: " + ", ".join(victims),
        facts={
            "environment": info["environment"],
            "written": info["written"],
            "command": info["command"],
            "training_seconds": {
                name: round(run["seconds"], 1) for name, run in facts.items() if "seconds" in run
            },
            "configuration": {name: run["config"] for name, run in facts.items()},
        },
        histories={name: run["history"] for name, run in facts.items() if "history" in run},
        progress=progress,
    )


def make_attack(name: str, options: Mapping[str, Any]) -> Attack | TrainableAttack:
    """Build a configured attack; its registered name is `options["attack"]` or before "@".

    Raises:
        UnknownNameError: no attack has this name.
        ConfigError: an option is unknown or does not fit.
    """
    values = dict(options)
    entry = ATTACKS[values.pop("attack", method_of(name))]
    attack: Attack | TrainableAttack = call_with(entry.make, values, path=f"{entry.name}: ")
    return attack


def load_victim(folder: Path) -> tuple[HashModel, dict[str, Any]]:
    """Read a trained model and its facts from a finished run folder.

    Raises:
        ArtifactError: not a finished model run, or damaged.
    """
    RunFolder(folder).require("model")
    model, facts = load_model(folder)
    for key in ("method", "options", "data", "data_options", "data_digest", "items_digest"):
        if key not in facts:
            raise ArtifactError(f"{folder / 'model.json'}: lacks {key!r}")
    return model, facts


_KEPT: ContextVar[dict[str, RetrievalData] | None] = ContextVar("kept_data", default=None)


@contextmanager
def kept_data() -> Iterator[None]:
    """Load each data set once inside the block, however many runs it holds."""
    if _KEPT.get() is not None:
        yield
        return
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def open_data(name: str, options: Mapping[str, Any]) -> RetrievalData:
    """Return a data set as a configuration names it."""
    kept = _KEPT.get()
    if kept is None:
        return load_data(name, **options)
    key = digest_of([name, options])
    if key not in kept:
        kept[key] = load_data(name, **options)
    return kept[key]


def data_of(facts: Mapping[str, Any], folder: Path) -> RetrievalData:
    """Load the data that a victim was trained on.

    Raises:
        ArtifactError: the data have another vocabulary or split now.
    """
    data = open_data(facts["data"], facts["data_options"])
    if items_digest(data) != facts["items_digest"]:
        raise ArtifactError(
            f"{folder}: trained with another vocabulary or split than {facts['data']} has now: "
            "its queries may be among the items it was trained on"
        )
    # Decoders differ a little between versions, but a prepared set is the same bytes everywhere.
    if isinstance(data.images, np.memmap) and data.digest != facts["data_digest"]:
        raise ArtifactError(
            f"{folder}: trained on {facts['data_digest'][:12]}, but {facts['data']} is "
            f"{data.digest[:12]} now: its queries may be among the items it was trained on"
        )
    return data


def items_digest(data: RetrievalData) -> str:
    """Return what must not change between training and evaluation: vocabulary and split.

    Pixels are left out: another version of the decoder changes some of them by one level.
    """
    sha = hashlib.sha256("\n".join(data.words).encode())
    for name in SPLIT_NAMES:
        sha.update(name.encode() + data.ids[data.split[name]].tobytes())
    return sha.hexdigest()
