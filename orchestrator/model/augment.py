"""Augmentation of training images: the paper's Table II as Keras's own layers.

A lighter recipe, with its ranges, is in `light.py`; `augment` applies either.

Keras draws what to do to an image from a generator that runs along the batch. Here the draws come
from (seed, row, view) instead, and the layers are told what to do: an augmented view of an image
is then the same whatever batch, worker or resumed run it is made in, and cached features equal
live training.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import SpecError
from orchestrator.model.light import NUM_DRAWS, apply_light

if TYPE_CHECKING:
    import keras

Array = npt.NDArray[Any]

ROTATION = 0.2  # of a full turn either way
CONTRAST = 0.2  # of the distance from the image's mean
ZOOM = 0.2  # of the side, in and out, aspect kept
BRIGHTNESS = 0.2  # of the grey range, added
TRANSLATION = 0.1  # of the side, down and across

RECIPES = ("paper", "light")
_NUM_DRAWS = 8
_CHUNK = 32  # images at a time, to bound memory


def build_augmentation() -> dict[str, "keras.layers.Layer"]:
    """Builds the layers of the paper's Table II, in the order they are applied.

    That order is Table II's, the flips last. Points that move in from outside the image are filled
    by reflection, Keras's default. Flips are two layers: Keras's single one for both axes flips
    both or neither.

    Returns:
        Name -> layer, for images [N, S, S, 1] with grey levels 0..255.
    """
    import keras

    grey = (0, 255)
    return {
        "rotation": keras.layers.RandomRotation(ROTATION),
        # A single factor would only raise contrast in this release of Keras, against its
        # documentation; a pair is (down, up).
        "contrast": keras.layers.RandomContrast((CONTRAST, CONTRAST), value_range=grey),
        "zoom": keras.layers.RandomZoom(ZOOM),
        "brightness": keras.layers.RandomBrightness(BRIGHTNESS, value_range=grey),
        "translation": keras.layers.RandomTranslation(TRANSLATION, TRANSLATION),
        "flip_horizontal": keras.layers.RandomFlip("horizontal"),
        "flip_vertical": keras.layers.RandomFlip("vertical"),
    }


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
            out[chunk] = _apply(images[chunk], transformations(draws, images.shape[1]))
    return out


def _draws(rows: Array, view: int, seed: int, number: int) -> Array:
    """Uniform draws in [0, 1), float64 [N, number]; row n depends on (seed, rows[n], view)."""
    return np.stack([np.random.default_rng([seed, int(row), view]).random(number) for row in rows])


def transformations(draws: Array, size_px: int) -> dict[str, dict[str, Array]]:
    """Turns uniform draws into what Keras's layers take as their random transformation.

    Args:
        draws: float [N, 8], 0..1.
        size_px: height and width of the images, px.

    Returns:
        Layer name -> the layer's own keys -> bool or float32 arrays with N first.
    """
    count = len(draws)
    spread = 2.0 * draws - 1.0  # uniform in [-1, 1)
    flip_h, flip_v = draws[:, 0] < 0.5, draws[:, 1] < 0.5
    down, across = spread[:, 4] * TRANSLATION * size_px, spread[:, 5] * TRANSLATION * size_px
    zoom = 1.0 + spread[:, 3:4] * ZOOM
    values: dict[str, dict[str, Array]] = {
        "rotation": {"rotation_matrix": _rotation_matrix(spread[:, 2] * ROTATION, size_px)},
        "contrast": {"contrast_factor": 1.0 + spread[:, 6].reshape(count, 1, 1, 1) * CONTRAST},
        "zoom": {"height_zoom": zoom, "width_zoom": zoom},
        "brightness": {"rgb_delta": 255.0 * BRIGHTNESS * spread[:, 7].reshape(count, 1, 1, 1)},
        "translation": {"translations": np.stack([across, down], axis=1)},
        "flip_horizontal": {"flips": flip_h.reshape(count, 1, 1, 1)},
        "flip_vertical": {"flips": flip_v.reshape(count, 1, 1, 1)},
    }
    return {
        name: {
            key: value if value.dtype == bool else value.astype(np.float32)
            for key, value in transformation.items()
        }
        for name, transformation in values.items()
    }


def _rotation_matrix(turns: Array, size_px: int) -> Array:
    """Projective transforms [N, 8] that rotate about the centre of the image."""
    angle = 2.0 * np.pi * turns
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros_like(angle)
    centre = 0.5 * (size_px - 1)
    shift_x, shift_y = centre * (1.0 - cos + sin), centre * (1.0 - sin - cos)
    return np.stack([cos, -sin, shift_x, sin, cos, shift_y, zero, zero], axis=1)


def _apply(images: Array, chosen: dict[str, dict[str, Array]]) -> Array:
    """Runs the layers on uint8 [n, S, S] with given transformations; rounds at the end only."""
    import keras

    x = keras.ops.cast(images[..., np.newaxis], "float32")
    for name, layer in _layers().items():
        transformation = chosen[name]
        if name == "contrast" and keras.backend.backend() != "jax":
            # It takes each image's mean, and the order of additions within a mean depends on the
            # batch; in float32 that would now and then turn a grey level by one. (JAX has no
            # float64 unless the whole process is set to it.)
            x = keras.ops.cast(x, "float64")
            transformation = {
                key: value.astype(np.float64) for key, value in transformation.items()
            }
        x = layer.transform_images(x, transformation, training=True)
    x = keras.ops.cast(keras.ops.round(keras.ops.clip(x, 0, 255)), "uint8")
    augmented: Array = keras.ops.convert_to_numpy(x)[..., 0]
    return augmented


@cache
def _layers() -> dict[str, "keras.layers.Layer"]:
    return build_augmentation()
