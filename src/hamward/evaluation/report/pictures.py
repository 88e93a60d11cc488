"""Pictures as data URIs: exact where the pixels are the point, small where they orient."""

import base64
import io

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

__all__ = ["amplified", "exact", "levels_of", "thumbnail"]

_THUMBNAIL = 64


def levels_of(x: Float[Tensor, "3 h w"]) -> NDArray[np.uint8]:
    """Return a picture in [0, 1] that is on the 8-bit grid as its levels."""
    levels: NDArray[np.uint8] = (x * 255).round().clamp(0, 255).byte().cpu().numpy()
    return levels


def exact(levels: UInt8[NDArray[np.uint8], "3 h w"]) -> str:
    """Return a data URI with exactly these pixels."""
    return _webp(levels, lossless=True)


def thumbnail(levels: UInt8[NDArray[np.uint8], "3 h w"]) -> str:
    """Return a data URI for orientation: exact if small, else scaled down and compressed."""
    if max(levels.shape[1:]) <= _THUMBNAIL:
        return _webp(levels, lossless=True)
    picture = Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)))
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return _webp(np.asarray(picture).transpose(2, 0, 1), lossless=False)


def amplified(
    adversarial: NDArray[np.uint8], clean: NDArray[np.uint8], *, linf: float
) -> tuple[NDArray[np.uint8], int]:
    """Return the difference around mid-gray, amplified as far as the budget allows.

    Args:
        adversarial: Levels after the attack.
        clean: Levels before.
        linf: Largest change in [0, 1] that any picture shown beside it has.

    Returns:
        Levels of 128 + factor * difference, and the factor: the same for the same `linf`.
    """
    factor = max(1, round(128 / max(linf * 255, 1)))
    difference = adversarial.astype(np.int32) - clean.astype(np.int32)
    return np.clip(128 + factor * difference, 0, 255).astype(np.uint8), factor


def _webp(levels: NDArray[np.uint8], *, lossless: bool) -> str:
    stream = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)))
    picture.save(stream, "WEBP", lossless=lossless, quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
