"""The one training loop: epochs of passes over batches, validated, resumable."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamward.artifacts import read_tensors, write_tensors
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError, TrainingError
from hamward.models import HashModel
from hamward.progress import SILENT, Progress
from hamward.random import permutation, seeded
from hamward.training.augmentation import augment
from hamward.training.averaging import WeightAverage
from hamward.training.objective import Objective, Phase, Step, modalities_in
from hamward.types import Modality

__all__ = ["FitConfig", "Fitted", "fit"]

log = logging.getLogger(__name__)

Score = Callable[[HashModel], Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """How long and how fast to train.

    Attributes:
        epochs: Passes over the training items per modality.
        batch_size: Items a step.
        image_rate: Peak learning rate of the image encoder.
        text_rate: Peak learning rate of the text encoder.
        head_factor: Multiplies the rate of the hash heads, which start from noise.
        weight_decay: Decoupled weight decay.
        warmup: Share of the steps in which the rate rises linearly; it falls as a cosine.
        clip_norm: Largest norm of a step's gradient.
        flip: Mirror half of the pictures.
        crop: Cut up to this share of the side away from each picture, anew every epoch; 0 is off.
        average: Decay of the running mean of the weights that is validated and kept; 0 is off.
        seed: Seed of order, mirroring and cuts.
    """

    epochs: int = 12
    batch_size: int = 32
    image_rate: float = 7e-4
    text_rate: float = 2e-3
    head_factor: float = 1.0
    weight_decay: float = 1e-4
    warmup: float = 0.1
    clip_norm: float = 5.0
    flip: bool = True
    crop: float = 0.0
    average: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("epochs", 1, 100_000),
            ("batch_size", 2, 65536),
            ("image_rate", 0, 10),
            ("text_rate", 0, 10),
            ("head_factor", 0, 1000),
            ("weight_decay", 0, 1),
            ("warmup", 0, 1),
            ("crop", 0, 0.9),
            ("average", 0, 0.9999),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} must be in [{low}, {high}], got {value}")
        if self.clip_norm <= 0:
            raise ConfigError(f"clip_norm must be positive, got {self.clip_norm}")

    def check(self, items: int) -> None:
        """Refuse a batch size that leaves no step.

        Raises:
            ConfigError: there are fewer training items than items in a batch.
        """
        if items < self.batch_size:
            raise ConfigError(f"batch_size {self.batch_size} exceeds the {items} training items")


@dataclass(slots=True, kw_only=True)
class Fitted:
    """What a training run leaves: the best epoch and the log.

    Attributes:
        best_epoch: Epoch whose weights the model holds, from 1.
        best: Validation scores of that epoch; "select" decided.
        history: One row an epoch: epoch, loss, seconds and the validation scores.
    """

    best_epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def fit(
    model: HashModel,
    objective: Objective,
    data: RetrievalData,
    *,
    config: FitConfig,
    score: Score,
    checkpoint: Path | None = None,
    progress: Progress = SILENT,
    label: str = "train",
) -> Fitted:
    """Train a model in place and leave the weights of its best validation epoch in it.

    Args:
        model: The model; it ends in eval mode.
        objective: What to minimize.
        data: Training items are `data.split.train`.
        config: Epochs, rates, seed.
        score: Validation scores of a model; the epoch with the largest "select" is kept.
            Must not look at queries.
        checkpoint: File for the state after each epoch. If it exists, training continues
            from it and ends with the same bits as without the interruption.
        progress: Watches the steps.
        label: Name for the progress display.

    Raises:
        TrainingError: the loss is no longer finite; the last good checkpoint stays.
        ArtifactError: the checkpoint is damaged or of another model.
    """
    device, positions = next(model.parameters()).device, data.split.train
    config.check(len(positions))
    with seeded(config.seed, "objective"):
        objective.start(model, data, positions)
    objective.modules.to(device)
    optimizer = _optimizer(model, objective, config)
    average = WeightAverage(model, config.average)
    fitted = Fitted()
    best_state: dict[str, Tensor] = {}
    if checkpoint is not None and checkpoint.exists():
        fitted, best_state = _load(checkpoint, model, optimizer, objective, average)
    passes = len(objective.phases) * getattr(objective, "replays", 1)
    steps_per_epoch = passes * (len(positions) // config.batch_size)
    total = steps_per_epoch * config.epochs
    done = steps_per_epoch * len(fitted.history)
    losses: list[float] = []
    start = time.monotonic()
    steps = _steps(objective, len(positions), config, fitted)
    for epoch, phase, rows in progress.track(steps, total=total - done, label=label):
        model.train()
        objective.modules.train()
        _set_rates(optimizer, _schedule(done / total, config.warmup))
        step = Step(
            phase=phase,
            items=_inputs(
                data, phase, positions[rows.numpy()], config=config, epoch=epoch, device=device
            ),
            rows=rows.to(device),
            ids=torch.tensor(data.ids[positions[rows.numpy()]], device=device),
            epoch=epoch,
            number=done,
            total=total,
        )
        with seeded(config.seed, f"step{done}"):  # dropout, the same after a resume
            loss = objective.loss(model, step)
        where = f"{label}: epoch {epoch}, step {done + 1}"
        _check_finite(loss, where, checkpoint if fitted.history else None)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(_trained(optimizer), config.clip_norm)
        optimizer.step()
        losses.append(float(loss.detach()))
        done += 1
        average.update(done)
        if done % steps_per_epoch:
            continue
        objective.end_epoch()
        model.eval()
        with average.applied():
            scores = dict(score(model))
            row = {
                "epoch": epoch,
                "loss": sum(losses) / len(losses),
                "seconds": time.monotonic() - start,
                **scores,
            }
            if _is_best(row, objective, fitted, label=label):
                fitted.best, fitted.best_epoch = scores, epoch
                best_state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        if checkpoint is not None:
            _save(checkpoint, (model, optimizer, objective, average), fitted, best_state)
        losses, start = [], time.monotonic()
    model.load_state_dict(best_state)
    optimizer.zero_grad(set_to_none=True)
    model.eval()
    return fitted


def _steps(
    objective: Objective, items: int, config: FitConfig, fitted: Fitted
) -> Iterator[tuple[int, Phase, Tensor]]:
    """Yield (epoch, phase, rows): every phase of every epoch in its own shuffled order.

    Each batch comes as often in a row as the objective's `replays` say.
    """
    for epoch in range(len(fitted.history) + 1, config.epochs + 1):
        if _verdict(objective, fitted):
            return
        for phase in objective.phases:
            order = permutation(items, seed=config.seed, stream=f"{phase}{epoch}")
            usable = items - items % config.batch_size
            for rows in torch.split(order[:usable], config.batch_size):
                for _ in range(getattr(objective, "replays", 1)):
                    yield epoch, phase, rows


def _is_best(row: dict[str, float], objective: Objective, fitted: Fitted, *, label: str) -> bool:
    """Enter an epoch into the history; return whether its weights are to be kept."""
    fitted.history.append(row)
    if verdict := _verdict(objective, fitted):
        log.warning("%s: stopped after epoch %d: %s", label, row["epoch"], verdict)
        return False
    return not fitted.best or row["select"] > fitted.best["select"]


def _verdict(objective: Objective, fitted: Fitted) -> str:
    """Say why the training must end with the last epoch, which is not kept; "" if it need not."""
    judge = getattr(objective, "verdict", None)
    return str(judge(fitted.history)) if judge is not None and fitted.history else ""


def _inputs(
    data: RetrievalData,
    phase: Phase,
    chosen: NDArray[np.int64],
    *,
    config: FitConfig,
    epoch: int,
    device: torch.device,
) -> dict[Modality, Tensor]:
    items = {m: data.inputs(m, chosen, device=device) for m in modalities_in(phase)}
    if "image" in items:
        items["image"] = augment(
            items["image"],
            torch.tensor(data.ids[chosen]),
            flip=config.flip,
            crop=config.crop,
            seed=config.seed,
            epoch=epoch,
        )
    return items


def _optimizer(model: HashModel, objective: Objective, config: FitConfig) -> torch.optim.AdamW:
    groups = []
    rates = {"image": config.image_rate, "text": config.text_rate}
    for modality in model.modalities:
        encoder, rate = model.encoder(modality), rates[modality]
        heads = list(encoder.head.parameters())
        trunk = [p for p in encoder.parameters() if all(p is not h for h in heads)]
        for part, peak in ((trunk, rate), (heads, rate * config.head_factor)):
            groups.append({"params": part, "lr": peak, "peak": peak})
    extra = list(objective.modules.parameters())
    if extra:
        groups.append({"params": extra, "lr": config.text_rate, "peak": config.text_rate})
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)


def _check_finite(loss: Tensor, where: str, checkpoint: Path | None) -> None:
    if not torch.isfinite(loss):
        kept = f"; the last good state is in {checkpoint}" if checkpoint else ""
        raise TrainingError(f"{where}: the loss is {loss.item()}: lower the learning rate{kept}")


def _set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def _trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the parameters that this step moves."""
    return [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]


