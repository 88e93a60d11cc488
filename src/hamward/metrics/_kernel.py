"""The compiled inner loop of `distance_counts`: bit-sliced counting of Hamming distances.

Item i is bit i of a row of words, and every bit of the code has such a row, its plane. Adding
64 items' distances then takes the full adders of one bit each: eight planes at a time leave a
binary number of three planes and a carry that weighs eight. Counting the items at distance d is
the popcount of one AND. No step depends on the data, so LLVM vectorizes all of them: about half
an instruction for each pair of items.

Only `hamward.metrics.counts` imports this module, when it first counts, because numba takes long
to import.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba
import numpy as np

__all__ = ["WORDS", "bit_planes", "count_pairs"]

P = ParamSpec("P")
R = TypeVar("R")

# 64-bit words of a block. A block of 32-bit codes and its scratch then fit the L1 cache, and LLVM
# knows every loop length and every distance between two rows of the scratch, so it need not test
# them for overlap.
WORDS = 64

_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
_ZERO = np.uint64(0)


def _compile(function: Callable[P, R]) -> Callable[P, R]:
    """Compile without the interpreter lock, and keep the result where a folder is writable."""
    try:
        return cast(Callable[P, R], numba.njit(function, nogil=True, cache=True))
    except RuntimeError:  # no writable folder for the cache
        return cast(Callable[P, R], numba.njit(function, nogil=True))


@_compile
def _sum(a: np.uint64, b: np.uint64, c: np.uint64) -> np.uint64:
    return a ^ b ^ c


@_compile
def _carry(a: np.uint64, b: np.uint64, c: np.uint64) -> np.uint64:
    return (a & b) | (a & c) | (b & c)


@_compile
def _popcount(x: np.uint64) -> np.uint64:
    """Count bits in the one form that LLVM replaces by the processor's instruction."""
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (x * np.uint64(0x0101010101010101)) >> np.uint64(56)


