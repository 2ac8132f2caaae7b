"""The lighter augmentation: small movements, changes of exposure, and of fine detail.

Fine detail tells hospitals' machines and file compression apart at least as well as lungs: in the
public pneumonia images a classifier of twelve radial frequency bands alone reaches an AUROC of
0.97. Random gains of the finest bands take that shortcut away. Which recipe is used where is said
in `augment.py`.
"""

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn, idctn

from orchestrator.model.resample import Resampler

Array = npt.NDArray[Any]

# All ranges of the recipe. "Log" is the natural logarithm of a factor, up and down alike.
FLIP_SHARE = 0.5  # of the images are mirrored, left to right
ROTATION = 10.0 / 360.0  # of a full turn, either way
LOG_ZOOM = 0.10
LOG_ASPECT = 0.05  # width times, height divided
TRANSLATION = 0.06  # of the side, down and across
DETAIL_SHARE = 0.8  # of the images have their detail changed as a whole, by exp(t) ...
DETAIL_LOW, DETAIL_HIGH = -1.0, 0.7  # ... with t between these: blurred to sharpened
BAND_SHARES = (1.0, 0.8, 0.55)  # of t that reach each band, the finest first
LOG_BAND = 0.2  # of each band by itself
LOG_CONTRAST = 0.5  # of the distance from the image's mean
BRIGHTNESS = 0.2  # of the grey range, added
LOG_GAMMA = 0.6  # of the exponent
NUM_DRAWS = 14

_BLURS_PX = (1.0, 3**0.5, 12**0.5)  # one after the other: 1, 2 and 4 px in all


def apply_light(images: Array, draws: Array) -> Array:
    """Returns one lightly augmented view of each image.

    Args:
        images: uint8 [n, S, S].
        draws: float [n, NUM_DRAWS], uniform in 0..1.

    Returns:
        uint8 [n, S, S]; each is a function of its own pixels and draws.
    """
    spread = 2.0 * draws - 1.0  # uniform in [-1, 1)
    x = _move(images, draws)
    x = _change_detail(x, draws[:, 6], draws[:, 7], spread[:, 8:11])
    x = _change_exposure(x, spread[:, 11], spread[:, 12], spread[:, 13])
    augmented: Array = np.rint(x, out=x).astype(np.uint8)
    return augmented


def _move(images: Array, draws: Array) -> Array:
    """Mirrors, turns, zooms and shifts in one resampling; what moves in is black."""
    moved = np.empty(images.shape, np.float32)
    resampler = Resampler(images.shape[1])
    for image, transform, out in zip(
        images, transforms(draws, images.shape[1]), moved, strict=True
    ):
        resampler.resample(image, transform, out, mirror=False)
    return moved


def transforms(draws: Array, size_px: int) -> Array:
    """Returns the movements as affine transforms.

    Args:
        draws: float [n, >= 6], 0..1: mirroring, turn, zoom, aspect, shift down and across; 0.5
            is none.
        size_px: height and width of the images, px.

    Returns:
        float [n, 6], from places in the result to places in the image.
    """
    spread = 2.0 * draws - 1.0
    mirror = np.where(draws[:, 0] < FLIP_SHARE, -1.0, 1.0)
    angle = 2.0 * np.pi * ROTATION * spread[:, 1]
    zoom, aspect = np.exp(LOG_ZOOM * spread[:, 2]), np.exp(LOG_ASPECT * spread[:, 3])
    down, across = (TRANSLATION * size_px * spread[:, index] for index in (4, 5))
    wide, high = mirror * zoom * aspect, zoom / aspect
    a, b = wide * np.cos(angle), -wide * np.sin(angle)
    c, d = high * np.sin(angle), high * np.cos(angle)
    centre = 0.5 * (size_px - 1)
    return np.stack(
        [
            *(a, b, centre * (1.0 - a - b) + across),
            *(c, d, centre * (1.0 - c - d) + down),
        ],
        axis=1,
    )


def _change_detail(x: Array, chosen: Array, place: Array, bands: Array) -> Array:
    """Splits each image into three bands of detail and a blurred rest; weights them in place.

    A blur with mirrored edges multiplies the coefficients of the cosine transform, so that all of
    them together are one multiplication there. Image by image, since the order of additions in a
    transform of several depends on how many there are.
    """
    t = np.where(chosen < DETAIL_SHARE, DETAIL_LOW + (DETAIL_HIGH - DETAIL_LOW) * place, 0.0)
    gains = np.exp(np.outer(t, BAND_SHARES) + LOG_BAND * bands).astype(np.float32)
    *band_shares, rest = _shares(x.shape[1])
    for index, image in enumerate(x):
        weights = rest + sum(
            gain * share for gain, share in zip(gains[index], band_shares, strict=True)
        )
        x[index] = idctn(dctn(image, norm="ortho") * weights, norm="ortho")
    return x


@cache
def _shares(size_px: int) -> tuple[Array, ...]:
    """Of each coefficient, float32 [S, S], what each band of detail holds, the finest first, and
    what passes all blurs: Gaussian ones cut at three standard deviations."""
    passed = [np.ones((size_px, size_px))]
    for sigma_px in _BLURS_PX:
        places = np.arange(-int(3 * sigma_px + 0.5), int(3 * sigma_px + 0.5) + 1)
        kernel = np.exp(-0.5 * (places / sigma_px) ** 2)
        waves = np.cos(np.pi * np.outer(np.arange(size_px), places) / size_px)
        factor = waves @ (kernel / kernel.sum())
        passed.append(passed[-1] * np.outer(factor, factor))
    bands = [finer - coarser for finer, coarser in pairwise(passed)]
    return tuple(share.astype(np.float32) for share in (*bands, passed[-1]))


def _change_exposure(x: Array, contrast: Array, brightness: Array, gamma: Array) -> Array:
    """Contrast about the mean, brightness, gamma; clipped to 0..255; in place."""
    factor = np.exp(LOG_CONTRAST * contrast)
    offset = (1.0 - factor) * x.mean(
        axis=(1, 2), dtype=np.float64
    ) + 255.0 * BRIGHTNESS * brightness
    factor, offset, exponent = (
        v.astype(np.float32).reshape(-1, 1, 1) for v in (factor, offset, np.exp(LOG_GAMMA * gamma))
    )
    x *= factor
    x += offset
    np.clip(x, 0, 255, out=x)
    x /= np.float32(255)
    np.power(x, exponent, out=x)
    x *= np.float32(255)
    return x
