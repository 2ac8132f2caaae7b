"""X-rays as the field sends them: the same picture, or a rejection that names its cause."""

import numpy as np
import pytest
from PIL import Image

from orchestrator.data.decode.images import REJECTION_CODES, Limits, decode
from orchestrator.data.decode.rules import DECODE_NOTES, GREY_RULES
from orchestrator.errors import ImageError
from tests.data.field.dicom_streams import GOOD_STREAMS
from tests.data.field.dicom_tools import FRAME_PX, Way
from tests.data.field.dicom_values import GOOD_VALUES
from tests.data.field.pictures import GOOD_PICTURES
from tests.data.field.rejects import BAD_DICOM, BAD_PICTURES
from tests.data.make_images import make_chest

# Under pytest the package's own filter is not in force
pytestmark = pytest.mark.filterwarnings("ignore:Tag data larger|Truncated File:UserWarning")

LIMITS = Limits()
SIZE_PX = 128
GOOD_DICOM = GOOD_VALUES | GOOD_STREAMS
GOOD = {("dicom", name): way for name, way in GOOD_DICOM.items()} | {
    ("picture", name): way for name, way in GOOD_PICTURES.items()
}
BAD = {("dicom", name): case for name, case in BAD_DICOM.items()} | {
    ("picture", name): case for name, case in BAD_PICTURES.items()
}


@pytest.fixture(scope="module")
def chest() -> np.ndarray:
    return make_chest(160, SIZE_PX)


def shown(grey: np.ndarray) -> np.ndarray:
    square = Image.fromarray(grey).resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR)
    return np.asarray(square, int)


@pytest.mark.parametrize("way", GOOD.values(), ids=map(" ".join, GOOD))
def test_an_x_ray_is_shown_however_it_was_sent(way: Way, chest: np.ndarray) -> None:
    image = decode(way.write(chest), SIZE_PX, LIMITS)
    difference = np.abs(image.pixels.astype(int) - shown(chest))
    if way.is_framed:
        inner = np.s_[FRAME_PX + 2 : -FRAME_PX - 2]
        difference = difference[inner, inner]
    assert difference.max() <= way.levels
    assert (image.grey_rule, image.decode_notes) == (way.rule, way.notes)
    assert image.grey_rule in GREY_RULES
    assert set((image.decode_notes or "").split(",")) - {""} <= set(DECODE_NOTES)


@pytest.mark.parametrize("case", BAD.values(), ids=map(" ".join, BAD))
def test_what_cannot_be_shown_is_rejected_with_its_cause(case, chest: np.ndarray) -> None:
    write, code, cause = case
    with pytest.raises(ImageError) as caught:
        decode(write(chest), SIZE_PX, LIMITS)
    assert caught.value.code == code
    assert cause in caught.value.message
    assert caught.value.message.endswith(REJECTION_CODES[code])


def test_padding_outside_the_image_is_black_and_inside_it_is_not(chest: np.ndarray) -> None:
    outside = decode(GOOD_DICOM["padding 65535"].write(chest), SIZE_PX, LIMITS).pixels
    assert (outside[: FRAME_PX - 2] == 0).all()
    undeclared = GOOD_DICOM["padding 65535 not declared"].write(chest)
    assert (decode(undeclared, SIZE_PX, LIMITS).pixels[: FRAME_PX - 2] == 255).all()
