"""DICOM files and streams that are cut short, of another size or far larger than they say."""

import pytest
from pydicom import uid

from orchestrator.data.decode.images import Limits
from tests.data.decode.decoded import grey_of, rejected
from tests.data.make_canaries import COMPRESSED, stream_of
from tests.data.make_images import (
    DICOM_WAYS,
    SIDE_PX,
    encapsulated,
    make_chest,
    make_dataset,
    to_bytes,
    write_dicom,
)


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
