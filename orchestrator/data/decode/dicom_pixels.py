"""Decodes the stored values of the first frame of a DICOM image, compressed or not.

pydicom and its plugins see pixel data and numbers only, never text. What the values look like is
`grey`'s business.

Over 300 lines, one section a transfer syntax.
"""

import logging
import struct
import warnings
from dataclasses import dataclass, replace
from typing import Any

import gdcm
import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import UID_dictionary

from orchestrator.data.decode import dicom_header as tags
from orchestrator.data.decode.codestream import (
    JPEG_START,
    Codestream,
    add_end_marker,
    check_jpeg_scans,
    read_jpeg,
    rebuild_lossless_jpeg,
)
from orchestrator.data.decode.dicom_header import Header
from orchestrator.data.decode.fragments import first_frame, is_fragmented
from orchestrator.data.decode.jpeg import decode_grey_jpeg, decode_jpeg
from orchestrator.data.decode.jpeg2000 import (
    add_jpeg2000_end,
    check_jpeg2000_parts,
    read_jpeg2000,
)
from orchestrator.data.limits import rejection

# The libraries report what they cannot decode by log, warning and trace as well as by exception.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"pydicom\b")
gdcm.Trace.DebugOff()
gdcm.Trace.WarningOff()
gdcm.Trace.ErrorOff()

_NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
_JPEG_FAMILY = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
)
# By the coding that the stream itself names: the transfer syntax may name another of the family.
# One decoder each, so that a file always decodes the same way: a second try by another library
# would only multiply the cost of hostile files.
_DECODERS = {
    "jpeg lossless": (uid.JPEGLossless, "gdcm"),
    "jpeg-ls": (uid.JPEGLSNearLossless, "gdcm"),  # pyjpegls spends 3 to 7 s on each damaged stream
    "jpeg 2000": (uid.JPEG2000, "pylibjpeg"),
}
_YBR = ("YBR_FULL", "YBR_FULL_422")
_END_OF_JPEG = b"\xff\xd9"


@dataclass(frozen=True)
class PixelFormat:
    """The numbers that describe stored pixels, checked.

    Attributes:
        syntax: UID of the transfer syntax.
        rows: height of a frame, px.
        columns: width of a frame, px.
        num_frames: 1 or more.
        samples: per pixel, 1 or 3.
        photometric: photometric interpretation, one of those of `dicom`.
        planar: 0 where the samples of a pixel lie together, 1 where each colour is a plane.
        bits_allocated: 8 or 16.
        bits_stored: 1 to `bits_allocated`.
        is_signed: whether stored values are two's complement.
    """

    syntax: str
    rows: int
    columns: int
    num_frames: int
    samples: int
    photometric: str
    planar: int
    bits_allocated: int
    bits_stored: int
    is_signed: bool


@dataclass(frozen=True)
class StoredPixels:
    """The stored values of one frame.

    Attributes:
        values: 8- or 16-bit integers, [rows, columns] or [rows, columns, 3]; bits above BitsStored
            are left as they are.
        form: the numbers that describe them; where a compressed stream knows better, its own.
        is_ybr: whether three samples are YCbCr rather than RGB, for all that the file says.
        notes: keys of `rules.DECODE_NOTES`.
    """

    values: npt.NDArray[Any]
    form: PixelFormat
    is_ybr: bool
    notes: tuple[str, ...] = ()


