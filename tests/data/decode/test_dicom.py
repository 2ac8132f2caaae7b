"""DICOM files of every kind: the pixels that pydicom shows, or the reason why there are none."""

import subprocess
import sys
import warnings
from io import BytesIO

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from orchestrator.data.decode.dicom_header import is_dicom
from orchestrator.data.decode.images import decode
from orchestrator.errors import ImageError
from tests.data.decode.decoded import LIMITS, grey_of, rejected
from tests.data.decode.dicom_by_hand import EXAMPLES, by_hand
from tests.data.make_canaries import CANARY, with_syntax
from tests.data.make_images import (
    DICOM_WAYS,
    SIDE_PX,
    make_dataset,
    make_lut,
    to_bytes,
    write_dicom,
)


@pytest.mark.parametrize("way", DICOM_WAYS)
def test_every_way_of_writing_gives_the_same_pixels(way, chest):
    data = write_dicom(chest, way)
    image = decode(data, SIDE_PX, LIMITS)
    assert np.abs(image.pixels.astype(int) - chest).max() <= DICOM_WAYS[way]
    assert (image.width_px, image.height_px) == (SIDE_PX, SIDE_PX)


@pytest.mark.parametrize("way", sorted(set(DICOM_WAYS) - {"functional groups", "no meta"}))
def test_every_way_agrees_with_pydicom_by_hand(way, chest):
    data = write_dicom(chest, way)
    assert np.abs(grey_of(data) - by_hand(data)).max() <= 0.51  # rounding to a level


