import numpy as np
import pytest
from scipy.ndimage import affine_transform

from orchestrator.model.resample import Resampler

SIZE = 21
TURN = np.deg2rad(40)
TRANSFORMS = {
    "identity": [1, 0, 0, 0, 1, 0],
    "turn": [np.cos(TURN), -np.sin(TURN), 8.3, np.sin(TURN), np.cos(TURN), -4.1],
    "mirror": [-1, 0, SIZE - 1, 0, 1, 0],
    "closer": [0.5, 0, 5.25, 0, 0.7, 2],
    "shifted": [1, 0, -6.25, 0, 1, 5.5],
    "farther": [2.5, 0.1, -18.5, -0.1, 2.5, -18],
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("mirror", [True, False])
def test_resampling_is_bilinear(name: str, mirror: bool) -> None:
    image = np.random.default_rng(0).integers(1, 256, (SIZE, SIZE), dtype=np.uint8)
    across, down = np.reshape(TRANSFORMS[name], (2, 3))
    border = SIZE  # scipy has no mode that is black between the last pixel and the next
    bordered = np.pad(image.astype(float), border, "symmetric" if mirror else "constant")
    matrix = np.array([[down[1], down[0]], [across[1], across[0]]])
    offset = np.array([down[2], across[2]]) + border
    expected = affine_transform(bordered, matrix, offset, (SIZE, SIZE), order=1)
    resampler = Resampler(SIZE)
    # What an earlier, larger border left in the arrays is not seen.
    found = np.full((SIZE, SIZE), 77, np.float32)
    resampler.resample(image, np.array([2.9, 0, -19, 0, 2.9, -19]), found, mirror=True)

    resampler.resample(image, np.array(TRANSFORMS[name]), found, mirror=mirror)

    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_result_may_take_the_place_of_the_image() -> None:
    image = np.random.default_rng(0).random((SIZE, SIZE), np.float32)
    resampler, apart = Resampler(SIZE), np.empty_like(image)
    resampler.resample(image, np.array(TRANSFORMS["turn"]), apart, mirror=True)

    resampler.resample(image, np.array(TRANSFORMS["turn"]), image, mirror=True)

    np.testing.assert_array_equal(image, apart)
