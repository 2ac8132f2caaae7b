import numpy as np
import pytest

from orchestrator.data.shifts import SHIFTS


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    y, x = np.mgrid[0:48, 0:48]
    pattern = 120 + 60 * np.sin(x / 3) * np.cos(y / 5)
    return np.stack([pattern, pattern[::-1]]).astype(np.uint8)


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_changes_images_and_keeps_their_form(name: str, images: np.ndarray) -> None:
    shifted = SHIFTS[name](images)
    assert (shifted.shape, shifted.dtype) == (images.shape, np.uint8)
    assert np.abs(shifted.astype(int) - images).mean() > 1
    np.testing.assert_array_equal(SHIFTS[name](images[1:]), shifted[1:])


def test_grey_levels() -> None:
    grey = np.array([[[0, 64, 127, 255]]], np.uint8)
    assert SHIFTS["contrast 0.6"](grey).tolist() == [[[51, 89, 127, 204]]]
    assert SHIFTS["gamma 0.6"](grey).tolist() == [[[0, 111, 168, 255]]]
    assert SHIFTS["gamma 1.6"](grey).tolist() == [[[0, 28, 84, 255]]]


def test_detail_falls_by_blur_and_rises_by_sharpening(images: np.ndarray) -> None:
    spread = images.astype(float).std()
    assert SHIFTS["blur"](images).astype(float).std() < 0.95 * spread
    assert SHIFTS["sharp"](images).astype(float).std() > 1.05 * spread


def test_crop_and_pad_scale_about_the_middle() -> None:
    image = np.zeros((1, 100, 100), np.uint8)
    image[:, 30:70, 30:70] = 200
    size = {name: (SHIFTS[name](image) > 100).sum() ** 0.5 for name in ("crop", "pad")}
    assert size["crop"] == pytest.approx(40 / 0.84, abs=1.5)
    assert size["pad"] == pytest.approx(40 / 1.14, abs=1.5)
    assert SHIFTS["pad"](np.full((1, 100, 100), 200, np.uint8))[0, 0, 0] == 0
