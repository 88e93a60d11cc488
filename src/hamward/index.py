"""Packed codes and exact search over them, the ground truth that faster indexes must equal."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self, final

import numpy as np
import torch
from jaxtyping import Int, Int8, UInt8
from torch import Tensor

from hamward.codes import hamming_distance, pack, unpack
from hamward.errors import ConfigError, ShapeError

__all__ = ["HammingIndex", "PackedCodes"]

_CHUNK_QUERIES = 128
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

    @classmethod
    def build(cls, codes: Int8[Tensor, "n _"] | PackedCodes) -> Self:
        """Return an index over a database of codes, on the device of the codes.

        Raises:
            ShapeError: the database is empty or does not hold codes.
        """
        packed = codes if isinstance(codes, PackedCodes) else PackedCodes.from_codes(codes)
        if len(packed) == 0:
            raise ShapeError("the database is empty: an index needs at least one code")
        return cls(packed=packed)

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

        Memory is bounded by the chunk size, whatever the size of the database.

        Args:
            query_codes: Codes of the same victim, on the device of the index.
            k: How many items to return; above the database size, all of it.

        Returns:
            int32 distances and int64 positions, both (q, min(k, n)).

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
        n = len(self)
        best = [
            self._nearest(packed.rows(start, stop), min(k, n))
            for start, stop in _chunks(len(packed), _CHUNK_QUERIES)
        ]
        keys = torch.cat(best) if best else packed.bytes.new_empty((0, min(k, n)), dtype=torch.long)
        return (keys // n).to(torch.int32), keys % n

    def _nearest(self, query: Int8[Tensor, "q k"], k: int) -> Int[Tensor, "q kept"]:
        """Return the k smallest sort keys of each query, ascending.

        The key `distance * n + position` makes the order total, so that no tie is left to `topk`.
        """
        n = len(self)
        best = query.new_empty((len(query), 0), dtype=torch.long)
        for start, stop in _chunks(n, _CHUNK_ITEMS):
            distances = hamming_distance(query, self.packed.rows(start, stop)).long()
            keys = distances * n + torch.arange(start, stop, device=query.device)
            best = torch.cat([best, keys], dim=1)
            best = best.topk(min(k, best.shape[1]), largest=False, sorted=True).values
        return best


def _chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the (start, stop) of consecutive chunks."""
    for start in range(0, total, size):
        yield start, min(start + size, total)
