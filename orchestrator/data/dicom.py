"""Turns the first frame of a DICOM image into 8-bit grey, as a viewer would show it.

Stored values go through the modality transform (LUT or rescale), the VOI transform (LUT or window)
and the inversion of MONOCHROME1. The header is read by `dicom_header`; pydicom and its plugins see
pixel data and numbers only, never text.
"""

import hashlib
import hmac
import logging
import struct
import warnings
from dataclasses import dataclass
from typing import Any

import gdcm
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate, get_frame
from pydicom._uid_dict import UID_dictionary
from pydicom.pixels.decoders.base import get_decoder

from orchestrator.data import dicom_header as tags
from orchestrator.data.codestream import read_jpeg, read_jpeg2000
from orchestrator.data.dicom_header import Header, read_header
from orchestrator.data.grey import build_grey_table, build_palette_table, stored_range
from orchestrator.data.limits import Limits, Stopwatch, rejection

# The libraries report what they cannot decode by log, warning and trace as well as by exception.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"pydicom\b")
gdcm.Trace.DebugOff()
gdcm.Trace.WarningOff()
gdcm.Trace.ErrorOff()

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_PALETTE = "PALETTE COLOR"

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
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
}
_JPEG2000 = (
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
)
# Objects that have pixels but are no pictures of anything.
_NOT_IMAGES = (uid.RTDoseStorage, uid.SegmentationStorage, uid.ParametricMapStorage)


@dataclass(frozen=True)
class DicomImage:
    """The first frame of a DICOM file.

    Attributes:
        grey: 8-bit image of mode "L", as displayed.
        patient_id: keyed hash of the patient's identifier, or None.
    """

    grey: Image.Image
    patient_id: str | None


@dataclass(frozen=True)
class _PixelFormat:
    """The numbers that describe stored pixels, checked."""

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


def decode_dicom(
    data: bytes, limits: Limits, watch: Stopwatch, patient_key: bytes | None = None
) -> DicomImage:
    """Returns the first frame of a DICOM file as 8-bit grey.

    Args:
        data: the whole file, for which `dicom_header.is_dicom` holds.
        limits: checked on the header, before pixels are touched.
        watch: checked between the steps.
        patient_key: key of the patient hash; without it no identifier is kept.

    Returns:
        The image and the hashed patient id.

    Raises:
        ImageError: not an image, over a limit, or not decodable. Other exceptions may come out of
            the libraries; their text must not be shown.
    """
    header = read_header(data, limits, watch)
    _check_object(header)
    pixel_format = _read_format(header, limits)
    watch.check()
    stored = _decode_pixels(header, pixel_format)
    watch.check()
    grey = _to_grey(stored, header, pixel_format)
    watch.check()
    return DicomImage(grey, _hash_patient(header, patient_key) if patient_key else None)


def _hash_patient(header: Header, key: bytes) -> str | None:
    """Returns the keyed hash of the patient's id and its issuer, from their bytes as stored."""
    patient = header.values.get(tags.PATIENT_ID, b"").strip(b" \0")
    issuer = header.values.get(tags.ISSUER_OF_PATIENT_ID, b"").strip(b" \0")
    if not patient:
        return None
    digest = hmac.new(key, patient + (b"\0" + issuer if issuer else b""), hashlib.sha256)
    return "hmac:" + digest.hexdigest()[:32]


def _registered_name(identifier: str, unknown: str) -> str:
    """Returns a UID with its registered name; text that is not in the registry is not repeated."""
    if identifier not in UID_dictionary:
        return unknown
    return f"{identifier} ({UID_dictionary[identifier][0]})"


def _check_object(header: Header) -> None:
    """Raises `ImageError` where the object is something else than an image."""
    media_class = header.code(tags.MEDIA_SOP_CLASS)
    if tags.DIRECTORY_RECORDS in header.values or media_class == uid.MediaStorageDirectoryStorage:
        raise rejection("dicom_directory", "A DICOMDIR")
    sop_class = header.code(tags.SOP_CLASS) or media_class
    name = _registered_name(sop_class, "unregistered class")
    if header.pixels is None:
        raise rejection("dicom_not_an_image", f"A DICOM object without pixels: {name}")
    if sop_class in _NOT_IMAGES or header.pixels_tag != tags.PIXEL_DATA:
        raise rejection("dicom_not_an_image", f"A DICOM object that is no image: {name}")


