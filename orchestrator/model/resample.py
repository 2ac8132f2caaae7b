"""Images seen through affine transforms, in NumPy, one at a time, so that all fits a core's cache.

No framework is loaded, and products and sums are rounded one by one, so that machines of
one kind compute the same pixels, however they divide the images.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_CORNERS = ((0, 0), (0, -1), (-1, 0), (-1, -1))


class Resampler:
    """Resamples images of one size; of one thread.

    It keeps the arrays that it computes in: the C library gives blocks of their size back to the
    system, and having them anew took longer than the arithmetic.

    Args:
        size_px: height and width of the images, px.
    """

    def __init__(self, size_px: int) -> None:
        self._size = size_px
        self._steps = np.arange(size_px, dtype=np.float64)
        shape = (size_px, size_px)
        self._x, self._y, self._whole, self._right, self._above = np.empty((5, *shape), np.float32)
        self._place, self._column = np.empty((2, *shape), np.intp)
        self._bordered = np.empty(0, np.float32)

    def resample(self, image: Array, transform: Array, out: Array, *, mirror: bool) -> None:
        """Computes an image as a transform shows it, bilinear between pixels.

        Args:
            image: [S, S].
            transform: float [6], from a place (x, y) in the result to (t0 x + t1 y + t2,
                t3 x + t4 y + t5) in the image, px, as Keras has it.
            out: float32 [S, S], may be the image.
            mirror: whether the image, mirrored at its edges, is seen outside it; black otherwise.
        """
        x, y = self._x, self._y
        for part, (along, down, first) in zip((x, y), transform.reshape(2, 3), strict=True):
            columns, rows = along * self._steps, down * self._steps + first
            np.add(columns.astype(np.float32), rows.astype(np.float32)[:, np.newaxis], out=part)
        corners = np.stack([part[row, column] for part in (x, y) for row, column in _CORNERS])
        outside = max(-corners.min(), corners.max() - (self._size - 1), 0.0)
        border = 1 + math.ceil(outside)
        width = self._size + 2 * border
        pixels = self._add_border(image, border, mirror)
        place = self._split(y, self._place)
        place += border
        place *= width
        place += self._split(x, self._column)
        place += border
        above = self._between(pixels, x, self._above)
        below = self._between(pixels[width:], x, out)
        _blend(above, below, y)

    def _split(self, coordinate: Array, whole: Array) -> Array:
        """Leaves a coordinate's fraction in place; returns what is left out."""
        np.floor(coordinate, out=self._whole)
        coordinate -= self._whole
        whole[...] = self._whole
        return whole

    def _between(self, pixels: Array, share: Array, out: Array) -> Array:
        """Returns what lies at `place` and a share of the way to the pixel on its right."""
        # Every place is inside; the default mode, which checks, would copy.
        pixels[:-1].take(self._place, out=self._right, mode="clip")
        pixels[1:].take(self._place, out=out, mode="clip")
        return _blend(self._right, out, share)

    def _add_border(self, image: Array, border: int, mirror: bool) -> Array:
        """Returns the pixels, float32 [(S + 2 border)^2], row by row."""
        width = self._size + 2 * border
        if self._bordered.size < width * width:
            self._bordered = np.empty(width * width, np.float32)
        pixels = self._bordered[: width * width]
        bordered = pixels.reshape(width, width)
        if not mirror:
            bordered.fill(0)
        bordered[border:-border, border:-border] = image
        if mirror:
            for lines in (bordered, bordered.T):
                lines[:border] = lines[2 * border - 1 : border - 1 : -1]
                lines[-border:] = lines[-border - 1 : -2 * border - 1 : -1]
        return pixels


def _blend(first: Array, second: Array, share: Array) -> Array:
    """Overwrites the second of two values by what is a share of the way to it; returns it."""
    second -= first
    second *= share
    second += first
    return second
