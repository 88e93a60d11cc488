"""Batches for training and encoding, replayable from (seed, epoch)."""

from collections.abc import Iterator, Sequence

import torch
from numpy.typing import ArrayLike

from hamward.data.retrieval_data import RetrievalData
from hamward.data.split import as_positions
from hamward.errors import ConfigError
from hamward.random import item_uniform, permutation
from hamward.types import Batch

__all__ = ["batches"]


def batches(
    data: RetrievalData,
    positions: ArrayLike | Sequence[int],
    *,
    batch_size: int,
    seed: int | None = None,
    epoch: int = 0,
    device: torch.device | str = "cpu",
    flip: bool = False,
) -> Iterator[Batch]:
    """Yield the items at `positions` in batches; the last one may be smaller.

    Pictures become float only here, a batch at a time.

    Args:
        data: The set.
        positions: Which items.
        batch_size: Items per batch.
        seed: Shuffle by (seed, epoch); None keeps the order.
        epoch: Number of the pass.
        device: Where the tensors go.
        flip: Mirror about half of the pictures, decided by (seed, epoch, id) alone, so that
            batch size and order change nothing.

    Raises:
        ConfigError: batch_size below 1, or flip without a seed.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    if flip and seed is None:
        raise ConfigError("flip needs a seed: give seed=..., or flip=False for encoding")
    return _batches(
        data,
        positions,
        batch_size=batch_size,
        seed=seed,
        stream=f"epoch {epoch}",
        device=device,
        flip=flip,
    )


def _batches(
    data: RetrievalData,
    positions: ArrayLike | Sequence[int],
    *,
    batch_size: int,
    seed: int | None,
    stream: str,
    device: torch.device | str,
    flip: bool,
) -> Iterator[Batch]:
    order = as_positions(positions, size=len(data))
    if seed is not None:
        order = order[permutation(len(order), seed=seed, stream=f"shuffle, {stream}").numpy()]
    for start in range(0, len(order), batch_size):
        batch = data.batch(order[start : start + batch_size], device=device)
        if flip and seed is not None:
            draws = item_uniform(batch["id"], (1, 1, 1), seed=seed, stream=f"flip, {stream}")
            batch["image"] = torch.where(draws < 0.5, batch["image"].flip(-1), batch["image"])
        yield batch
