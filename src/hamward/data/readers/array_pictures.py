"""Pictures stored as one 4-d array, read in blocks and shown upright."""

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hamward.data.readers.arrays import Stored
from hamward.errors import DataError

__all__ = ["ArrayPictures"]

_BLOCK = 1 << 25  # bytes
_MOST = 1024


class ArrayPictures:
    """Pictures of a 4-d array, read when asked for; several threads may read.

    Reading goes by blocks of items, because a v7.3 file with the items on the last axis holds
    one picture in as many pieces as it has values. The last two blocks are kept.
    """

    def __init__(
        self, stored: Stored, axis: int, *, reversed_axes: bool, transposed: bool | None
    ) -> None:
        """Find out how the array holds pictures.

        Args:
            stored: The array.
            axis: Axis of the items.
            reversed_axes: Whether the file shows MATLAB's axes in reverse.
            transposed: Whether the first spatial axis of the file is the width; None decides
                (see `stored_transposed`).

        Raises:
            DataError: no axis holds three channels, or the values are no picture's.
        """
        self._stored, self._axis = stored, axis
        others = [i for i in range(4) if i != axis]
        channels = [i for i in others if stored.shape[i] == 3]
        if len(channels) != 1:
            raise DataError(f"{stored}: pictures need exactly one axis of size 3 for RGB")
        rows, columns = (i for i in others if i != channels[0])
        if transposed is None:
            transposed = stored_transposed(axis, channels[0], reversed_axes=reversed_axes)
        if transposed:
            rows, columns = columns, rows
        self._order = (axis, rows, columns, channels[0])
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._scale, width = self._sample()
        size = int(np.prod([stored.shape[i] for i in others])) * width
        self._step = min(_MOST, max(1, _BLOCK // size))

    def __len__(self) -> int:
        return self._stored.shape[self._axis]

    def read(self, position: int) -> Image.Image:
        """Return a picture.

        Raises:
            DataError: the file is damaged, or the values leave the range of the others.
        """
        return Image.fromarray(self.array(position))

    def array(self, position: int) -> NDArray[np.uint8]:
        """Return a picture as uint8 (H, W, 3)."""
        if not 0 <= position < len(self):
            raise DataError(f"{self._stored}: no picture {position}")
        number = position // self._step
        with self._lock:
            if number not in self._cache:
                self._cache[number] = self._load(number)
                while len(self._cache) > 2:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(number)
            picture: NDArray[np.uint8] = self._cache[number][position % self._step]
            return picture

    def _raw(self, start: int, stop: int) -> NDArray[np.generic]:
        index = [slice(None)] * 4
        index[self._axis] = slice(start, stop)
        return self._stored.part(tuple(index)).transpose(self._order)

    def _load(self, number: int) -> NDArray[np.uint8]:
        raw = self._raw(number * self._step, (number + 1) * self._step)
        if raw.dtype == np.uint8:
            return np.ascontiguousarray(raw)
        values = np.asarray(raw, dtype=np.float32) * self._scale
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 255.5):
            raise DataError(
                f"{self._stored}: pictures {number * self._step}.. have values "
                f"{values.min():g}..{values.max():g}, outside 0..255; mean-subtracted or "
                "normalized pictures are not supported"
            )
        return np.ascontiguousarray(np.rint(values).clip(0, 255).astype(np.uint8))

    def _sample(self) -> tuple[float, int]:
        """Return the factor to 0..255, 255 if sampled floats lie in 0..1, and bytes a value."""
        high = 0.0
        for start in sorted({0, len(self) // 2, max(0, len(self) - 8)}):
            raw = self._raw(start, start + 8)
            if raw.dtype.kind != "f":
                return 1.0, raw.dtype.itemsize
            high = max(high, float(np.asarray(raw, dtype=np.float64).max(initial=0)))
        return (255.0 if high <= 1 else 1.0), raw.dtype.itemsize


def stored_transposed(axis: int, channel: int, *, reversed_axes: bool) -> bool:
    """Decide whether width comes before height in the file.

    MATLAB holds (H, W, 3, N), and where its axes are reversed they read (N, 3, W, H): certain for
    what MATLAB wrote. Every other order is taken as the repositories' loaders use it, height
    first: INFERRED for (N, 3, a, b) of re-saved files and for (a, b, 3, N) of EQB2A, TA-DCH, FPAD
    and BMC-SDNU, whose pictures are square, so that no shape contradicts it.
    """
    return reversed_axes and axis == 0 and channel == 1
