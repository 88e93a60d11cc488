"""The one training loop: epochs of passes over batches, validated, resumable."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamward.data import RetrievalData
from hamward.errors import ConfigError, TrainingError
from hamward.models import HashModel
from hamward.progress import SILENT, Progress
from hamward.random import permutation, seeded
from hamward.training.augmentation import augment
from hamward.training.averaging import WeightAverage
from hamward.training.checkpoint import Checkpoint, Fitted
from hamward.training.objective import Objective, Phase, Step, modalities_in
from hamward.training.optimizers import OptimizerName, ScheduleName, make_optimizer, rate_factor
from hamward.training.ranks import ALONE, Ranks, running_statistics
from hamward.training.states import adopt, part_of, require_equal, state_of
from hamward.types import Modality

__all__ = ["FitConfig", "Fitted", "fit"]

log = logging.getLogger(__name__)

Score = Callable[[HashModel], Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """How long and how fast to train.

    Attributes:
        epochs: Passes over the training items per modality.
        batch_size: Items a step, over all ranks together.
        image_rate: Peak learning rate of the image encoder.
        text_rate: Peak learning rate of the text encoder.
        head_factor: Multiplies the rate of the hash heads, which start from noise.
        weight_decay: Decoupled with "adamw", else added to the gradient.
        optimizer: "adamw", "adam", "sgd" or "rmsprop".
        momentum: Of sgd and rmsprop; in adam and adamw the decay of the first moment.
        schedule: How rates go on after the warm-up: "cosine" to 0.01 of the peak, "constant", or
            "exponential", by `decay` with every epoch.
        decay: Factor of the rates from one epoch to the next; "exponential" only.
        warmup: Share of the steps in which the rate rises linearly.
        clip_norm: Largest norm of a step's gradient; 0 clips nothing.
        patience: Stop after so many epochs without a better validation score; 0 never does.
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
    optimizer: OptimizerName = "adamw"
    momentum: float = 0.9
    schedule: ScheduleName = "cosine"
    decay: float = 0.5
    warmup: float = 0.1
    clip_norm: float = 5.0
    patience: int = 0
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
            ("momentum", 0, 0.9999),
            ("decay", 1e-6, 1),
            ("warmup", 0, 1),
            ("clip_norm", 0, 1e9),
            ("patience", 0, 100_000),
            ("crop", 0, 0.9),
            ("average", 0, 0.9999),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} must be in [{low}, {high}], got {value}")

    def check(self, items: int, *, ranks: int = 1) -> None:
        """Refuse a batch size that leaves no step, or no equal shares.

        Raises:
            ConfigError: there are fewer training items than items in a batch, or the ranks cannot
                share a batch equally, two items or more each.
        """
        if items < self.batch_size:
            raise ConfigError(f"batch_size {self.batch_size} exceeds the {items} training items")
        if ranks > 1 and (self.batch_size % ranks or self.batch_size < 2 * ranks):
            raise ConfigError(
                f"batch_size {self.batch_size} is shared by {ranks} ranks: it must be a multiple "
                f"of {ranks}, at least {2 * ranks}"
            )


