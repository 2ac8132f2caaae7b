import keras
import numpy as np
import pytest

from orchestrator.errors import SpecError
from orchestrator.model import augment as module
from orchestrator.model.augment import augment


def smooth_images(count: int, size_px: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0 : 1 : size_px * 1j, 0 : 1 : size_px * 1j]
    fx, fy, phase = rng.uniform(0.5, 2, (3, count, 1, 1))
    return (127.5 + 100 * np.sin(6 * (fx * x + fy * y + phase))).astype(np.uint8)


@pytest.mark.parametrize("size_px", [37, 64])
def test_view_does_not_depend_on_the_batch(size_px: int) -> None:
    images, rows = smooth_images(75, size_px), np.arange(100, 175)
    whole = augment(images, rows, 2, 9)
    order = np.random.default_rng(0).permutation(75)

    np.testing.assert_array_equal(augment(images[order], rows[order], 2, 9), whole[order])
    for index in (0, 40, 74):
        alone = augment(images[index : index + 1], rows[index : index + 1], 2, 9)
        np.testing.assert_array_equal(alone[0], whole[index])


def test_seed_row_and_view_each_change_the_view() -> None:
    images = smooth_images(1, 32)
    base = augment(images, np.array([5]), 1, 0)

    assert base.dtype == np.uint8
    assert base.shape == images.shape
    for row, view, seed in [(6, 1, 0), (5, 2, 0), (5, 1, 1)]:
        assert not np.array_equal(augment(images, np.array([row]), view, seed), base)


def keras_layers() -> dict[str, keras.layers.Layer]:
    """The paper's Table II, in its order. Flips are two layers: Keras's single one for both axes
    flips both or neither."""
    grey = (0, 255)
    return {
        "rotation": keras.layers.RandomRotation(0.2),
        # A single factor only raises contrast in this release, against the documentation.
        "contrast": keras.layers.RandomContrast((0.2, 0.2), value_range=grey),
        "zoom": keras.layers.RandomZoom(0.2),
        "brightness": keras.layers.RandomBrightness(0.2, value_range=grey),
        "translation": keras.layers.RandomTranslation(0.1, 0.1),
        "flip_horizontal": keras.layers.RandomFlip("horizontal"),
        "flip_vertical": keras.layers.RandomFlip("vertical"),
    }


def keras_transformations(draws: np.ndarray, size_px: int) -> dict[str, dict[str, np.ndarray]]:
    """What the layers take to do what the draws say."""
    spread = 2.0 * draws - 1.0
    turns, zooms, shifts = module._transforms(draws, size_px)
    last = np.zeros((len(draws), 2))
    each = (len(draws), 1, 1, 1)
    return {
        "rotation": {"rotation_matrix": np.hstack([turns, last]).astype(np.float32)},
        "contrast": {"contrast_factor": (1.0 + 0.2 * spread[:, 6]).reshape(each)},
        "zoom": {"height_zoom": zooms[:, 4:5], "width_zoom": zooms[:, 0:1]},
        "brightness": {"rgb_delta": (51.0 * spread[:, 7]).reshape(each)},
        "translation": {"translations": -shifts[:, [2, 5]]},
        "flip_horizontal": {"flips": (draws[:, 0] < 0.5).reshape(each)},
        "flip_vertical": {"flips": (draws[:, 1] < 0.5).reshape(each)},
    }


@pytest.mark.parametrize("size_px", [37, 64])
def test_a_view_is_what_keras_layers_make(size_px: int) -> None:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (24, size_px, size_px), dtype=np.uint8)
    draws = rng.random((24, 8))
    draws[:4, 2:6] = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 0, 1]])
    x = keras.ops.cast(images[..., np.newaxis], "float32")
    chosen = keras_transformations(draws, size_px)
    for name, layer in keras_layers().items():
        x = layer.transform_images(x, chosen[name], training=True)
    expected = np.clip(keras.ops.convert_to_numpy(x)[..., 0], 0, 255)

    found = module._augment_paper(images, draws)

    np.testing.assert_allclose(found, expected, atol=0.51)


def test_middle_draws_change_nothing() -> None:
    images = smooth_images(3, 40)
    # No flip, no turn, zoom 1, no shift, contrast 1, brightness 0.
    np.testing.assert_array_equal(module._augment_paper(images, np.full((3, 8), 0.5)), images)


def test_each_draw_does_what_it_says() -> None:
    image = smooth_images(1, 40)

    def only(index: int, draw: float) -> np.ndarray:
        draws = np.full((1, 8), 0.5)
        draws[0, index] = draw
        return module._augment_paper(image, draws)[0]

    np.testing.assert_array_equal(only(0, 0.0), image[0, :, ::-1])
    np.testing.assert_array_equal(only(1, 0.0), image[0, ::-1])
    # 0.1 of 40 px is 4 px, down and then across; what moves in is reflected, so compare the rest.
    np.testing.assert_array_equal(only(4, 1.0)[4:], image[0, :-4])
    np.testing.assert_array_equal(only(5, 1.0)[:, 4:], image[0, :, :-4])
    mean = image[0].astype(float).mean()
    stretched = np.clip((image[0] - mean) * 1.2 + mean, 0, 255)
    np.testing.assert_allclose(only(6, 1.0), stretched, atol=0.51)
    np.testing.assert_allclose(only(7, 0.0), np.clip(image[0] - 51.0, 0, 255), atol=0.51)


def test_transformations_have_the_range_of_keras_own() -> None:
    images = np.zeros((400, 24, 24, 1), np.float32)
    ours = keras_transformations(np.random.default_rng(0).random((400, 8)), 24)
    layers = keras_layers()
    assert list(layers) == list(ours)
    for name, layer in layers.items():
        theirs = layer.get_random_transformation(images)
        for key, value in ours[name].items():
            drawn = keras.ops.convert_to_numpy(theirs[key]).astype(float)
            assert value.shape == drawn.shape
            np.testing.assert_allclose(value.min(0), drawn.min(0), atol=0.05 * np.ptp(drawn) + 1e-6)
            np.testing.assert_allclose(value.max(0), drawn.max(0), atol=0.05 * np.ptp(drawn) + 1e-6)
            np.testing.assert_allclose(
                value.mean(0), drawn.mean(0), atol=0.12 * np.ptp(drawn) + 1e-6
            )


def test_rotation_matrix_is_keras_own() -> None:
    layer = keras_layers()["rotation"]
    theirs = layer.get_random_transformation(np.zeros((6, 50, 50, 1), np.float32))
    turns = keras.ops.convert_to_numpy(theirs["angle"]) / 360.0

    draws = np.full((6, 8), 0.5)
    draws[:, 2] += turns / 0.4

    ours = module._transforms(draws, 50)[0]

    matrix = keras.ops.convert_to_numpy(theirs["rotation_matrix"])
    np.testing.assert_allclose(ours, matrix[:, :6], atol=1e-4)


def test_nothing_to_augment() -> None:
    assert augment(np.empty((0, 8, 8), np.uint8), np.empty(0, np.int64), 1, 0).shape == (0, 8, 8)


def test_wrong_input() -> None:
    with pytest.raises(SpecError, match=r"received float32 \[2, 8, 8\] and 2 rows; expected uint8"):
        augment(np.zeros((2, 8, 8), np.float32), np.arange(2), 1, 0)
    with pytest.raises(SpecError, match="and 3 rows"):
        augment(np.zeros((2, 8, 8), np.uint8), np.arange(3), 1, 0)