def _schedule(share: float, warmup: float) -> float:
    """Linear from 0 to 1 in the warm-up, then half a cosine down to 0.01."""
    if share < warmup:
        return max(share / warmup, 0.02)
    turn = (share - warmup) / max(1 - warmup, 1e-9)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * turn))


def _save(
    file: Path,
    parts: tuple[HashModel, torch.optim.Optimizer, Objective, WeightAverage],
    fitted: Fitted,
    best: Mapping[str, Tensor],
) -> None:
    model, optimizer, objective, average = parts
    state = optimizer.state_dict()["state"]
    tensors = {
        **{f"model/{k}": v for k, v in model.state_dict().items()},
        **{f"best/{k}": v for k, v in best.items()},
        **{f"average/{k}": v for k, v in average.state.items()},
        **{f"buffers/{k}": v for k, v in objective.buffers.items()},
        **{f"modules/{k}": v for k, v in objective.modules.state_dict().items()},
        **{f"optimizer/{i}/{k}": v for i, part in state.items() for k, v in part.items()},
    }
    log = {"best_epoch": fitted.best_epoch, "best": fitted.best, "history": fitted.history}
    text = torch.frombuffer(bytearray(json.dumps(log).encode()), dtype=torch.uint8)
    write_tensors(file, {**tensors, "log": text})


