"""Pictures: from a file's bytes to a square of pixels, and through JPEG and back."""

import io
import struct

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from hamward.errors import DataError

__all__ = ["JPEG_QUALITIES", "as_jpeg", "open_picture", "square"]

JPEG_QUALITIES = range(1, 96)
"""Above 95 Pillow's files only grow."""

_DRAFT_GAP = 2


def open_picture(content: bytes, *, at_least: int = 0, upright: bool = False) -> Image.Image:
    """Decode a picture as RGB, transparency on white.

    Args:
        content: The bytes of a picture file.
        at_least: If positive, a JPEG may come smaller, scaled inside the decoder, but at least
            twice this long on its shorter side: the resize that follows still averages, so the
            pixels stay close to those of a full decode.
        upright: Turn the picture as its EXIF orientation says.

    Raises:
        DataError: not a picture, or a damaged one.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            if at_least:
                picture.draft(None, (_DRAFT_GAP * at_least, _DRAFT_GAP * at_least))
            turned = ImageOps.exif_transpose(picture) if upright else picture
            if turned.has_transparency_data:
                solid = turned.convert("RGBA")
                paper = Image.new("RGBA", solid.size, (255, 255, 255, 255))
                return Image.alpha_composite(paper, solid).convert("RGB")
            return turned.convert("RGB")
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        text = str(error).replace("<_io.BytesIO object at ", "the content at ").split(" at 0x")[0]
        raise DataError(f"not a readable picture ({text}; {len(content)} bytes)") from error


def square(picture: Image.Image, side: int) -> NDArray[np.uint8]:
    """Resize the shorter side and cut out the middle, uint8 (3, side, side), a strided view.

    Bicubic, which Pillow antialiases, in one step: the box is the largest square in the middle.
    """
    width, height = picture.size
    edge = min(width, height)
    left, top = (width - edge) / 2, (height - edge) / 2
    small = picture.resize(
        (side, side), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge)
    )
    return np.asarray(small).transpose(2, 0, 1)


def as_jpeg(x: Float[Tensor, "n 3 h w"], quality: int) -> Float[Tensor, "n 3 h w"]:
    """Return pictures in [0, 1] after one JPEG encoding and decoding (4:2:0, as most files are)."""
    levels = torch.round(x * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    made = []
    for pixels in levels:
        held = io.BytesIO()
        Image.fromarray(pixels).save(held, "JPEG", quality=quality, subsampling="4:2:0")
        with Image.open(held) as image:
            made.append(np.asarray(image.convert("RGB")))
    if not made:
        return x
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).to(x) / 255