def decode_pixels(header: Header, form: PixelFormat) -> StoredPixels:
    """Returns the stored values of the first frame.

    Args:
        header: holds the pixel element.
        form: what the header says of it; the size of a compressed stream must agree.

    Raises:
        ImageError: the pixels are damaged or cannot be decoded. Other exceptions may come out of
            the libraries; their text must not be shown.
    """
    is_ybr = form.photometric in _YBR
    pixels = header.pixels or memoryview(b"")
    if form.syntax in _NATIVE:
        vr = header.pixels_vr.decode("ascii") or "OW"
        return StoredPixels(_run(form.syntax, bytes(pixels), form, pixel_vr=vr), form, is_ybr)
    frame = first_frame(pixels, form.num_frames, header.values.get(tags.EXTENDED_OFFSETS, b""))
    if form.syntax == uid.RLELossless:
        by_plane = replace(form, planar=1)
        native = _run(uid.ExplicitVRLittleEndian, _decode_rle(frame, form), by_plane)
        return StoredPixels(native, form, is_ybr)
    stream = _check_stream(frame, form)
    if stream.colour_model:
        is_ybr = stream.colour_model == "ycbcr"
    form = replace(
        form,
        bits_stored=min(form.bits_stored, stream.precision_bits),
        is_signed=form.is_signed or stream.is_signed,
    )
    if stream.coding == "jpeg":
        has_end = check_jpeg_scans(frame)
        if not has_end:
            frame = add_end_marker(frame, decode_grey_jpeg)
        values = decode_jpeg(frame, stream)
    else:
        frame, has_end = _prepare(frame, stream, form)
        values = _decode_stream(frame, stream, form)
    return StoredPixels(values, form, is_ybr, () if has_end else ("no_end_marker",))


def _run(
    syntax: str, pixels: bytes, form: PixelFormat, plugin: str = "", pixel_vr: str = "OW"
) -> npt.NDArray[Any]:
    """Returns what pydicom and one plugin make of the pixels, nothing converted or corrected."""
    values: npt.NDArray[Any]
    # Unvalidated: the numbers are checked, and its complaints about padding are only noise.
    values, _ = get_decoder(syntax).as_array(
        pixels,
        index=0,
        validate=False,
        raw=True,
        decoding_plugin=plugin,
        rows=form.rows,
        columns=form.columns,
        number_of_frames=1,
        samples_per_pixel=form.samples,
        photometric_interpretation=form.photometric,
        bits_allocated=form.bits_allocated,
        bits_stored=form.bits_stored,
        pixel_representation=int(form.is_signed),
        planar_configuration=form.planar,
        pixel_keyword="PixelData",
        pixel_vr=pixel_vr,
        correct_unused_bits=False,
        apply_j2k_sign_correction=False,
        apply_jls_sign_correction=False,
    )
    return values


def _decode_stream(frame: bytes, stream: Codestream, form: PixelFormat) -> npt.NDArray[Any]:
    syntax, plugin = _DECODERS[stream.coding]
    return _run(syntax, encapsulate([frame]), form, plugin)


def check_syntax(header: Header) -> str:
    """Returns the UID of the transfer syntax.

    Raises:
        ImageError: it is absent, unknown or has no decoder here.
    """
    syntax = header.code(tags.TRANSFER_SYNTAX)
    is_native = not syntax or syntax in _NATIVE
    is_encapsulated = header.is_encapsulated or (
        not is_native and header.pixels is not None and is_fragmented(header.pixels)
    )
    if not syntax and is_encapsulated:
        raise rejection("dicom_syntax", "Compressed pixels without a TransferSyntaxUID")
    if not is_native and syntax not in (*_JPEG_FAMILY, uid.RLELossless):
        name = registered_name(syntax, "a UID that is not in the DICOM registry")
        raise rejection("dicom_syntax", f"No decoder for the transfer syntax {name}")
    if is_native == is_encapsulated:
        says, are = ("uncompressed", "are") if is_native else ("compressed", "are not")
        found = f"TransferSyntaxUID is that of {says} pixels, and these {are} compressed"
        raise rejection("dicom_header", found)
    if is_native:  # told by content, since some say one byte order and write the other
        little, big = uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian
        return str(little if header.is_little_endian else big)
    return syntax


