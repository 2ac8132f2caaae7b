"""Augmentation of training images: the paper's Table II, as Keras's layers compute it.

A lighter recipe, with its ranges, is in `light.py`; `augment` applies either.

Keras draws what to do to an image from a generator that runs along the batch. Here the draws come
from (seed, row, view) instead: an augmented view of an image is then the same whatever batch,
worker or resumed run it is made in, and cached features equal live training. No framework is
loaded: workers that compute features need none.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import SpecError
from orchestrator.model.light import NUM_DRAWS, apply_light
from orchestrator.model.resample import Resampler

Array = npt.NDArray[Any]

ROTATION = 0.2  # of a full turn either way
CONTRAST = 0.2  # of the distance from the image's mean
ZOOM = 0.2  # of the side, in and out, aspect kept
BRIGHTNESS = 0.2  # of the grey range, added
TRANSLATION = 0.1  # of the side, down and across

RECIPES = ("paper", "light")
_NUM_DRAWS = 8
_CHUNK = 32  # images at a time, to bound memory


def augment(images: Array, rows: Array, view: int, seed: int, *, recipe: str = "paper") -> Array:
    """Returns one augmented view of each image.

    Args:
        images: uint8 [N, S, S].
        rows: int64 [N], the images' manifest rows, >= 0.
        view: number of the view, e.g. the epoch in live training, >= 0.
        seed: of the run, >= 0.
        recipe: one of `RECIPES`.

    Returns:
        uint8 [N, S, S], in the order of the images. Each is a function of its own pixels, its
        row, `view` and `seed` alone.

    Raises:
        SpecError: shapes or dtype differ from the above, or an unknown recipe.
    """
    if recipe not in RECIPES:
        raise SpecError(f"unknown augmentation {recipe!r}; expected one of {', '.join(RECIPES)}")
    if images.dtype != np.uint8 or images.ndim != 3 or len(images) != len(rows):
        raise SpecError(
            f"augment received {images.dtype} {list(images.shape)} and {len(rows)} rows; expected "
            "uint8 [N, S, S] and N rows"
        )
    out = np.empty_like(images)
    for start in range(0, len(images), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        if recipe == "light":
            draws = _draws(rows[chunk], view, seed, NUM_DRAWS)
            out[chunk] = apply_light(images[chunk], draws)
        else:
            draws = _draws(rows[chunk], view, seed, _NUM_DRAWS)
            out[chunk] = _augment_paper(images[chunk], draws)
    return out


def _draws(rows: Array, view: int, seed: int, number: int) -> Array:
    """Uniform draws in [0, 1), float64 [N, number]; row n depends on (seed, rows[n], view)."""
    return np.stack([np.random.default_rng([seed, int(row), view]).random(number) for row in rows])


def _augment_paper(images: Array, draws: Array) -> Array:
    """Makes one view of each image by Table II, in its order, the flips last.

    What moves in from outside an image is the image mirrored at its edges, Keras's default.

    Args:
        images: uint8 [n, S, S].
        draws: float [n, 8], uniform in 0..1; 0.5 changes nothing.

    Returns:
        uint8 [n, S, S]; rounded once, at the end.
    """
    size_px = images.shape[1]
    resampler = Resampler(size_px)
    turns, zooms, shifts = _transforms(draws, size_px)
    spread = 2.0 * draws - 1.0  # uniform in [-1, 1)
    factors = 1.0 + CONTRAST * spread[:, 6]
    added = 255.0 * BRIGHTNESS * spread[:, 7]
    x = np.empty((size_px, size_px), np.float32)
    out = np.empty_like(images)
    for index, image in enumerate(images):
        resampler.resample(image, turns[index], x, mirror=True)
        factor, mean = factors[index], x.mean(dtype=np.float64)
        x *= np.float32(factor)
        x += np.float32((1.0 - factor) * mean)
        np.clip(x, 0, 255, out=x)
        resampler.resample(x, zooms[index], x, mirror=True)
        x += np.float32(added[index])
        np.clip(x, 0, 255, out=x)
        resampler.resample(x, shifts[index], x, mirror=True)
        across, down = (-1 if draw < 0.5 else 1 for draw in draws[index, :2])
        out[index] = np.rint(x, out=x)[::down, ::across]
    return out


def _transforms(draws: Array, size_px: int) -> tuple[Array, Array, Array]:
    """Rotation and zoom about the centre, and translation, each [n, 6] as `Resampler` takes it."""
    spread = 2.0 * draws - 1.0
    angle = 2.0 * np.pi * ROTATION * spread[:, 2]
    cos, sin = np.cos(angle), np.sin(angle)
    zoom = 1.0 + ZOOM * spread[:, 3]
    down, across = (TRANSLATION * size_px * spread[:, index] for index in (4, 5))
    centre, zero, one = 0.5 * (size_px - 1), np.zeros_like(zoom), np.ones_like(zoom)
    shift_x, shift_y = centre * (1.0 - cos + sin), centre * (1.0 - sin - cos)
    inset = centre * (1.0 - zoom)
    return (
        np.stack([cos, -sin, shift_x, sin, cos, shift_y], axis=1),
        np.stack([zoom, zero, inset, zero, zoom, inset], axis=1),
        np.stack([one, zero, -across, zero, one, -down], axis=1),
    )
