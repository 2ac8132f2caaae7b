"""Turns the first frame of a DICOM image into 8-bit grey, as a viewer would show it.

Stored values go through the modality transform (LUT or rescale), the VOI transform (LUT or window)
and the inversion of MONOCHROME1, which `grey` computes. The header is read by `dicom_header`, the
pixels by `dicom_pixels`, colour is told from `colour`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import uid

from orchestrator.data.decode import dicom_header as tags
from orchestrator.data.decode.colour import colour_to_grey
from orchestrator.data.decode.dicom_header import Header
from orchestrator.data.decode.dicom_pixels import (
    PixelFormat,
    StoredPixels,
    check_syntax,
    decode_pixels,
    registered_name,
)
from orchestrator.data.decode.grey import build_grey_table, build_palette_table
from orchestrator.data.decode.rules import GreyImage
from orchestrator.data.decode.value_range import count_codes
from orchestrator.data.limits import Limits, Stopwatch, rejection

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_PALETTE = "PALETTE COLOR"

# Objects that have pixels but are no pictures of anything.
_NOT_IMAGES = (uid.RTDoseStorage, uid.SegmentationStorage, uid.ParametricMapStorage)


def decode_dicom(header: Header, limits: Limits, watch: Stopwatch) -> GreyImage:
    """Returns the first frame of a DICOM file as 8-bit grey, as displayed.

    Args:
        header: of the file, from `read_header`.
        limits: checked on the header, before pixels are touched.
        watch: checked between the steps.

    Raises:
        ImageError: not an image, over a limit, or not decodable. Other exceptions may come out of
            the libraries; their text must not be shown.
    """
    _check_object(header)
    pixel_format = read_format(header, limits)
    watch.check()
    stored = decode_pixels(header, pixel_format)
    watch.check()
    grey = _to_grey(stored, header)
    watch.check()
    return grey


def _check_object(header: Header) -> None:
    """Raises `ImageError` where the object is something else than an image."""
    media_class = header.code(tags.MEDIA_SOP_CLASS)
    if tags.DIRECTORY_RECORDS in header.values or media_class == uid.MediaStorageDirectoryStorage:
        raise rejection("dicom_directory", "A DICOMDIR")
    sop_class = header.code(tags.SOP_CLASS) or media_class
    name = registered_name(sop_class, "unregistered class")
    if header.pixels is None:
        raise rejection("dicom_not_an_image", f"A DICOM object without pixels: {name}")
    if sop_class in _NOT_IMAGES:
        raise rejection("dicom_not_an_image", f"A DICOM object that is not an image: {name}")
    if header.pixels_tag != tags.PIXEL_DATA:
        raise rejection("unsupported_pixels", "The pixels are floating-point numbers")


def read_format(header: Header, limits: Limits) -> PixelFormat:
    """Returns what the header says of the pixels, after checking it against the limits."""
    rows, columns = header.integer(tags.ROWS), header.integer(tags.COLUMNS)
    limits.check_pixels(columns, rows)
    num_frames = int(header.number(tags.NUMBER_OF_FRAMES) or 1)
    limits.check_frames(num_frames)
    samples = header.integer(tags.SAMPLES_PER_PIXEL, default=1)
    photometric = header.code(tags.PHOTOMETRIC_INTERPRETATION).upper()
    allocated = header.integer(tags.BITS_ALLOCATED)
    stored = header.integer(tags.BITS_STORED, default=allocated)
    high_bit = header.integer(tags.HIGH_BIT, default=stored - 1)
    signed = header.integer(tags.PIXEL_REPRESENTATION, default=0)
    planar = header.integer(tags.PLANAR_CONFIGURATION, default=0)
    if not photometric:  # grey that may run from black to white or the reverse
        raise rejection("dicom_header", "PhotometricInterpretation is absent")
    expected_samples = {1: (*_GREY, _PALETTE), 3: _COLOUR}
    if photometric not in expected_samples.get(samples, ()):
        found = "PhotometricInterpretation and SamplesPerPixel do not describe grey or colour"
        raise rejection("unsupported_pixels", found)
    if allocated not in (8, 16):
        raise rejection("unsupported_pixels", f"BitsAllocated is {allocated}, expected 8 or 16")
    if planar not in (0, 1):
        raise rejection("unsupported_pixels", f"PlanarConfiguration is {planar}, expected 0 or 1")
    if not 1 <= stored <= allocated or high_bit != stored - 1 or signed not in (0, 1):
        found = f"BitsStored {stored}, HighBit {high_bit}, PixelRepresentation {signed}"
        raise rejection("unsupported_pixels", f"{found} do not fit BitsAllocated {allocated}")
    return PixelFormat(
        syntax=check_syntax(header),
        rows=rows,
        columns=columns,
        num_frames=max(num_frames, 1),
        samples=samples,
        photometric=photometric,
        planar=planar,
        bits_allocated=allocated,
        bits_stored=stored,
        is_signed=signed == 1,
    )


def _to_grey(stored: StoredPixels, header: Header) -> GreyImage:
    """Returns stored values as displayed 8-bit grey, by one table look-up per pixel."""
    form, notes = stored.form, stored.notes
    if form.samples == 3:
        grey = colour_to_grey(stored.values, form.bits_stored, is_ybr=stored.is_ybr)
        return grey.noted(*notes)
    if stored.values.shape != (form.rows, form.columns):
        raise rejection("damaged", "The pixels and the header differ in size")
    codes = stored.values.astype(stored.values.dtype.newbyteorder("="), copy=False)
    codes = codes.view(np.uint8 if codes.dtype.itemsize == 1 else np.uint16)
    counts = count_codes(codes)
    values, declared, more_notes = _read_bits(codes, counts, form)
    if form.photometric == _PALETTE:
        built = build_palette_table(header, values)
        return GreyImage(Image.fromarray(built.table[codes]), built.rule, notes + built.notes)
    padding = _find_padding(header, form, len(values))
    is_inverted = form.photometric == "MONOCHROME1"
    built = build_grey_table(header, values, counts, declared, padding, is_inverted=is_inverted)
    return GreyImage(
        Image.fromarray(built.table[codes]), built.rule, notes + more_notes + built.notes
    )


def _read_bits(
    codes: npt.NDArray[Any], counts: npt.NDArray[np.int64], form: PixelFormat
) -> tuple[npt.NDArray[np.int64], tuple[int, int], tuple[str, ...]]:
    """Returns what each container value stands for, the range of the depth, and what was odd.

    Bits above BitsStored may hold an overlay, a sign that was not extended, or the image itself
    where BitsStored is wrong. An image is smooth, so the reading with the smaller steps between
    neighbours is taken.
    """
    container = np.arange(len(counts))
    whole = _twos_complement(container, len(counts)) if form.is_signed else container
    stored_range = 1 << form.bits_stored
    masked = container % stored_range
    masked = _twos_complement(masked, stored_range) if form.is_signed else masked
    differ = (whole != masked) & (counts > 0)
    values, bits = masked, form.bits_stored
    notes: tuple[str, ...] = ()
    if differ.any():
        if _roughness(whole, codes) < _roughness(masked, codes):
            values, bits, notes = whole, 8 * codes.dtype.itemsize, ("bits_exceeded",)
        elif not form.is_signed:
            notes = ("high_bits_masked",)
    half = 1 << (bits - 1)
    return values, (-half, half - 1) if form.is_signed else (0, 2 * half - 1), notes


def _twos_complement(values: npt.NDArray[np.int64], num_values: int) -> npt.NDArray[np.int64]:
    return np.where(values < num_values // 2, values, values - num_values)


def _roughness(values: npt.NDArray[np.int64], codes: npt.NDArray[Any]) -> float:
    """Returns the mean step between neighbours in a row, over every fourth row."""
    return float(np.abs(np.diff(values[codes[::4]], axis=1)).mean())


def _find_padding(header: Header, form: PixelFormat, num_values: int) -> npt.NDArray[np.bool_]:
    """Returns which container values are declared as padding around the image, [V].

    Reference: DICOM PS3.3 C.7.5.1.1.2.
    """
    padding = np.zeros(num_values, np.bool_)
    found = header.words(tags.PIXEL_PADDING_VALUE)[:1]
    if found:
        found += header.words(tags.PIXEL_PADDING_RANGE_LIMIT)[:1]
        container = np.arange(num_values)
        if form.is_signed:
            container = _twos_complement(container, num_values)
            found = [each - 65536 if each >= 32768 else each for each in found]
        padding = (container >= min(found)) & (container <= max(found))
    return padding