def _check_stream(frame: bytes, form: PixelFormat) -> Codestream:
    """Returns what a compressed stream says of itself.

    The decoders allocate what the stream says, so a small header could hide a huge image.

    Raises:
        ImageError: it contradicts the header, or there is no decoder for its coding.
    """
    stream = read_jpeg(frame) if frame.startswith(JPEG_START) else read_jpeg2000(frame)
    if stream is None:
        raise rejection("damaged", "The compressed pixels do not start with a readable header")
    if (stream.height_px, stream.width_px) != (form.rows, form.columns):
        raise rejection("damaged", "The compressed pixels and the header differ in size")
    is_jpeg = stream.coding == "jpeg"
    if stream.num_components != form.samples or stream.precision_bits > form.bits_allocated:
        raise rejection("dicom_header", "The compressed pixels and the header differ in depth")
    if stream.coding == "other jpeg" or (is_jpeg and stream.precision_bits != 8):
        name = registered_name(form.syntax, "")
        kind = "hierarchical" if not is_jpeg else f"{stream.precision_bits}-bit"
        raise rejection("dicom_syntax", f"No decoder for {kind} JPEG pixels in {name}")
    return stream


def _prepare(frame: bytes, stream: Codestream, form: PixelFormat) -> tuple[bytes, bool]:
    """Returns a stream that is whole and safe to hand to its decoder, and if it had an end marker.

    Raises:
        ImageError: it is malformed, or rows are missing.
    """
    if stream.coding == "jpeg 2000":
        check_jpeg2000_parts(frame)
        ended = add_jpeg2000_end(frame)
        return ended, ended is frame
    if stream.coding == "jpeg-ls":
        if _END_OF_JPEG in frame:  # coded bytes may look like other markers, but never like this
            return frame, True
        return add_end_marker(
            frame, lambda whole: _decode_stream(whole, stream, form), is_strict=True
        ), False
    if check_jpeg_scans(frame):
        return _rebuild(frame), True
    ended = add_end_marker(frame, lambda whole: _decode_stream(_rebuild(whole), stream, form))
    return _rebuild(ended), False


def _rebuild(frame: bytes) -> bytes:
    """Returns a JPEG Lossless stream that is safe to hand to GDCM."""
    rebuilt = rebuild_lossless_jpeg(frame)
    if rebuilt is None:
        raise rejection("damaged", "The JPEG Lossless pixels are malformed")
    return rebuilt


def _decode_rle(frame: bytes, form: PixelFormat) -> bytes:
    """Returns an RLE frame as little-endian samples, colour by plane.

    pydicom's own decoder expands a segment whatever its size; this one stops at the size that the
    header says.

    Reference: DICOM PS3.5 annex G.
    """
    num_pixels = form.rows * form.columns
    sample_bytes = form.bits_allocated // 8
    num_segments, *offsets = struct.unpack_from("<16I", frame)
    if num_segments != form.samples * sample_bytes:
        raise rejection("damaged", "The RLE pixels and the header differ in depth")
    ends = [*offsets[1:num_segments], len(frame)]
    decoded = np.empty((form.samples, num_pixels, sample_bytes), np.uint8)
    for index in range(num_segments):
        plane, byte = divmod(index, sample_bytes)  # the most significant byte comes first
        segment = _unpack_bits(frame[offsets[index] : ends[index]], num_pixels)
        decoded[plane, :, sample_bytes - 1 - byte] = np.frombuffer(segment, np.uint8)
    return decoded.tobytes()


def _unpack_bits(segment: bytes, num_bytes: int) -> bytes:
    """Returns the first bytes of one run-length coded segment."""
    decoded = bytearray()
    position = 0
    while len(decoded) < num_bytes and position < len(segment):
        code = segment[position]
        if code < 128:  # a literal run of code + 1 bytes
            decoded += segment[position + 1 : position + 2 + code]
            position += 2 + code
        else:  # one byte repeated 257 - code times; 128 means nothing
            if code > 128:
                decoded += segment[position + 1 : position + 2] * (257 - code)
            position += 2 if code > 128 else 1
    if len(decoded) < num_bytes:
        raise rejection("damaged", "The RLE pixels end before the image is full")
    return bytes(decoded[:num_bytes])


def registered_name(identifier: str, unknown: str) -> str:
    """Returns a UID with its registered name; text that is not in the registry is not repeated."""
    if identifier not in UID_dictionary:
        return unknown
    return f"{identifier} ({UID_dictionary[identifier][0]})"