def test_jpeg_ls_is_decoded_without_the_package_that_tests_write_it_with(chest, tmp_path):
    for number, way in enumerate(["jpeg-ls", "jpeg-ls 12"]):
        (tmp_path / f"{number}.dcm").write_bytes(write_dicom(chest, way))
    program = """
import pathlib, sys
sys.modules["jpeg_ls"] = None  # an import of it fails
from orchestrator.data.decode.images import Limits, decode
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    sys.stdout.buffer.write(decode(path.read_bytes(), 64, Limits()).pixels.tobytes())
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    ours = [decode(path.read_bytes(), 64, LIMITS) for path in sorted(tmp_path.iterdir())]
    assert done.stdout == b"".join(image.pixels.tobytes() for image in ours)
    assert len(done.stdout) == 2 * 64 * 64


NO_PICTURE = {"dicom_not_an_image", "dicom_directory", "dicom_header", "not_an_image"}
# Reasons why an example of pydicom is rejected though it is a picture
REJECTED_EXAMPLES = {
    "JPEG-lossy.dcm": "dicom_syntax",  # JPEG Extended of 12 bits
    "JPGExtended.dcm": "dicom_syntax",
    "JPEG2000-embedded-sequence-delimiter.dcm": "damaged",
    "MR_truncated.dcm": "damaged",
    "rtplan_truncated.dcm": "damaged",
    "SC_rgb_rle_32bit.dcm": "unsupported_pixels",
    "SC_rgb_rle_32bit_2frame.dcm": "unsupported_pixels",
    "JPEGLSNearLossless_08.dcm": "too_small",  # 10 px wide
    "JPEGLSNearLossless_16.dcm": "too_small",
    "SC_rgb_small_odd.dcm": "too_small",  # 3 x 3 px
    "SC_rgb_small_odd_big_endian.dcm": "too_small",
    "SC_rgb_small_odd_jpeg.dcm": "too_small",
    "SC_jpeg_no_color_transform.dcm": "no_contrast",  # white, with a noise of 1 to 2 levels
    "SC_jpeg_no_color_transform_2.dcm": "no_contrast",
    "SC_rgb_jpeg.dcm": "no_contrast",
    "SC_rgb_jpeg_app14_dcmd.dcm": "no_contrast",
    "SC_rgb_jpeg_dcmd.dcm": "no_contrast",
}
# Examples whose header pydicom follows where the pixels contradict it, with rule and notes here
OVERRULED_EXAMPLES = {
    "17136": ("narrower_depth", "window_ignored"),  # all 16 x 16 px lie above the window
    "17166": ("pixel_range", "window_ignored"),
    "17196": ("narrower_depth", "window_ignored"),
    "JPEG2000.dcm": ("pixel_range", None),  # 245 counts in a few points, 88 in all others
}


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="this pydicom comes without its examples")
def test_pydicoms_own_examples_agree_with_pydicom_by_hand():
    num_agreed = 0
    for path in sorted(EXAMPLES.rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        if not is_dicom(data):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = pydicom.dcmread(BytesIO(data), force=True, specific_tags=["Rows", "Columns"])
        try:
            image = decode(data, 64, LIMITS)
        except ImageError as error:
            expected = REJECTED_EXAMPLES.get(path.name)
            assert error.code == expected if expected else error.code in NO_PICTURE, path.name
            continue
        assert (image.width_px, image.height_px) == (ds.Columns, ds.Rows)
        if path.name in OVERRULED_EXAMPLES:
            assert (image.grey_rule, image.decode_notes) == OVERRULED_EXAMPLES[path.name]
            continue
        expected_grey = Image.fromarray(np.rint(by_hand(data)).astype(np.uint8))
        resized = expected_grey.resize((64, 64), Image.Resampling.BILINEAR, reducing_gap=2.0)
        assert np.abs(image.pixels - np.asarray(resized, int)).max() <= 2, path.name
        num_agreed += 1
    assert num_agreed > 60


def test_dicom_is_told_by_content(chest):
    data = write_dicom(chest, "monochrome2")
    assert is_dicom(data)
    assert is_dicom(b"II*\0".ljust(128, b"\0") + data[128:])  # a TIFF header in the preamble
    assert np.abs(grey_of(b"II*\0".ljust(128, b"\0") + data[128:]) - chest).max() == 0
    for text in (
        b"",
        b"\x08",
        b"\x08\0" * 3,
        b"plain text, long enough" * 9,
        b"\x02\0" + b"x" * 99,
    ):
        assert not is_dicom(text)


def changed(chest: np.ndarray, **elements: object) -> bytes:
    ds = make_dataset(chest, 8)
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return to_bytes(ds)


def cut_lut() -> Dataset:
    """Returns a look-up table with half of the entries that its descriptor promises."""
    lut = make_lut(0, 8, np.arange(256))
    lut[0x00283006].value = bytes(200)
    return lut


@pytest.mark.parametrize(
    ("elements", "code", "says"),
    [
        ({"PixelData": None}, "dicom_not_an_image", "Digital X-Ray Image Storage"),
        ({"SOPClassUID": uid.RTDoseStorage}, "dicom_not_an_image", "RT Dose Storage"),
        ({"SOPClassUID": uid.SegmentationStorage}, "dicom_not_an_image", "Segmentation"),
        ({"Rows": None}, "dicom_header", "Rows is missing"),
        ({"Rows": 0}, "damaged", "0 px"),
        ({"Rows": 65535, "Columns": 65535}, "too_many_pixels", "65535 x 65535"),
        ({"Rows": 97}, "damaged", "cannot be decoded"),
        ({"NumberOfFrames": 2}, None, ""),  # the second frame is missing, the first is there
        ({"NumberOfFrames": 65}, "too_many_frames", "64"),
        ({"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}, "unsupported_pixels", "32"),
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, "unsupported_pixels", "1"),
        ({"HighBit": 6}, "unsupported_pixels", "HighBit 6"),
        ({"BitsStored": 9, "HighBit": 8}, "unsupported_pixels", "BitsStored 9"),
        ({"PixelRepresentation": 2}, "unsupported_pixels", "PixelRepresentation 2"),
        ({"PhotometricInterpretation": "RGB"}, "unsupported_pixels", "SamplesPerPixel"),
        ({"PhotometricInterpretation": None}, "dicom_header", "Interpretation is absent"),
        ({"SamplesPerPixel": 2}, "unsupported_pixels", "SamplesPerPixel"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "dicom_header", "RescaleSlope is zero"),
        ({"WindowCenter": 1, "WindowWidth": 1, "VOILUTFunction": "CUBIC"}, "dicom_header", "VOI"),
        ({"VOILUTSequence": Sequence([cut_lut()])}, "dicom_header", "fewer entries"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "dicom_header", "LUT"),
    ],
)
def test_what_cannot_be_shown_is_rejected(elements, code, says, chest):
    data = changed(chest, **elements)
    if code is None:
        assert (grey_of(data) == chest).all()
        return
    error = rejected(data)
    assert error.code == code
    assert says in error.message


@pytest.mark.parametrize(
    "text", [b"abc", b"nan", b"1e999", b"1,5", b"9" * 65, b"--1", b"0x10"]
)  # fmt: skip
def test_malformed_numbers_are_rejected(text, chest):
    data = changed(chest, RescaleSlope="1.0625", RescaleIntercept=0)
    old = b"\x28\0\x53\x10DS\x06\0" + b"1.0625"
    assert data.count(old) == 1
    text += b" " * (len(text) % 2)
    new = b"\x28\0\x53\x10DS" + len(text).to_bytes(2, "little") + text
    error = rejected(data.replace(old, new))
    assert error.code == "dicom_header"
    assert "RescaleSlope is not a number" in error.message


@pytest.mark.parametrize(
    ("syntax", "says"),
    [
        (uid.MPEG4HP41, "1.2.840.10008.1.2.4.102 (MPEG-4 AVC/H.264 High Profile / Level 4.1)"),
        (uid.HTJ2KLossless, "1.2.840.10008.1.2.4.201"),
        ("1.2.840.10008.1.2.4.52", "1.2.840.10008.1.2.4.52"),
        (f"1.2.3.{CANARY}", "a UID that is not in the DICOM registry"),
        ("1.2.3.4.5", "a UID that is not in the DICOM registry"),
        ("", "without a TransferSyntaxUID"),
    ],
)
def test_an_undecodable_syntax_is_named_from_the_registry_only(syntax, says, chest):
    error = rejected(with_syntax(write_dicom(chest, "rle"), syntax))
    assert error.code == "dicom_syntax"
    assert says in error.message
    assert CANARY not in error.message


def test_jpeg_extended_of_12_bits_is_named():
    if not EXAMPLES.is_dir():
        pytest.skip("this pydicom comes without its examples")
    error = rejected((EXAMPLES / "JPGExtended.dcm").read_bytes())
    assert error.code == "dicom_syntax"
    assert "12-bit" in error.message
    assert "1.2.840.10008.1.2.4.51 (JPEG Extended (Process 2 and 4))" in error.message


def test_dicomdir_is_recognised():
    if not EXAMPLES.is_dir():
        pytest.skip("this pydicom comes without its examples")
    folder = EXAMPLES / "dicomdirtests"
    for name in ("DICOMDIR", "DICOMDIR-bigEnd", "DICOMDIR-implicit"):
        assert rejected((folder / name).read_bytes()).code == "dicom_directory"
