"""What an objective needs of a model and of labels, checked before the first step."""

import torch
from torch import Tensor

from hamward.errors import ConfigError, DataError
from hamward.models import HashModel
from hamward.types import MODALITIES

__all__ = ["check_not_negative", "require_contrast", "require_pairs"]


def check_not_negative(method: str, **weights: float) -> None:
    """Refuse a negative weight.

    Raises:
        ConfigError: a weight is below 0.
    """
    for name, value in weights.items():
        if value < 0:
            raise ConfigError(f"{method}: {name} must be at least 0, got {value}")


def require_pairs(method: str, model: HashModel) -> None:
    """Refuse a model of one modality.

    Raises:
        ConfigError: the model has no image or no text network.
    """
    missing = [m for m in MODALITIES if m not in model.modalities]
    if missing:
        raise ConfigError(
            f"{method} trains pictures and texts together: the model has no {missing[0]} network "
            f"(set model.{missing[0]}_network)"
        )


def require_contrast(method: str, labels: Tensor) -> None:
    """Refuse labels by which all items are alike.

    Raises:
        DataError: there are no labels, or all training items share one.
    """
    if not labels.shape[1] or bool(torch.any(labels.bool().all(0))):
        raise DataError(
            f"{method} learns from items with and without a common label: the training items "
            f"have {labels.shape[1]} labels and all share one"
            if labels.shape[1]
            else f"{method} learns from labels: the training items have none"
        )
