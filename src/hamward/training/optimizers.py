"""Optimizers and rate schedules by name, as published recipes need them."""

import math
from typing import Any, Literal

import torch

__all__ = ["OptimizerName", "ScheduleName", "make_optimizer", "rate_factor"]

OptimizerName = Literal["adamw", "adam", "sgd", "rmsprop"]
ScheduleName = Literal["cosine", "constant", "exponential"]


def make_optimizer(
    groups: list[dict[str, Any]], *, name: OptimizerName, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return an optimizer over parameter groups.

    Args:
        groups: Parameters with their rates, as PyTorch takes them.
        name: "adamw" decouples the weight decay; the others add it to the gradient.
        momentum: Of sgd and rmsprop; in adam and adamw the decay of the first moment.
        weight_decay: Share of the weights.
    """
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=momentum, weight_decay=weight_decay)
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, momentum=momentum, weight_decay=weight_decay)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(groups, betas=(momentum, 0.999), weight_decay=weight_decay, fused=True)


def rate_factor(
    share: float, *, epoch: int, schedule: ScheduleName, warmup: float, decay: float
) -> float:
    """Return the factor of the peak rates in a step.

    Args:
        share: Share of the steps before this one, in [0, 1).
        epoch: From 1.
        schedule: After the warm-up: "cosine" falls to 0.01, "constant" stays, "exponential"
            falls by `decay` with every epoch.
        warmup: Share of the steps in which the factor rises linearly.
        decay: Factor from one epoch to the next.

    Example:
        >>> [rate_factor(0.5, epoch=3, schedule=s, warmup=0.1, decay=0.5)
        ...     for s in ("constant", "exponential")]
        [1.0, 0.25]
    """
    if share < warmup:
        return max(share / warmup, 0.02)
    if schedule == "constant":
        return 1.0
    if schedule == "exponential":
        return decay ** (epoch - 1)
    turn = (share - warmup) / max(1 - warmup, 1e-9)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * turn))
