"""Decodes the stored values of the first frame of a DICOM image, compressed or not.

The decoders see pixel data and numbers only, never text. What the values look like is `grey`'s
business.

Over 300 lines, one section a transfer syntax.
"""

import logging
import struct
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from openjpeg.utils import decode_pixel_data
from PIL import Image
from pydicom import uid
from pydicom.pixels import get_decoder
from pydicom.uid import UID_dictionary

from orchestrator.data.decode import dicom_header as tags
from orchestrator.data.decode.codestream import (
    END,
    JPEG_START,
    Codestream,
    add_end_marker,
    check_jpeg_scans,
    read_jpeg,
    rebuild_lossless_jpeg,
)
from orchestrator.data.decode.dicom_header import Header
from orchestrator.data.decode.fragments import first_frame, is_fragmented
from orchestrator.data.decode.gdcm_codecs import decode_by_gdcm
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
_YBR = ("YBR_FULL", "YBR_FULL_422")


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
        return StoredPixels(_read_native(pixels, form, vr), form, is_ybr)
    frame = first_frame(pixels, form.num_frames, header.values.get(tags.EXTENDED_OFFSETS, b""))
    if form.syntax == uid.RLELossless:
        return StoredPixels(_decode_rle(frame, form), form, is_ybr)
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


def _read_native(pixels: memoryview, form: PixelFormat, vr: str) -> npt.NDArray[Any]:
    """Returns uncompressed pixels as pydicom reads them, nothing converted or corrected."""
    values: npt.NDArray[Any]
    # Unvalidated: the numbers are checked, and its complaints about padding are only noise.
    values, _ = get_decoder(form.syntax).as_array(
        pixels,
        index=0,
        validate=False,
        raw=True,
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
        pixel_vr=vr,
        correct_unused_bits=False,
        view_only=True,
    )
    return values


def _decode_stream(frame: bytes, stream: Codestream, form: PixelFormat) -> npt.NDArray[Any]:
    """Returns the samples of a compressed stream, nothing converted or corrected.

    The stream says its coding: the transfer syntax may name another of the family. Each has one
    decoder, so that a file always decodes the same way: a second try by another library would only
    multiply the cost of hostile files.

    Raises:
        ImageError: the decoder gave no samples, or not as many as the header says.
    """
    raw: Any
    if stream.coding == "jpeg 2000":
        raw = decode_pixel_data(frame, version=2)
    else:
        allocated, stored = form.bits_allocated, form.bits_stored
        if stream.coding == "jpeg-ls":
            allocated, stored = 8 if stream.precision_bits <= 8 else 16, stream.precision_bits
        layout = (form.samples, allocated, stored, form.is_signed)
        size = (form.columns, form.rows)
        raw = decode_by_gdcm(frame, stream.coding, size, layout, form.photometric)
        if not raw and stream.coding == "jpeg-ls" and stored < 8:  # GDCM takes few of these
            name = registered_name(form.syntax, "")
            raise rejection("dicom_syntax", f"No decoder for {stored}-bit JPEG-LS pixels in {name}")
    num_samples = form.rows * form.columns * form.samples
    num_bytes, num_over = divmod(len(raw), num_samples)
    if num_bytes not in (1, 2) or num_over > 1:  # GDCM adds a byte to an odd number
        raise rejection("damaged", "The compressed pixels give more or less than the image")
    samples = np.frombuffer(raw, _type_name(form, num_bytes), num_samples)
    # Whatever the header says, the samples of a pixel come together.
    return _arrange(samples, form, planar=0)


def _type_name(form: PixelFormat, num_bytes: int) -> str:
    return f"<{'i' if form.is_signed else 'u'}{num_bytes}"


def _arrange(samples: npt.NDArray[Any], form: PixelFormat, planar: int) -> npt.NDArray[Any]:
    """Returns samples, [N], widened to BitsAllocated, as [rows, columns] or [rows, columns, 3].

    Args:
        samples: as decoded, [N].
        form: what the header says.
        planar: of the samples, as in `PixelFormat`.
    """
    samples = samples.astype(_type_name(form, form.bits_allocated // 8), copy=False)
    if form.samples == 1:
        return samples.reshape(form.rows, form.columns)
    if planar:
        return samples.reshape(form.samples, form.rows, form.columns).transpose(1, 2, 0)
    return samples.reshape(form.rows, form.columns, form.samples)


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
        # Coded bytes may look like other markers, but never like this; most often it is the last
        if frame.rfind(END) >= 0:
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


def _decode_rle(frame: bytes, form: PixelFormat) -> npt.NDArray[Any]:
    """Returns the samples of an RLE frame.

    pydicom's own decoder expands a segment whatever its size, byte by byte in Python; Pillow's for
    the same coding in TIFF stops at the size that the header says.

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
        segment = frame[offsets[index] : ends[index]]
        try:  # as one long row, since some writers let runs cross the ends of rows
            row = Image.frombytes("L", (num_pixels, 1), segment, "packbits", "L")
        except ValueError:
            found = "The RLE pixels end before the image is full"
            raise rejection("damaged", found) from None
        decoded[plane, :, sample_bytes - 1 - byte] = np.asarray(row)[0]
    return _arrange(decoded.ravel().view(_type_name(form, sample_bytes)), form, planar=1)


def registered_name(identifier: str, unknown: str) -> str:
    """Returns a UID with its registered name; text that is not in the registry is not repeated."""
    if identifier not in UID_dictionary:
        return unknown
    return f"{identifier} ({UID_dictionary[identifier][0]})"
