"""The words that all modules share."""

from typing import Literal, TypedDict, get_args

from torch import Tensor

__all__ = ["DIRECTIONS", "MODALITIES", "Access", "Batch", "Direction", "Modality", "modalities_of"]

Modality = Literal["image", "text"]
Direction = Literal["i2t", "t2i", "i2i", "t2t"]
Access = Literal["ranks", "codes", "gradients"]
"""What a victim grants, weakest first; each includes the ones before it."""

MODALITIES: tuple[Modality, ...] = get_args(Modality)
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


class Batch(TypedDict):
    """Items as the models see them.

    Keys:
        image: (n, 3, H, W) float in [0, 1].
        text: (n, D) bag of words, float in {0, 1}.
        label: (n, C) multi-hot float.
        id: (n,) int64, stable across runs.
    """

    image: Tensor
    text: Tensor
    label: Tensor
    id: Tensor


def modalities_of(direction: Direction) -> tuple[Modality, Modality]:
    """Return the (query, database) modalities of a direction.

    Example:
        >>> modalities_of("i2t")
        ('image', 'text')
    """
    names: dict[str, Modality] = {"i": "image", "t": "text"}
    return names[direction[0]], names[direction[2]]
