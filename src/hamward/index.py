"""Packed codes and exact search over them, the ground truth that faster indexes must equal."""

from dataclasses import dataclass
from typing import Self, final

import numpy as np
import torch
from jaxtyping import Int, Int8, UInt8
from torch import Tensor

from hamward.codes import pack, unpack
from hamward.errors import ConfigError, ShapeError

__all__ = ["HammingIndex", "PackedCodes"]

_CHUNK_ITEMS = 65_536


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedCodes:
    """Codes at one bit per bit, with the length that the padding hides.

    Attributes:
        bytes: uint8 (n, ceil(K/8)), first bit first, zero-padded, as `hamward.codes.pack` makes.
        code_length: K.
    """

    bytes: UInt8[Tensor, "n _"]
    code_length: int

    def __post_init__(self) -> None:
        width = -(-self.code_length // 8)
        if self.code_length < 1:
            raise ShapeError(f"code_length must be at least 1, got {self.code_length}")
        if self.bytes.dtype != torch.uint8 or self.bytes.ndim != 2 or self.bytes.shape[1] != width:
            raise ShapeError(
                f"packed codes of {self.code_length} bits must be uint8 (n, {width}), got "
                f"{self.bytes.dtype} {tuple(self.bytes.shape)}"
            )
        padding = 8 * width - self.code_length
        if bool((self.bytes[:, -1] & ((1 << padding) - 1)).any()):
            raise ShapeError(
                f"the last {padding} bits of each packed row must be 0 padding: is code_length "
                f"{self.code_length} right?"
            )

    @classmethod
    def from_codes(cls, codes: Int8[Tensor, "n _"]) -> Self:
        """Pack codes after checking that they are codes.

        Raises:
            ShapeError: not int8 (n, K) with K >= 1 and values in {-1, +1}.
        """
        if codes.dtype != torch.int8 or codes.ndim != 2 or codes.shape[1] < 1:
            raise ShapeError(
                f"codes must be int8 (n, K) with K >= 1, got {codes.dtype} {tuple(codes.shape)}: "
                "make them with hamward.codes.binarize"
            )
        if codes.device.type == "cpu":  # numpy packs tens of times faster than the torch sum
            values = codes.numpy()
            valid = bool((np.abs(values) == 1).all())
            packed = torch.from_numpy(np.packbits(values > 0, axis=1))
        else:
            valid = bool((codes.abs() == 1).all())
            packed = pack(codes)
        if not valid:
            raise ShapeError(
                "codes must be in {-1, +1}, got another value: make them with "
                "hamward.codes.binarize, because torch.sign gives 0 at 0"
            )
        return cls(bytes=packed, code_length=codes.shape[1])

    def __len__(self) -> int:
        return int(self.bytes.shape[0])

    def rows(self, start: int, stop: int) -> Int8[Tensor, "n k"]:
        """Return the int8 codes of rows [start, stop)."""
        return unpack(self.bytes[start:stop], code_length=self.code_length)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HammingIndex:
    """Exact search by Hamming distance, ties by database position.

    Attributes:
        packed: The database.

    Example:
        >>> database = torch.tensor([[1, 1], [-1, -1], [1, 1]], dtype=torch.int8)
        >>> distances, positions = HammingIndex.build(database).search(database[:1], 2)
        >>> distances.tolist(), positions.tolist()
        ([[0, 0]], [[0, 2]])
    """

    packed: PackedCodes

    def __post_init__(self) -> None:
        if len(self.packed) == 0:
            raise ShapeError("the database is empty: an index needs at least one code")

    @classmethod
    def build(cls, codes: Int8[Tensor, "n _"] | PackedCodes) -> Self:
        """Return an index over a database of codes.

        Raises:
            ShapeError: the database is empty or does not hold codes.
        """
        return cls(
            packed=codes if isinstance(codes, PackedCodes) else PackedCodes.from_codes(codes)
        )

    @property
    def code_length(self) -> int:
        """K."""
        return self.packed.code_length

    def __len__(self) -> int:
        return len(self.packed)

    def search(
        self, query_codes: Int8[Tensor, "q _"] | PackedCodes, k: int
    ) -> tuple[Int[Tensor, "q kept"], Int[Tensor, "q kept"]]:
        """Return the k nearest items of each query, ordered by (distance, database position).

        The search runs on the CPU, one query at a time, so that only one query's distances
        are in memory.

        Args:
            query_codes: Codes of the same victim.
            k: How many items to return; above the database size, all of it.

        Returns:
            int32 distances and int64 positions, both (q, min(k, n)), on the device of the queries.

        Raises:
            ShapeError: the code lengths differ.
            ConfigError: k is below 1.
        """
        packed = (
            query_codes
            if isinstance(query_codes, PackedCodes)
            else PackedCodes.from_codes(query_codes)
        )
        if packed.code_length != self.code_length:
            raise ShapeError(
                f"the victim's query codes have {packed.code_length} bits, the index "
                f"{self.code_length}: encode both with the same victim"
            )
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        kept = min(k, len(self))
        distances = np.empty((len(packed), kept), np.int32)
        positions = np.empty((len(packed), kept), np.int64)
        database = _words(self.packed)
        for row, query in enumerate(_words(packed).T):
            every = _distances(query, database, code_length=self.code_length)
            cut = np.bincount(every).cumsum().searchsorted(kept)
            near = np.flatnonzero(every <= cut)
            order = near[every[near].argsort(kind="stable")[:kept]]
            distances[row], positions[row] = every[order], order
        device = packed.bytes.device
        return torch.from_numpy(distances).to(device), torch.from_numpy(positions).to(device)


def _words(packed: PackedCodes) -> np.ndarray:
    """Return packed codes as 64-bit words, uint64 (ceil(K/64), n): one row a word."""
    rows = packed.bytes.cpu().numpy()
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8)))
    return np.ascontiguousarray(padded.view(np.uint64).T)


def _distances(query: np.ndarray, database: np.ndarray, *, code_length: int) -> np.ndarray:
    """Return the distances of one query in the smallest unsigned type, (n,)."""
    distances = np.zeros(database.shape[1], np.min_scalar_type(code_length))
    for start in range(0, len(distances), _CHUNK_ITEMS):
        rows = slice(start, start + _CHUNK_ITEMS)
        for word, bits in zip(query, database, strict=True):
            distances[rows] += np.bitwise_count(bits[rows] ^ word)
    return distances