def _read_format(header: Header, limits: Limits) -> _PixelFormat:
    """Returns what the header says of the pixels, after checking it against the limits."""
    rows, columns = header.integer(tags.ROWS), header.integer(tags.COLUMNS)
    limits.check_pixels(columns, rows)
    num_frames = int(header.number(tags.NUMBER_OF_FRAMES) or 1)
    limits.check_frames(num_frames)
    samples = header.integer(tags.SAMPLES_PER_PIXEL, default=1)
    photometric = header.code(tags.PHOTOMETRIC_INTERPRETATION)
    allocated = header.integer(tags.BITS_ALLOCATED)
    stored = header.integer(tags.BITS_STORED, default=allocated)
    high_bit = header.integer(tags.HIGH_BIT, default=stored - 1)
    signed = header.integer(tags.PIXEL_REPRESENTATION, default=0)
    expected_samples = {1: (*_GREY, _PALETTE), 3: _COLOUR}
    if photometric not in expected_samples.get(samples, ()):
        found = "PhotometricInterpretation and SamplesPerPixel do not describe grey or colour"
        raise rejection("unsupported_pixels", found)
    if allocated not in (8, 16):
        raise rejection("unsupported_pixels", f"BitsAllocated is {allocated}, expected 8 or 16")
    if not 1 <= stored <= allocated or high_bit != stored - 1 or signed not in (0, 1):
        found = f"BitsStored {stored}, HighBit {high_bit}, PixelRepresentation {signed}"
        raise rejection("unsupported_pixels", f"{found} do not fit BitsAllocated {allocated}")
    return _PixelFormat(
        syntax=_transfer_syntax(header),
        rows=rows,
        columns=columns,
        num_frames=max(num_frames, 1),
        samples=samples,
        photometric=photometric,
        planar=header.integer(tags.PLANAR_CONFIGURATION, default=0),
        bits_allocated=allocated,
        bits_stored=stored,
        is_signed=signed == 1,
    )


def _transfer_syntax(header: Header) -> str:
    """Returns the transfer syntax, which must be one that can be decoded here."""
    syntax = header.code(tags.TRANSFER_SYNTAX)
    if not syntax and not header.is_encapsulated:
        # Without file meta the byte order was told by content; it is all that native pixels need.
        return str(
            uid.ExplicitVRLittleEndian if header.is_little_endian else uid.ExplicitVRBigEndian
        )
    if not syntax:
        raise rejection("dicom_syntax", "Compressed pixels without a TransferSyntaxUID")
    if syntax not in _NATIVE and syntax not in _PLUGINS and syntax != uid.RLELossless:
        name = _registered_name(syntax, "a UID that is not in the DICOM registry")
        raise rejection("dicom_syntax", f"No decoder for the transfer syntax {name}")
    if (syntax in _NATIVE) == header.is_encapsulated:
        raise rejection("damaged", "TransferSyntaxUID and pixels disagree on compression")
    return syntax


def _decode_pixels(header: Header, form: _PixelFormat) -> npt.NDArray[Any]:
    """Returns the stored values of the first frame, [rows, columns] or [rows, columns, 3]."""
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
            pixels, plugin = encapsulate([frame]), _PLUGINS[uid.UID(syntax)]
    decoder = get_decoder(syntax)
    values, _ = decoder.as_array(pixels, index=0, decoding_plugin=plugin, **options)
    return values


def _first_frame(header: Header, form: _PixelFormat) -> bytes:
    """Returns the compressed stream of the first frame, joined from its fragments."""
    offsets = header.values.get(tags.EXTENDED_OFFSETS)
    lengths = header.values.get(tags.EXTENDED_LENGTHS)
    extended = (offsets, lengths) if offsets and lengths else None
    return get_frame(
        bytes(header.pixels or b""),
        0,
        number_of_frames=form.num_frames,
        extended_offsets=extended,
    )


def _check_codestream(frame: bytes, form: _PixelFormat) -> None:
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
    if form.syntax == uid.JPEGExtended12Bit and stream.precision_bits != 8:
        name = _registered_name(form.syntax, "")
        found = f"No decoder for {stream.precision_bits}-bit pixels in the transfer syntax {name}"
        raise rejection("dicom_syntax", found)


def _decode_rle(frame: bytes, form: _PixelFormat) -> bytes:
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


def _to_grey(stored: npt.NDArray[Any], header: Header, form: _PixelFormat) -> Image.Image:
    """Returns stored values as displayed 8-bit grey, by one table look-up per pixel."""
    if form.samples == 3:
        eight_bits = (stored >> max(form.bits_stored - 8, 0)).astype(np.uint8)
        return Image.fromarray(eight_bits).convert("L")
    if stored.shape != (form.rows, form.columns):
        raise rejection("damaged", "The pixels and the header differ in size")
    codes = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    codes = codes.view(np.uint8 if codes.dtype.itemsize == 1 else np.uint16)
    # What each container value stands for, two's complement where signed
    values = np.arange(256**codes.dtype.itemsize)
    if form.is_signed:
        values = np.where(values < len(values) // 2, values, values - len(values))
    if form.photometric == _PALETTE:
        table = build_palette_table(header, values)
    else:
        shown = stored_range(stored, form.bits_stored, is_signed=form.is_signed)
        is_inverted = form.photometric == "MONOCHROME1"
        table = build_grey_table(header, values, shown, is_inverted=is_inverted)
    return Image.fromarray(table[codes])
