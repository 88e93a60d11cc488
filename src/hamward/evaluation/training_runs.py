"""Runs that train: victims and hardened victims into folders that resume."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from hamward.artifacts import RunFolder, read_tensors, write_table, write_tensors
from hamward.config import call_with, from_mapping, to_mapping
from hamward.data import RetrievalData
from hamward.defenses import DEFENSES
from hamward.errors import ConfigError
from hamward.evaluation.card import model_card, write_card
from hamward.evaluation.configs import HardenConfig, TrainConfig
from hamward.evaluation.runs import data_of, items_digest, load_victim, open_data
from hamward.evaluation.scoring import robust_validation_scores, validation_scores
from hamward.models import (
    HashModel,
    ModelSpec,
    build_hash_model,
    load_model,
    read_by,
    save_model,
)
from hamward.models.networks import TEXT_TRANSFORMERS, comes_pretrained, transformer_folder
from hamward.process import device_of
from hamward.progress import SILENT, Progress
from hamward.training import (
    ALONE,
    OBJECTIVES,
    FitConfig,
    Fitted,
    Objective,
    Ranks,
    fit,
    modalities_in,
)

__all__ = ["harden_run", "hardening_fit", "train_run"]


def train_run(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
    ranks: Ranks = ALONE,
    device: str = "cpu",
) -> HashModel:
    """Train a victim into a run folder.

    Several ranks call it with the same arguments, on storage that they share; the first writes.

    Args:
        config: What to train.
        out: The run folder.
        resume: Whether to go on in a folder that was started.
        progress: Watches.
        ranks: The processes that train together.
        device: Where to compute, as in `process.device_of`; no part of the configuration.

    Returns:
        The trained model, in eval mode.

    Raises:
        HamwardError: anything in the configuration, the data or the folder does not fit.
    """
    place = device_of(device)
    entry = OBJECTIVES[config.method]
    objective = call_with(entry.make, config.options, path="options.")
    data = open_data(config.data, config.data_options)
    pretrained, weights = config.model.pretrained, config.model.weights
    if pretrained is None:
        name = config.model.image_network
        pretrained = bool(name) and not weights and comes_pretrained(name)
    spec = ModelSpec(
        code_length=config.model.code_length,
        vocabulary=max(len(data.words), 1),
        image_side=data.image_side,
        image_network=config.model.image_network,
        text_network=config.model.text_network,
        text_width=config.model.text_width,
        text_length=config.model.text_length,
        neck=config.model.neck,
        dropout=config.model.dropout,
        retrieval=config.model.retrieval,
    )
    if spec.text_network and "text" not in data.modalities:
        raise ConfigError(
            f"{data.name} has no texts: train a model that reads pictures only, with "
            "--set model.text_network=, by a method for one modality"
        )
    text_folder = transformer_folder(config.model.text_network, config.model.text_weights)
    if config.model.text_frozen and text_folder is None:
        raise ConfigError(
            f"text_frozen is for {' and '.join(TEXT_TRANSFORMERS)}: text network "
            f"{config.model.text_network!r} starts from random weights"
        )
    _check_trainable(config.fit, data, objective, spec, method=config.method, ranks=ranks)
    model = build_hash_model(
        spec,
        seed=config.fit.seed,
        pretrained=pretrained,
        weights=Path(weights) if weights else None,
        text_folder=text_folder,
        text_pretrained=text_folder is not None,
    ).to(place)
    seen = read_by(model, data, pooled=config.model.text_frozen)
    facts = {
        "method": config.method,
        "options": config.options,
        "data": config.data,
        "data_options": config.data_options,
        "data_digest": data.digest,
        "items_digest": items_digest(data),
        "fit": to_mapping(config.fit),
        "pretrained": pretrained,
        "weights": Path(weights).name,
        "text_frozen": config.model.text_frozen,
    }
    return _fit_into(
        out,
        to_mapping(config),
        facts=facts,
        resume=resume,
        ranks=ranks,
        model=model,
        objective=objective,
        data=seen,
        config=config.fit,
        score=lambda m: validation_scores(m, seen),
        progress=progress,
        label=f"train {config.method}",
    )


def hardening_fit(victim: Path) -> FitConfig:
    """Return the training loop of a victim, for six epochs from seed 0: what hardens it by default.

    Raises:
        ArtifactError: not a finished model run, or its fit cannot be read.
    """
    config = RunFolder(victim).require("model")["config"]
    own = from_mapping(FitConfig, config.get("fit", {}), path=f"{victim}: fit.")
    default = HardenConfig().fit
    return replace(own, epochs=default.epochs, seed=default.seed)


def harden_run(
    config: HardenConfig,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
    ranks: Ranks = ALONE,
    device: str = "cpu",
) -> HashModel:
    """Fine-tune a victim with a defense into a new run folder; the victim's stays as it is.

    The epoch is chosen by validation MAP, clean and under a short attack in equal parts (the
    control, which has no attack to withstand, by the clean part alone). Networks that the
    victim's objective trained beside it, such as SSAH's label network, go on from where they were.
    Arguments are those of `train_run`.

    Raises:
        HamwardError: anything in the configuration, the victim or the folder does not fit.
    """
    place = device_of(device)
    entry = DEFENSES[config.defense]
    victim = Path(config.victim)
    model, facts = load_victim(victim)
    if model.access != "gradients":
        raise ConfigError(f"{victim}: made of ONNX files, which cannot be trained further")
    model.to(place)
    base = call_with(OBJECTIVES[facts["method"]].make, facts["options"], path="options.")
    objective = call_with(
        entry.make, config.options, path="options.", given={"base": base, "seed": config.fit.seed}
    )
    data = read_by(model, data_of(facts, victim))
    _check_trainable(config.fit, data, base, model.spec, method=facts["method"], ranks=ranks)
    if hasattr(objective, "check_victim"):
        objective.check_victim(model, data)

    def score(m: HashModel) -> Mapping[str, float]:
        if objective.config.weight == 0:
            return validation_scores(m, data)
        sides, monitor = objective.config.modalities, getattr(objective, "monitor", None)
        scores = robust_validation_scores(m, data, objective.attack, modalities=sides)
        if monitor is None:
            return scores
        one = robust_validation_scores(m, data, monitor.one_step, modalities=sides)
        quick = {k.replace("attacked", "one_step"): v for k, v in one.items() if "attacked" in k}
        return {**scores, **quick}

    kept = {k: facts[k] for k in facts if k not in ("schema_version", "spec")}
    kept["hardened"] = [*facts.get("hardened", []), to_mapping(config)]
    return _fit_into(
        out,
        to_mapping(config),
        facts=kept,
        resume=resume,
        ranks=ranks,
        model=model,
        objective=objective,
        data=data,
        config=config.fit,
        score=score,
        initial=_objective_of(victim),
        progress=progress,
        label=f"harden {config.defense}",
    )


def _check_trainable(
    config: FitConfig,
    data: RetrievalData,
    objective: Objective,
    spec: ModelSpec,
    *,
    method: str,
    ranks: Ranks,
) -> None:
    """Refuse before the first step what cannot be trained.

    Raises:
        ConfigError: model and method read different modalities, there are too few items or none
            for validation, all items share a label, or the method itself refuses the data.
    """
    config.check(len(data.split.train), ranks=ranks.size)
    if not len(data.split.validation):
        raise ConfigError(f"{data.name} has no validation items: they choose the epoch to keep")
    trained = {m for phase in objective.phases for m in modalities_in(phase)}
    held = {"image": spec.image_network, "text": spec.text_network}
    for modality, network in held.items():
        if network and modality not in trained:
            raise ConfigError(
                f"{method} trains no {modality} encoder, but model.{modality}_network is "
                f'{network!r}: set model.{modality}_network = ""'
            )
        if not network and modality in trained:
            raise ConfigError(
                f"{method} trains a {modality} encoder: model.{modality}_network must name one"
            )
    if not data.label_names and getattr(objective, "supervised", True):
        raise ConfigError(
            f"{method} learns from labels, and {data.name} has none: take a method that learns "
            "from pairs (djsrh, or dual-encoder with --targets pairs)"
        )
    shared = data.labels[data.split.train].all(0)
    if shared.any():
        name = data.label_names[int(shared.argmax())]
        raise ConfigError(
            f"every training item of {data.name} has the label {name!r}: all pairs are similar "
            "and there is nothing to learn"
        )
    check = getattr(objective, "check", None)
    if check is not None:
        check(data, code_length=spec.code_length)


def _fit_into(
    out: Path,
    record: Mapping[str, Any],
    *,
    facts: Mapping[str, Any],
    resume: bool,
    ranks: Ranks,
    model: HashModel,
    data: RetrievalData,
    **fitting: Any,
) -> HashModel:
    """Claim the folder, fit, and write what is left; all that can be refused has been.

    Args:
        out: The run folder.
        record: The resolved configuration.
        facts: Plain values for the model's file.
        resume: Whether to go on in a folder that was started.
        ranks: The processes that train together; the first writes.
        model: What is trained.
        data: What it learns from and is scored on.
        **fitting: The other arguments of `fit`.
    """
    run = RunFolder(out)

    def claim() -> bool:
        run.start("model", record, resume=resume)
        return run.done

    if ranks.first(claim):
        return load_model(out)[0]
    started = time.monotonic()
    checkpoint = out / "checkpoint.safetensors"
    fitted = fit(model, data=data, checkpoint=checkpoint, ranks=ranks, **fitting)
    if ranks.rank == 0:
        _finish(run, model, data, fitted=fitted, facts=facts, started=started, ranks=ranks)
    return model


def _objective_of(folder: Path) -> dict[str, Tensor]:
    """Return what the objective kept beside a trained model; nothing if it had no networks."""
    file = folder / "objective.safetensors"
    return read_tensors(file) if file.exists() else {}


def _finish(
    run: RunFolder,
    model: HashModel,
    data: RetrievalData,
    *,
    fitted: Fitted,
    facts: Mapping[str, Any],
    started: float,
    ranks: Ranks,
) -> None:
    save_model(run.path, model, **facts)
    if fitted.objective:
        write_tensors(run.path / "objective.safetensors", fitted.objective)
    card = model_card(
        model, data, {**facts, "best_epoch": fitted.best_epoch, "history": fitted.history}
    )
    write_card(run.path, card)
    write_table(
        run.path / "history.parquet",
        {k: [row[k] for row in fitted.history] for k in fitted.history[0]},
    )
    run.finish(
        best_epoch=fitted.best_epoch,
        validation=fitted.best,
        history=fitted.history,
        seconds=time.monotonic() - started,
        data_digest=facts["data_digest"],
        ranks=ranks.size,
    )
    (run.path / "checkpoint.safetensors").unlink(missing_ok=True)