def fit(
    model: HashModel,
    objective: Objective,
    data: RetrievalData,
    *,
    config: FitConfig,
    score: Score,
    checkpoint: Path | None = None,
    initial: Mapping[str, Tensor] | None = None,
    ranks: Ranks = ALONE,
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
        initial: Networks and buffers that the objective starts from, as in `Fitted.objective`;
            none is a warning where it has networks. None starts anew.
        ranks: The processes that train together. Each calls this with the same arguments and
            ends with the same bits; the first validates and writes.
        progress: Watches the steps.
        label: Name for the progress display.

    Raises:
        TrainingError: the loss is no longer finite, another rank failed, or the ranks have come
            apart; the last good checkpoint stays.
        ArtifactError: the checkpoint or `initial` is damaged or of another model, or not every
            rank sees the checkpoint.
    """
    device, positions = next(model.parameters()).device, data.split.train
    config.check(len(positions), ranks=ranks.size)
    own = _start(objective, model, data, seed=config.seed, initial=initial)
    optimizer = _optimizer(model, objective, config)
    average = WeightAverage(model, config.average)
    kept = Checkpoint(checkpoint, model, optimizer, objective, average)
    fitted, best_state = kept.load(ranks)
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
        _set_rates(optimizer, config, done / total, epoch)
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
            ranks=ranks,
            progress=progress,
        )
        stream = f"step{done}"  # of dropout, the same after a resume
        sharing = ranks.encoding(model, seed=config.seed, stream=stream)
        with seeded(config.seed, stream), sharing:
            loss = objective.loss(model, step)
        where = f"{label}: epoch {epoch}, step {done + 1}"
        _check_finite(loss, where, checkpoint if fitted.history else None)
        _descend(loss, model, optimizer, clip_norm=config.clip_norm, ranks=ranks)
        losses.append(float(loss.detach()))
        done += 1
        average.update(done)
        if done % steps_per_epoch:
            continue
        objective.end_epoch()
        model.eval()
        require_equal(ranks, model, objective, label=label)
        with average.applied():
            scores = ranks.first(lambda: dict(score(model)))
            row = {
                "epoch": epoch,
                "loss": sum(losses) / len(losses),
                "seconds": time.monotonic() - start,
                **scores,
            }
            if _is_best(row, objective, fitted, label=label):
                fitted.best, fitted.best_epoch = scores, epoch
                best_state = state_of(model, objective, own)
        if ranks.rank == 0:
            kept.save(fitted, best_state)
            progress.say(f"{label}: {_told(row)}")
        losses, start = [], time.monotonic()
    model.load_state_dict(part_of(best_state, "model"))
    fitted.objective = {k: v for k, v in best_state.items() if not k.startswith("model/")}
    optimizer.zero_grad(set_to_none=True)
    model.eval()
    if ranks.size > 1:
        progress.say(require_equal(ranks, model, objective, label=label))
    return fitted


def _start(
    objective: Objective,
    model: HashModel,
    data: RetrievalData,
    *,
    seed: int,
    initial: Mapping[str, Tensor] | None,
) -> tuple[str, ...]:
    """Start an objective; return the buffers that belong to its networks, if it has some.

    A defense adds samples to the buffers later, which do not.
    """
    with seeded(seed, "objective"):
        objective.start(model, data, data.split.train)
    device = next(model.parameters()).device
    objective.modules.to(device)
    if initial is not None:
        adopt(objective, initial, device)
    return tuple(objective.buffers) if objective.modules else ()


def _steps(
    objective: Objective, items: int, config: FitConfig, fitted: Fitted
) -> Iterator[tuple[int, Phase, Tensor]]:
    """Yield (epoch, phase, rows): every phase of every epoch in its own shuffled order.

    Each batch comes as often in a row as the objective's `replays` say. Epochs go on after those
    of `fitted`, until they, the patience or the objective's verdict end.
    """
    for epoch in range(len(fitted.history) + 1, config.epochs + 1):
        impatient = config.patience and len(fitted.history) - fitted.best_epoch >= config.patience
        if impatient or _verdict(objective, fitted):
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


def _told(row: Mapping[str, float]) -> str:
    scores = (f"{name} {value:.3f}" for name, value in row.items() if name != "epoch")
    return f"epoch {row['epoch']}: {', '.join(scores)}"


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


def _optimizer(model: HashModel, objective: Objective, config: FitConfig) -> torch.optim.Optimizer:
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
    return make_optimizer(
        groups,
        name=config.optimizer,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def _check_finite(loss: Tensor, where: str, checkpoint: Path | None) -> None:
    if not torch.isfinite(loss):
        kept = f"; the last good state is in {checkpoint}" if checkpoint else ""
        raise TrainingError(f"{where}: the loss is {loss.item()}: lower the learning rate{kept}")


def _set_rates(
    optimizer: torch.optim.Optimizer, config: FitConfig, share: float, epoch: int
) -> None:
    factor = rate_factor(
        share, epoch=epoch, schedule=config.schedule, warmup=config.warmup, decay=config.decay
    )
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def _descend(
    loss: Tensor,
    model: HashModel,
    optimizer: torch.optim.Optimizer,
    *,
    clip_norm: float,
    ranks: Ranks,
) -> None:
    """Take one step down the loss, the same on all ranks."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    moved = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    ranks.average([*(p.grad for p in moved), *running_statistics(model)])
    if clip_norm:
        torch.nn.utils.clip_grad_norm_(moved, clip_norm)
    optimizer.step()