@_compile
def bit_planes(rows: np.ndarray) -> np.ndarray:
    """Turn packed rows, uint8 (n, B), into planes, uint64 (blocks * 8 B * WORDS).

    Bit p of the items of a block lies in WORDS consecutive words. Missing items are zeros.
    """
    n, width = rows.shape
    block_items = 64 * WORDS
    blocks = (n + block_items - 1) // block_items
    planes = np.zeros(blocks * 8 * width * 8 * WORDS, np.uint8)
    for first in range(0, n, 8):
        for b in range(width):
            # Hacker's Delight, Sec. 7-3: transpose 8 items by 8 bits within one word.
            x = _ZERO
            for i in range(min(8, n - first)):
                x |= np.uint64(rows[first + i, b]) << np.uint64(8 * i)
            t = (x ^ (x >> np.uint64(7))) & np.uint64(0x00AA00AA00AA00AA)
            x ^= t ^ (t << np.uint64(7))
            t = (x ^ (x >> np.uint64(14))) & np.uint64(0x0000CCCC0000CCCC)
            x ^= t ^ (t << np.uint64(14))
            t = (x ^ (x >> np.uint64(28))) & np.uint64(0x00000000F0F0F0F0)
            x ^= t ^ (t << np.uint64(28))
            start = ((first // block_items) * width + b) * 64 * WORDS
            column = (first % block_items) // 8
            for p in range(8):  # the first bit of a code is the highest of its byte
                planes[start + p * 8 * WORDS + column] = x >> np.uint64(56 - 8 * p)
    return planes.view(np.uint64)


@_compile
def _mark_relevant(planes: np.ndarray, labels: np.ndarray, out: np.ndarray) -> None:
    """Set out[w] to the items of a block that carry any of the labels."""
    out[:] = _ZERO
    for label in labels:
        plane = planes[label * WORDS : (label + 1) * WORDS]
        for w in range(WORDS):
            out[w] |= plane[w]


@_compile
def _add_byte(planes: np.ndarray, masks: np.ndarray, low: np.ndarray) -> None:
    """Add the differences in eight bits to the three low planes; the carry goes to the fourth."""
    m0, m1, m2, m3 = masks[0], masks[1], masks[2], masks[3]
    m4, m5, m6, m7 = masks[4], masks[5], masks[6], masks[7]
    for w in range(WORDS):
        one, two, four = low[w], low[WORDS + w], low[2 * WORDS + w]
        a, b = planes[w] ^ m0, planes[WORDS + w] ^ m1
        twos_a, one = _carry(one, a, b), _sum(one, a, b)
        a, b = planes[2 * WORDS + w] ^ m2, planes[3 * WORDS + w] ^ m3
        twos_b, one = _carry(one, a, b), _sum(one, a, b)
        fours_a, two = _carry(two, twos_a, twos_b), _sum(two, twos_a, twos_b)
        a, b = planes[4 * WORDS + w] ^ m4, planes[5 * WORDS + w] ^ m5
        twos_a, one = _carry(one, a, b), _sum(one, a, b)
        a, b = planes[6 * WORDS + w] ^ m6, planes[7 * WORDS + w] ^ m7
        twos_b, one = _carry(one, a, b), _sum(one, a, b)
        fours_b, two = _carry(two, twos_a, twos_b), _sum(two, twos_a, twos_b)
        low[w], low[WORDS + w] = one, two
        low[2 * WORDS + w] = _sum(four, fours_a, fours_b)
        low[3 * WORDS + w] = _carry(four, fours_a, fours_b)


@_compile
def _step_eights(high: np.ndarray, carry: np.ndarray, reached: int) -> None:
    """Move the items with a carry one row up; row h of `high` marks the items with h eights."""
    for h in range(reached, 0, -1):
        rows = high[(h - 1) * WORDS : (h + 1) * WORDS]
        for w in range(WORDS):
            rows[WORDS + w] = (rows[w] & carry[w]) | (rows[WORDS + w] & ~carry[w])
    for w in range(WORDS):
        high[w] &= ~carry[w]


@_compile
def _decode_low(low: np.ndarray, out: np.ndarray) -> None:
    """Turn the three low planes into eight rows: row l marks the items whose value is l."""
    for w in range(WORDS):
        one, two, four = low[w], low[WORDS + w], low[2 * WORDS + w]
        value_0, value_1, value_2, value_3 = ~one & ~two, one & ~two, ~one & two, one & two
        out[w], out[WORDS + w] = value_0 & ~four, value_1 & ~four
        out[2 * WORDS + w], out[3 * WORDS + w] = value_2 & ~four, value_3 & ~four
        out[4 * WORDS + w], out[5 * WORDS + w] = value_0 & four, value_1 & four
        out[6 * WORDS + w], out[7 * WORDS + w] = value_2 & four, value_3 & four


@_compile
def count_pairs(  # noqa: PLR0917 (compiled: keywords would cost a dispatch per call)
    planes: np.ndarray,
    label_planes: np.ndarray,
    masks: np.ndarray,
    label_starts: np.ndarray,
    label_ids: np.ndarray,
    items: np.ndarray,
    relevant: np.ndarray,
) -> None:
    """Add the pairs of every query and item to the counts, in place.

    Missing items of the last block count as zero codes without labels.

    Args:
        planes: `bit_planes` of the packed database codes.
        label_planes: `bit_planes` of the packed database labels.
        masks: Query bits, uint64 (q, 8 B): all ones where the bit is set, else zero.
        label_starts: int64 (q + 1,): query i has the labels label_ids[starts[i]:starts[i + 1]].
        label_ids: int64.
        items: int64 (q, K + 1).
        relevant: int64 (q, K + 1).
    """
    width = masks.shape[1] // 8
    blocks = planes.size // (8 * width * WORDS)
    labels_size = label_planes.size // blocks
    scratch = np.empty((4 + 8 + 1 + width + 1) * WORDS, np.uint64)
    low, decoded = scratch[: 4 * WORDS], scratch[4 * WORDS : 12 * WORDS]
    is_relevant, high = scratch[12 * WORDS : 13 * WORDS], scratch[13 * WORDS :]
    for block in range(blocks):
        block_labels = label_planes[block * labels_size : (block + 1) * labels_size]
        for query in range(masks.shape[0]):
            low[:] = _ZERO
            high[:WORDS] = _ONES
            high[WORDS:] = _ZERO
            for b in range(width):
                start = (block * width + b) * 8 * WORDS
                _add_byte(planes[start : start + 8 * WORDS], masks[query, 8 * b : 8 * b + 8], low)
                _step_eights(high, low[3 * WORDS :], b + 1)
            _decode_low(low, decoded)
            _mark_relevant(
                block_labels, label_ids[label_starts[query] : label_starts[query + 1]], is_relevant
            )
            for distance in range(items.shape[1]):
                ones = decoded[(distance & 7) * WORDS : (distance & 7) * WORDS + WORDS]
                eights = high[(distance >> 3) * WORDS : (distance >> 3) * WORDS + WORDS]
                found, found_relevant = _ZERO, _ZERO
                for w in range(WORDS):
                    here = ones[w] & eights[w]
                    found += _popcount(here)
                    found_relevant += _popcount(here & is_relevant[w])
                items[query, distance] += found
                relevant[query, distance] += found_relevant
