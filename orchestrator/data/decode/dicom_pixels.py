"""Decodes the stored values of the first frame of a DICOM image, compressed or not.

pydicom and its plugins see pixel data and numbers only, never text. What the values look like is
`grey`'s business.
"""

import logging
import struct
import warnings
from dataclasses import dataclass
from typing import Any

import gdcm
import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import UID_dictionary

from orchestrator.data.decode import dicom_header as tags
from orchestrator.data.decode.codestream import (
    check_jpeg_scans,
    read_jpeg,
    read_jpeg2000,
    rebuild_lossless_jpeg,
)
from orchestrator.data.decode.dicom_header import Header
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
# One decoder each, so that a file always decodes the same way: a second try by another library
# would only multiply the cost of hostile files.
_PLUGINS = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "pillow",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "gdcm",  # pyjpegls spends 3 to 7 s on each damaged stream
    uid.JPEGLSNearLossless: "gdcm",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
}
_JPEG2000 = (uid.JPEG2000Lossless, uid.JPEG2000)
_LOSSLESS = (uid.JPEGLossless, uid.JPEGLosslessSV1)


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


def decode_pixels(header: Header, form: PixelFormat) -> npt.NDArray[Any]:
    """Returns the stored values of the first frame.

    Args:
        header: holds the pixel element.
        form: what the header says of it; the compressed stream must agree.

    Returns:
        8- or 16-bit integers, [rows, columns] or [rows, columns, 3] (RGB).

    Raises:
        ImageError: the pixels are damaged or cannot be decoded. Other exceptions may come out of
            the libraries; their text must not be shown.
    """
    options: dict[str, Any] = {
        "rows": form.rows,
        "columns": form.columns,
        "number_of_frames": 1,
        "samples_per_pixel": form.samples,
        "photometric_interpretation": form.photometric,
        "bits_allocated": form.bits_allocated,
        "bits_stored": form.bits_stored,
        "pixel_representation": int(form.is_signed),
        "planar_configuration": form.planar,
        "pixel_keyword": "PixelData",
    }
    syntax, plugin = form.syntax, ""
    if syntax in _NATIVE:
        options["pixel_vr"] = header.pixels_vr.decode("ascii") or "OW"
        pixels = bytes(header.pixels or b"")
    else:
        frame = _first_frame(header, form)
        if syntax == uid.RLELossless:
            pixels = _decode_rle(frame, form)
            syntax = uid.ExplicitVRLittleEndian
            options["planar_configuration"] = 1
        else:
            _check_codestream(frame, form)
            if syntax in _LOSSLESS:
                frame = _rebuild(frame)
            pixels, plugin = encapsulate([frame]), _PLUGINS[uid.UID(syntax)]
    decoder = get_decoder(syntax)
    values: npt.NDArray[Any]
    # Unvalidated: the numbers are checked, and its complaints about padding are only noise.
    values, _ = decoder.as_array(pixels, index=0, validate=False, decoding_plugin=plugin, **options)
    return values


def check_syntax(header: Header) -> str:
    """Returns the UID of the transfer syntax.

    Raises:
        ImageError: it is absent, unknown or has no decoder here.
    """
    syntax = header.code(tags.TRANSFER_SYNTAX)
    if not syntax and not header.is_encapsulated:
        # Without file meta the byte order was told by content; it is all that native pixels need.
        return str(
            uid.ExplicitVRLittleEndian if header.is_little_endian else uid.ExplicitVRBigEndian
        )
    if not syntax:
        raise rejection("dicom_syntax", "Compressed pixels without a TransferSyntaxUID")
    if syntax not in _NATIVE and syntax not in _PLUGINS and syntax != uid.RLELossless:
        name = registered_name(syntax, "a UID that is not in the DICOM registry")
        raise rejection("dicom_syntax", f"No decoder for the transfer syntax {name}")
    if (syntax in _NATIVE) == header.is_encapsulated:
        raise rejection("damaged", "TransferSyntaxUID and pixels disagree on compression")
    return syntax


def _first_frame(header: Header, form: PixelFormat) -> bytes:
    """Returns the compressed stream of the first frame, joined from its fragments."""
    offsets = header.values.get(tags.EXTENDED_OFFSETS)
    lengths = header.values.get(tags.EXTENDED_LENGTHS)
    extended = (offsets, lengths) if offsets and lengths else None
    frame: bytes = get_frame(
        bytes(header.pixels or b""),
        0,
        number_of_frames=form.num_frames,
        extended_offsets=extended,
    )
    return frame


def _check_codestream(frame: bytes, form: PixelFormat) -> None:
    """Raises `ImageError` where a compressed stream is of another size than the header says.

    The decoders allocate what the stream says, so a small header could hide a huge image.
    """
    stream = read_jpeg2000(frame) if form.syntax in _JPEG2000 else read_jpeg(frame)
    if stream is None:
        raise rejection("damaged", "The compressed pixels do not start with a readable header")
    if (stream.height_px, stream.width_px) != (form.rows, form.columns):
        raise rejection("damaged", "The compressed pixels and the header differ in size")
    if stream.num_components != form.samples or stream.precision_bits > form.bits_allocated:
        raise rejection("damaged", "The compressed pixels and the header differ in depth")
    if _PLUGINS[uid.UID(form.syntax)] == "pillow":
        check_jpeg_scans(frame)
    if form.syntax in _JPEG2000 and not frame.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
        raise rejection("damaged", "The JPEG 2000 pixels have no end marker")
    if form.syntax == uid.JPEGExtended12Bit and stream.precision_bits != 8:
        name = registered_name(form.syntax, "")
        found = f"No decoder for {stream.precision_bits}-bit pixels in the transfer syntax {name}"
        raise rejection("dicom_syntax", found)


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
