"""Windows and look-up tables, against pydicom and the formulas of the standard."""

import numpy as np
import pytest
from pydicom.sequence import Sequence

from orchestrator.data.decode.images import decode
from tests.data.decode.decoded import LIMITS, grey_of
from tests.data.decode.dicom_by_hand import by_hand
from tests.data.make_images import make_dataset, make_lut, to_bytes


def test_window_of_zero_width_means_none(chest):
    ds = make_dataset(chest, 8, WindowCenter="0", WindowWidth="0")
    assert np.abs(grey_of(to_bytes(ds)) - chest).max() == 0


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("width", [1, 2, 77.5, 400])
def test_window_functions_agree_with_pydicom(function, width, chest):
    center = 110.25
    ds = make_dataset(
        chest, 8, WindowCenter=center, WindowWidth=width, VOILUTFunction=function,
        RescaleSlope=1, RescaleIntercept=0,
    )  # fmt: skip
    data = to_bytes(ds)
    assert np.abs(grey_of(data) - by_hand(data)).max() <= 0.51


def test_sigmoid_by_the_formula():
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    ds = make_dataset(
        stored, 8, WindowCenter=100, WindowWidth=50, VOILUTFunction="SIGMOID"
    )  # fmt: skip
    expected = 255 / (1 + np.exp(-4 * (stored - 100.0) / 50))
    assert np.abs(grey_of(to_bytes(ds), 16) - expected).max() <= 0.5


def test_linear_window_by_hand():
    stored = np.kron(np.array([[0, 10, 11, 12], [19, 20, 30, 255]]), np.ones((16, 8)))
    ds = make_dataset(stored.astype(np.uint8), 8, WindowCenter=16, WindowWidth=10)
    # PS3.3 C.11.2.1.2.1: ((x - 15.5) / 9 + 0.5) * 255 between 11 and 20
    expected = [[0, 0, 0, 28], [227, 255, 255, 255]]
    pixels = decode(to_bytes(ds), 32, LIMITS).pixels
    assert pixels[4, 4::8].tolist() == expected[0]
    assert pixels[28, 4::8].tolist() == expected[1]


def test_lut_entries_may_be_packed_bytes(chest):
    lut = make_lut(0, 8, np.arange(256))
    lut[0x00283006].value = bytes(255 - np.arange(256, dtype=np.uint8))
    ds = make_dataset(chest, 8, VOILUTSequence=Sequence([lut]))
    assert np.abs(grey_of(to_bytes(ds)) - (255 - chest.astype(int))).max() == 0


def test_values_beyond_a_lut_take_its_ends():
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    ds = make_dataset(
        stored, 8, VOILUTSequence=Sequence([make_lut(100, 8, np.array([5, 90, 250]))])
    )
    pixels = grey_of(to_bytes(ds), 16)
    assert (pixels[stored <= 100] == 5).all()
    assert (pixels[stored >= 102] == 250).all()
