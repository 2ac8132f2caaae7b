import hashlib
import hmac
import logging
import pickle
import subprocess
import sys
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.sequence import Sequence

from orchestrator.data.decode.dicom_header import is_dicom
from orchestrator.data.decode.images import REJECTION_CODES, Limits, decode
from orchestrator.errors import ImageError
from tests.data.make_canaries import CANARY, COMPRESSED, make_canary_files, stream_of, with_syntax
from tests.data.make_images import (
    DICOM_WAYS,
    SIDE_PX,
    encapsulated,
    make_chest,
    make_dataset,
    make_lut,
    to_bytes,
    write_dicom,
)

LIMITS = Limits()
KEY = b"key of the run"
EXAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.fixture(scope="module")
def chest() -> np.ndarray:
    return make_chest()


def rejected(data: bytes, limits: Limits = LIMITS) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, SIDE_PX, limits, KEY)
    error = caught.value
    assert error.message.endswith(REJECTION_CODES[error.code])
    assert error.__cause__ is None
    assert error.__context__ is None
    return error


def grey_of(data: bytes, size_px: int = SIDE_PX) -> np.ndarray:
    return decode(data, size_px, LIMITS).pixels.astype(int)


def by_hand(data: bytes) -> np.ndarray:
    """Returns the first frame as displayed, in 0..255, through pydicom alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(BytesIO(data), force=True)
        if not hasattr(ds.file_meta, "TransferSyntaxUID"):
            ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        stored = pixel_array(ds, index=0)
        if ds.PhotometricInterpretation == "PALETTE COLOR":
            stored = apply_color_lut(stored, ds) >> 8
        if stored.ndim == 3:
            rgb = (stored >> max(ds.BitsStored - 8, 0)).astype(np.uint8)
            return np.asarray(Image.fromarray(rgb).convert("L"), float)
        low, high = shown_range(ds, stored)
        ends = apply_modality_lut(np.array([low, high]), ds).astype(float)
        shown = apply_modality_lut(stored, ds)
        has_lut = "VOILUTSequence" in ds
        if has_lut or usable_window(ds):
            shown = apply_voi_lut(shown, ds)
            if has_lut:
                ends = np.array([0, 2 ** ds.VOILUTSequence[0].LUTDescriptor[2] - 1])
            else:  # pydicom spreads a window over the range of the stored bits
                ends = apply_modality_lut(np.array(stored_ends(ds)), ds).astype(float)
    grey = np.clip((shown - ends.min()) / (ends.max() - ends.min()), 0, 1) * 255
    return 255 - grey if ds.PhotometricInterpretation == "MONOCHROME1" else grey


def usable_window(ds: Dataset) -> bool:
    width = ds.get("WindowWidth")
    return width is not None and np.atleast_1d(width)[0] > 0


def stored_ends(ds: Dataset) -> tuple[int, int]:
    half = 1 << (ds.BitsStored - 1)
    return (-half, half - 1) if ds.PixelRepresentation else (0, 2 * half - 1)


def shown_range(ds: Dataset, stored: np.ndarray) -> tuple[int, int]:
    """Returns the declared range, or for 16 bits that of the smallest usual depth.

    Signed values of which none is negative run from zero.
    """
    if ds.BitsStored < 16:
        return stored_ends(ds)
    for bits in (8, 10, 12, 14, 16):
        half = 1 << (bits - 1)
        is_signed = ds.PixelRepresentation and stored.min() < 0
        ends = (-half, half - 1) if is_signed else (0, 2 * half - 1)
        if ends[0] <= stored.min() and stored.max() <= ends[1]:
            return ends
    raise AssertionError("no depth holds the pixels")


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


def test_undefined_length_sequences_are_stepped_over(chest):
    ds = make_dataset(chest, 8)
    inner = Dataset()
    inner.PatientID = "inner"
    inner.Rows = 7
    middle = Dataset()
    middle.OtherPatientIDsSequence = Sequence([inner, inner])
    middle["OtherPatientIDsSequence"].is_undefined_length = True
    ds.ReferencedStudySequence = Sequence([middle, middle])
    ds["ReferencedStudySequence"].is_undefined_length = True
    for item in ds.ReferencedStudySequence:
        item.is_undefined_length_sequence_item = True
    for syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian):
        ds.file_meta.TransferSyntaxUID = syntax
        image = decode(to_bytes(ds), SIDE_PX, LIMITS, KEY)
        assert (image.pixels == chest).all()
        assert image.patient_id == expected_hash(b"P-17")


def test_endless_nesting_is_rejected(chest):
    data = write_dicom(chest, "implicit")
    start = data.index(b"\x08\0\x16\0")
    nested = (b"\x08\0\x40\x11" + b"\xff" * 4 + b"\xfe\xff\0\xe0" + b"\xff" * 4) * 5000
    assert "nested" in rejected(data[:start] + nested + data[start:]).message


def expected_hash(message: bytes) -> str:
    return "hmac:" + hmac.new(KEY, message, hashlib.sha256).hexdigest()[:32]


def test_patient_id_is_a_keyed_hash(chest):
    ds = make_dataset(chest, 8)
    assert decode(to_bytes(ds), 8, LIMITS).patient_id is None
    assert decode(to_bytes(ds), 8, LIMITS, KEY).patient_id == expected_hash(b"P-17")
    ds.PatientID = "P-17 "  # padding does not count
    assert decode(to_bytes(ds), 8, LIMITS, KEY).patient_id == expected_hash(b"P-17")
    ds.IssuerOfPatientID = "St. Elsewhere"
    assert decode(to_bytes(ds), 8, LIMITS, KEY).patient_id == expected_hash(b"P-17\0St. Elsewhere")
    ds.PatientID = ""
    assert decode(to_bytes(ds), 8, LIMITS, KEY).patient_id is None
    other = decode(write_dicom(chest, "rle"), 8, LIMITS, b"another key").patient_id
    assert other is not None
    assert other != expected_hash(b"P-17")


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


@pytest.mark.parametrize("way", sorted(set(DICOM_WAYS) - {"frames"}))
@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_a_file_cut_short_is_rejected(way, kept, chest):
    data = write_dicom(chest, way)
    assert rejected(data[: int(len(data) * kept)]).code == "damaged"


@pytest.mark.parametrize("way", COMPRESSED)
@pytest.mark.parametrize("tail", ["cut", "zeros"])
def test_a_stream_cut_short_is_rejected(way, tail, chest):
    ds, stream = stream_of(write_dicom(chest, way))
    half = len(stream) // 2
    kept = stream[:half] + (bytes(half) if tail == "zeros" else b"")
    assert rejected(encapsulated(ds, ds.file_meta.TransferSyntaxUID, kept)).code == "damaged"


@pytest.mark.parametrize("way", COMPRESSED)
def test_a_stream_of_another_size_is_rejected_before_decoding(way, chest):
    ds, _ = stream_of(write_dicom(chest, way))
    _, stream = stream_of(write_dicom(make_chest(48, 40), way))
    error = rejected(encapsulated(ds, ds.file_meta.TransferSyntaxUID, stream))
    assert error.code == "damaged"
    if not way.startswith("rle"):
        assert "differ in size" in error.message


def test_lossless_stream_with_a_second_frame_header_is_rejected(chest):
    ds, stream = stream_of(write_dicom(chest, "jpeg lossless 16"))
    start = stream.index(b"\xff\xc3")
    header = stream[start : start + 2 + int.from_bytes(stream[start + 2 : start + 4], "big")]
    twice = stream[:start] + header + stream[start:]
    error = rejected(encapsulated(ds, ds.file_meta.TransferSyntaxUID, twice))
    assert "malformed" in error.message


def test_rle_bomb_stops_at_the_size_of_the_image(chest):
    ds, stream = stream_of(write_dicom(chest, "rle"))
    bomb = stream[:64] + b"\x81\x07" * 2_000_000  # would expand to 256 MB
    error = rejected(encapsulated(ds, uid.RLELossless, bomb))
    assert error.code == "no_contrast"  # the image is full of one value, and no more was expanded


def test_deflate_bomb_is_rejected(chest):
    ds = make_dataset(chest, 8, ImageComments="x" * 10_000)
    ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    ds.add_new(0x00091010, "OB", bytes(50_000_000))
    data = to_bytes(ds)
    assert len(data) < 200_000
    assert rejected(data, Limits(max_bytes=10_000_000)).code == "too_large"
    assert (grey_of(data) == chest).all()


def test_limits_on_pixels_frames_and_seconds(chest):
    data = write_dicom(chest, "frames")
    assert rejected(data, Limits(max_pixels=SIDE_PX**2 - 1)).code == "too_many_pixels"
    assert rejected(data, Limits(max_frames=1)).code == "too_many_frames"
    assert rejected(data, Limits(max_seconds=0)).code == "too_slow"


@pytest.fixture(scope="module")
def canary_files(chest: np.ndarray) -> dict[str, bytes]:
    return make_canary_files(chest)


def test_no_text_of_a_header_gets_out(canary_files, caplog, capfd, recwarn):
    assert canary_files["good"].count(CANARY.encode()) > 4500
    recwarn.clear()
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    capfd.readouterr()
    num_rejected = 0
    for name, data in canary_files.items():
        try:
            text = repr(decode(data, SIDE_PX, LIMITS, KEY))
        except ImageError as error:
            num_rejected += 1
            text = str(error) + repr(pickle.loads(pickle.dumps(error))) + error.code
            assert error.__context__ is None
        else:
            assert name == "good" or name.endswith("twisted")
        assert CANARY not in text
    assert num_rejected >= len(canary_files) - 1 - len(COMPRESSED)
    printed = capfd.readouterr()
    warned = " ".join(str(warning.message) for warning in recwarn)
    assert CANARY not in caplog.text + printed.out + printed.err + warned


def test_a_process_that_logs_everything_prints_no_header_text(canary_files, tmp_path):
    for number, data in enumerate(canary_files.values()):
        (tmp_path / f"{number}.dcm").write_bytes(data)
    program = """
import logging, pathlib, sys, traceback, warnings
logging.basicConfig(level=logging.DEBUG)
from orchestrator.data.decode.images import Limits, decode
for path in pathlib.Path(sys.argv[1]).iterdir():
    try:
        print(decode(path.read_bytes(), 8, Limits(), b"key"))
    except Exception:
        traceback.print_exc()
"""
    command = [sys.executable, "-W", "always", "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr.count("ImageError") > 10
    assert "hmac:" in done.stdout
    assert CANARY not in done.stdout + done.stderr
