import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from orchestrator.errors import SpecError
from orchestrator.model import light
from orchestrator.model.augment import augment

MIDDLE = np.full((1, light.NUM_DRAWS), 0.5)
MIDDLE[0, 6] = 0.9  # no change of all detail


def smooth_images(count: int, size_px: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0 : 1 : size_px * 1j, 0 : 1 : size_px * 1j]
    fx, fy, phase = rng.uniform(0.5, 2, (3, count, 1, 1))
    return (127.5 + 100 * np.sin(6 * (fx * x + fy * y + phase))).astype(np.uint8)


def only(image: np.ndarray, **draws: float) -> np.ndarray:
    places = {"flip": 0, "turn": 1, "down": 4, "across": 5, "detail": 7, "contrast": 11}
    places |= {"brightness": 12, "gamma": 13}
    chosen = MIDDLE.copy()
    for name, value in draws.items():
        chosen[0, places[name]] = value
        if name == "detail":
            chosen[0, 6] = 0.0
    return light.apply_light(image, chosen)[0]


@pytest.mark.parametrize("size_px", [37, 64])
def test_view_does_not_depend_on_the_batch(size_px: int) -> None:
    images, rows = smooth_images(75, size_px), np.arange(100, 175)
    whole = augment(images, rows, 2, 9, recipe="light")
    order = np.random.default_rng(0).permutation(75)
    shuffled = augment(images[order], rows[order], 2, 9, recipe="light")
    np.testing.assert_array_equal(shuffled, whole[order])
    for index in (0, 40, 74):
        alone = augment(images[[index]], rows[[index]], 2, 9, recipe="light")
        np.testing.assert_array_equal(alone[0], whole[index])


def test_middle_draws_change_nothing() -> None:
    images = smooth_images(3, 40)
    np.testing.assert_array_equal(light.apply_light(images, MIDDLE.repeat(3, axis=0)), images)


def test_each_draw_does_what_it_says() -> None:
    image = smooth_images(1, 50)
    np.testing.assert_array_equal(only(image, flip=0.0), image[0, :, ::-1])
    # 0.06 of 50 px is 3 px; the image moves up and to the left, and black moves in.
    moved = only(image, down=1.0, across=1.0)
    np.testing.assert_array_equal(moved[:-3, :-3], image[0, 3:, 3:])
    assert (moved[-3:] == 0).all()
    grey = image[0].astype(float)
    stretched = np.clip((grey - grey.mean()) * np.exp(0.5) + grey.mean(), 0, 255)
    np.testing.assert_allclose(only(image, contrast=1.0), stretched, atol=0.51)
    np.testing.assert_allclose(only(image, brightness=0.0), np.clip(grey - 51, 0, 255), atol=0.51)
    darker = 255 * (grey / 255) ** np.exp(0.6)
    np.testing.assert_allclose(only(image, gamma=1.0), darker, atol=0.51)


def test_detail_is_taken_away_or_raised_and_the_rest_kept() -> None:
    rng = np.random.default_rng(0)
    image = (smooth_images(1, 96) // 2 + 60 + rng.integers(-9, 10, (1, 96, 96))).astype(np.uint8)
    fine = {low: only(image, detail=low).astype(float) for low in (0.0, 1.0)}

    def roughness(x: np.ndarray) -> float:
        return float(np.abs(np.diff(x.astype(float), axis=1)).mean())

    assert roughness(fine[0.0]) < 0.6 * roughness(image[0]) < 0.6 * roughness(fine[1.0])
    for x in fine.values():
        blocks = [v.astype(float).reshape(6, 16, 6, 16).mean((1, 3)) for v in (x, image[0])]
        np.testing.assert_allclose(*blocks, atol=4)


def test_bands_of_detail_are_what_gaussian_blurs_leave() -> None:
    images = smooth_images(2, 37).astype(np.float32)
    images += np.random.default_rng(2).normal(0, 20, images.shape).astype(np.float32)
    blurred = [images]
    for sigma_px in (1.0, 3**0.5, 12**0.5):
        kept = {"sigma": sigma_px, "mode": "reflect", "truncate": 3.0}
        across = gaussian_filter1d(blurred[-1], axis=2, **kept)
        blurred.append(gaussian_filter1d(across, axis=1, **kept))
    place, bands = np.array([0.0, 1.0]), np.array([[0.5, -1.0, 1.0], [0.0, 0.3, -0.2]])
    t = np.array([-1.0, 0.7])
    gains = np.exp(t[:, None] * (1.0, 0.8, 0.55) + 0.2 * bands)
    expected = blurred[3] + sum(
        gains[:, band, None, None] * (blurred[band] - blurred[band + 1]) for band in range(3)
    )
    found = light._change_detail(images, np.zeros(2), place, bands)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_unknown_recipe() -> None:
    with pytest.raises(
        SpecError, match="unknown augmentation 'wild'; expected one of paper, light"
    ):
        augment(np.zeros((1, 8, 8), np.uint8), np.arange(1), 1, 0, recipe="wild")
