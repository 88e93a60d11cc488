"""Noise that belongs to an item: the same for any batch split, order, size or device."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Int64
from torch import Tensor

__all__ = ["content_ids", "item_normal", "item_uniform", "permutation", "seeded", "stream_seed"]

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's output function (Steele, Lea and Flood, OOPSLA 2014) on wrapping int64."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def stream_seed(seed: int, stream: str) -> int:
    """Return a seed for one named use of `seed`, so that two uses never share their noise."""
    value = seed % (1 << 62)
    for byte in stream.encode():
        value = (value * 1099511628211 + byte + 1) % (1 << 62)
    return value


def item_uniform(
    ids: Int64[Tensor, " n"], shape: Sequence[int], *, seed: int, stream: str = ""
) -> Tensor:
    """Draw uniform numbers in [0, 1) per item from (seed, stream, id) alone.

    Args:
        ids: Item ids, (n,).
        shape: Shape of one item's noise.
        seed: Any integer.
        stream: Name of the use.

    Returns:
        float64, (n, *shape), on the device of `ids`.
    """
    base = torch.tensor(stream_seed(seed, stream), dtype=torch.int64, device=ids.device)
    keys = _mix(_mix(base + _GOLDEN) ^ (ids * _GOLDEN + _MIX_1))
    counter = torch.arange(1, math.prod(shape) + 1, dtype=torch.int64, device=ids.device)
    bits = _mix(keys[:, None] + counter[None, :] * _GOLDEN)
    uniform = _shift_right(bits, 11).to(torch.float64) * 2.0**-53
    return uniform.reshape(len(ids), *shape)


def item_normal(
    ids: Int64[Tensor, " n"], shape: Sequence[int], *, seed: int, stream: str = ""
) -> Tensor:
    """Draw standard normal numbers per item; see `item_uniform`."""
    uniform = item_uniform(ids, shape, seed=seed, stream=stream)
    normal: Tensor = torch.special.ndtri(uniform.clamp_min(2.0**-54))
    return normal


def content_ids(x: Tensor) -> Int64[Tensor, " n"]:
    """Return ids that items have by their content, where nobody knows another.

    Args:
        x: Items in [0, 1], (n, ...), told apart by their 8-bit levels: the last bits, in which
            two batches may differ, change nothing.

    Returns:
        (n,), sums of one hash a place and level, so in no order of summation.
    """
    levels = torch.round(x.detach().flatten(1) * 255).to(torch.int64)
    places = torch.arange(1, levels.shape[1] + 1, dtype=torch.int64, device=x.device)
    return _mix(_mix(places * _GOLDEN) + levels).sum(1)


def permutation(n: int, *, seed: int, stream: str = "") -> Int64[Tensor, " n"]:
    """Return a permutation of range(n) from (seed, stream), without the global stream."""
    generator = torch.Generator().manual_seed(stream_seed(seed, stream))
    return torch.randperm(n, generator=generator)


@contextmanager
def seeded(seed: int, stream: str = "") -> Iterator[None]:
    """Seed PyTorch's own streams from (seed, stream) for a block, then put them back.

    For code that can only draw from them: initial weights and dropout.
    """
    cuda = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(stream_seed(seed, stream))
        if cuda:
            torch.cuda.manual_seed_all(stream_seed(seed, stream))
        yield
