import numpy as np
import pytest

from tests.data.make_images import make_chest


@pytest.fixture(scope="module")
def chest() -> np.ndarray:
    return make_chest()
