"""Files as they are decoded, or the reason why they are rejected."""

import numpy as np
import pytest

from orchestrator.data.decode.images import REJECTION_CODES, Limits, decode
from orchestrator.errors import ImageError
from tests.data.make_images import SIDE_PX

LIMITS = Limits()
KEY = b"key of the run"


def rejected(data: bytes, limits: Limits = LIMITS, size_px: int = SIDE_PX) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, size_px, limits, KEY)
    error = caught.value
    assert error.code in REJECTION_CODES
    assert error.message.endswith(REJECTION_CODES[error.code])
    assert "\n" not in error.message
    assert error.__cause__ is None
    assert error.__context__ is None
    return error


def grey_of(data: bytes, size_px: int = SIDE_PX) -> np.ndarray:
    return decode(data, size_px, LIMITS).pixels.astype(int)