def _load(
    file: Path,
    model: HashModel,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    average: WeightAverage,
) -> tuple[Fitted, dict[str, Tensor]]:
    tensors = read_tensors(file)
    device = next(model.parameters()).device

    def part(name: str) -> dict[str, Tensor]:
        prefix = f"{name}/"
        return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

    try:
        log: dict[str, Any] = json.loads(bytes(tensors["log"].tolist()))
        model.load_state_dict(part("model"))
        objective.modules.load_state_dict(part("modules"))
        _restore(objective.buffers, part("buffers"), device)
        _restore(average.state, part("average"), device)
        state = optimizer.state_dict()
        for key, value in part("optimizer").items():
            index, name = key.split("/")
            state["state"].setdefault(int(index), {})[name] = value.clone()
        optimizer.load_state_dict(state)
        for parameter, moments in optimizer.state.items():
            for name, value in moments.items():
                if value.shape == parameter.shape:  # fused kernels read both in one layout
                    moments[name] = torch.empty_like(parameter).copy_(value)
        best = {k: v.to(device) for k, v in part("best").items()}
        return Fitted(**log), best
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise ArtifactError(f"{file}: not a checkpoint of this training run ({error})") from error


def _restore(buffers: dict[str, Tensor], kept: Mapping[str, Tensor], device: torch.device) -> None:
    for name, now in buffers.items():
        if kept[name].shape != now.shape:
            raise ValueError(f"buffer {name} has shape {tuple(kept[name].shape)}")
    buffers.update({name: value.to(device) for name, value in kept.items()})
