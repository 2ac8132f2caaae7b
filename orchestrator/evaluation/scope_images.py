"""What the gate looks at of an image beside its features: shape, grey levels, a thumbnail."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.float64]

# Width, height and width over height of the file; mean grey level of the thumbnail, the levels that
# 5% of it are darker and brighter than; correlation with the mean thumbnail of the training.
IMAGE_FIGURES = ("width_px", "height_px", "aspect", "brightness", "dark", "bright", "likeness")
_THUMB_PX = 32


@dataclass(frozen=True)
class ScopeImages:
    """What is looked at of some images beside their features.

    Attributes:
        thumbnails: uint8 [N, 32, 32], of the images as the model sees them.
        width_px: int [N], of the files.
        height_px: int [N], of the files.
    """

    thumbnails: npt.NDArray[np.uint8]
    width_px: npt.NDArray[np.int64]
    height_px: npt.NDArray[np.int64]


def make_thumbnails(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Returns images averaged to 32 x 32 px.

    Args:
        images: uint8 [N, S, S].

    Returns:
        uint8 [N, 32, 32].
    """
    size = (_THUMB_PX, _THUMB_PX)
    small = [Image.fromarray(one).resize(size, Image.Resampling.BOX) for one in images]
    return np.array([np.asarray(one) for one in small], np.uint8).reshape(-1, *size)


def image_figures(images: ScopeImages, template: Array) -> dict[str, Array]:
    """Returns each of `IMAGE_FIGURES` of some images, float64 [N].

    Args:
        images: the images.
        template: a mean thumbnail, [1024], of length 1.
    """
    flat = images.thumbnails.reshape(len(images.thumbnails), -1).astype(np.float64)
    dark, bright = np.quantile(flat, (0.05, 0.95), axis=1)
    width, height = (of.astype(np.float64) for of in (images.width_px, images.height_px))
    likeness = unit_thumbnails(images.thumbnails) @ template
    of = (width, height, width / height, flat.mean(axis=1), dark, bright, likeness)
    return dict(zip(IMAGE_FIGURES, of, strict=True))


def unit_thumbnails(thumbnails: npt.NDArray[np.uint8]) -> Array:
    """Returns each thumbnail as a row of mean 0 and length 1, all zeros where it is one grey."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    unit: Array = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    return unit
