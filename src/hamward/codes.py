"""Binary codes: from logits to {-1, +1}, to packed bytes, to Hamming distances."""

import torch
from jaxtyping import Float, Int, Int8, UInt8
from torch import Tensor

from hamward.errors import ShapeError

__all__ = ["SATURATION", "binarize", "hamming_distance", "pack", "unpack"]

SATURATION = 9.011
"""Magnitude of a logit beyond which 1 - tanh(u)^2 is exactly 0 in float32."""


def binarize(logits: Float[Tensor, "n k"]) -> Int8[Tensor, "n k"]:
    """Return the code of each row: +1 where the logit is >= 0, else -1.

    `torch.sign` would give 0 at 0 and with it half distances.

    Args:
        logits: (n, K) logits or relaxed codes; NaN is refused.

    Returns:
        int8 codes in {-1, +1}, (n, K).

    Raises:
        ShapeError: a logit is NaN.

    Example:
        >>> binarize(torch.tensor([[0.0, -2.0, 3.0]])).tolist()
        [[1, -1, 1]]
    """
    if torch.isnan(logits).any():
        raise ShapeError("logits contain NaN: the model diverged or its weights are damaged")
    return torch.where(logits >= 0, 1, -1).to(torch.int8)


def pack(codes: Int8[Tensor, "n k"]) -> UInt8[Tensor, "n bytes"]:
    """Pack codes into bytes, first bit first (big endian), zero-padded to whole bytes.

    Example:
        >>> pack(torch.tensor([[1, -1, -1, -1, -1, -1, -1, 1, 1]], dtype=torch.int8)).tolist()
        [[129, 128]]
    """
    n, code_length = codes.shape
    bits = (codes > 0).to(torch.uint8)
    padding = -code_length % 8
    bits = torch.nn.functional.pad(bits, (0, padding)).reshape(n, (code_length + padding) // 8, 8)
    weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=codes.device)
    return (bits * weights).sum(-1, dtype=torch.uint8)


def unpack(packed: UInt8[Tensor, "n bytes"], *, code_length: int) -> Int8[Tensor, "n k"]:
    """Return the int8 codes that `pack` packed.

    Raises:
        ShapeError: the rows do not have ceil(code_length / 8) bytes.
    """
    if packed.shape[1] != -(-code_length // 8):
        raise ShapeError(
            f"packed codes have {packed.shape[1]} bytes per row, but code_length {code_length} "
            f"needs {-(-code_length // 8)}"
        )
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    bits = (packed.unsqueeze(-1) >> shifts) & 1
    bits = bits.flatten(1)[:, :code_length]
    return (bits.to(torch.int8) * 2 - 1).to(torch.int8)


def hamming_distance(
    query: Int8[Tensor, "q k"], database: Int8[Tensor, "n k"]
) -> Int[Tensor, "q n"]:
    """Return all pairwise Hamming distances (K - b.b') / 2 as int32, (q, n).

    Raises:
        ShapeError: the code lengths differ.
    """
    if query.shape[1] != database.shape[1]:
        raise ShapeError(
            f"query codes have {query.shape[1]} bits, database codes {database.shape[1]}: "
            "encode both with the same victim"
        )
    inner = query.float() @ database.float().T
    return ((query.shape[1] - inner) / 2).to(torch.int32)
