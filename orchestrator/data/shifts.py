"""Shifted copies of images: what another site's machines and habits do to a radiograph.

The threshold may be chosen on such copies of the validation images, and robustness be measured.
They are fixed, not random; augmentation of training images is in `orchestrator.model`.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from orchestrator.data.shard_files import Images

_BLUR_PX = 1.5
_CROP = 0.85
_PAD = 1.15
_TURN_DEG = 10.0


def _to_grey(values: np.ndarray) -> Images:
    grey: Images = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return grey


def _by_grey(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Images], Images]:
    """A shift that maps each grey level, given 0..255 as float, to another."""
    table = _to_grey(change(np.arange(256.0)))
    return lambda images: table[images]


def _by_image(change: Callable[[Image.Image], Image.Image]) -> Callable[[Images], Images]:
    """A shift made with Pillow, one image at a time."""
    return lambda images: np.stack([np.asarray(change(Image.fromarray(one))) for one in images])


def _blurred(images: Images) -> np.ndarray:
    return np.stack([gaussian_filter(one.astype(np.float32), _BLUR_PX) for one in images])


def _blur(images: Images) -> Images:
    return _to_grey(_blurred(images))


def _sharpen(images: Images) -> Images:
    return _to_grey(2.0 * images.astype(np.float32) - _blurred(images))


def _half(image: Image.Image) -> Image.Image:
    side = image.width
    small = image.resize((side // 2, side // 2), Image.Resampling.BILINEAR)
    return small.resize((side, side), Image.Resampling.BILINEAR)


def _scaled(image: Image.Image, share: float) -> Image.Image:
    """Shows the middle `share` of the side; more than 1 adds a black border."""
    side = image.width
    margin = round((1.0 - share) / 2.0 * side)
    box = (margin, margin, side - margin, side - margin)
    return image.crop(box).resize((side, side), Image.Resampling.BILINEAR)


SHIFTS: dict[str, Callable[[Images], Images]] = {
    "gamma 0.6": _by_grey(lambda grey: 255.0 * (grey / 255.0) ** 0.6),
    "gamma 1.6": _by_grey(lambda grey: 255.0 * (grey / 255.0) ** 1.6),
    "contrast 0.6": _by_grey(lambda grey: 127.0 + 0.6 * (grey - 127.0)),
    "blur": _blur,
    "half size": _by_image(_half),
    "sharp": _sharpen,
    "crop": _by_image(lambda image: _scaled(image, _CROP)),
    "pad": _by_image(lambda image: _scaled(image, _PAD)),
    "turn": _by_image(lambda image: image.rotate(_TURN_DEG, Image.Resampling.BILINEAR)),
}
"""Name -> a function of images uint8 [N, S, S] that returns as many of the same shape."""
