"""From stored numbers to 8-bit grey: bit depths, rescaling, windows and look-up tables.

Everything is computed once per possible stored value (65,536 at most) and applied as a table, so
no step costs memory or time per pixel beyond one look-up.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from orchestrator.data.decode import dicom_header as tags
from orchestrator.data.decode.dicom_header import Header
from orchestrator.data.limits import rejection

Table = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]

_USUAL_DEPTHS_BITS = (8, 10, 12, 14, 16)


def stored_range(stored: npt.NDArray[Any], bits: int, *, is_signed: bool) -> tuple[int, int]:
    """Returns the range of stored values that is shown from black to white.

    The declared depth is believed, except 16 bits, which much software declares for detectors of
    10, 12 or 14: then the smallest usual depth that holds every pixel is taken. Otherwise such an
    image would come out nearly black.

    Args:
        stored: the pixels, any integer dtype.
        bits: the declared depth, 1 to 16.
        is_signed: whether the range is symmetric about zero.

    Returns:
        The lowest and the highest value of the range.
    """
    if bits == 16:
        lowest, highest = int(stored.min()), int(stored.max())
        needed = max(highest, -lowest - 1).bit_length() + is_signed
        bits = next(depth for depth in _USUAL_DEPTHS_BITS if depth >= needed)
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if is_signed else (0, (1 << bits) - 1)


def reduce_16_bits(stored: npt.NDArray[Any], *, is_inverted: bool = False) -> Table:
    """Returns 16-bit unsigned grey pixels as 8-bit ones.

    Args:
        stored: uint16 [H, W].
        is_inverted: whether zero stands for white.

    Returns:
        uint8 [H, W], scaled by `stored_range`.
    """
    _, highest = stored_range(stored, 16, is_signed=False)
    grey = np.arange(65536) / highest
    table = _quantise(1.0 - grey if is_inverted else grey)
    grey_pixels: Table = table[stored]
    return grey_pixels


def build_grey_table(
    header: Header, values: npt.NDArray[Any], shown: tuple[int, int], *, is_inverted: bool
) -> Table:
    """Returns the displayed grey of every possible stored value of a DICOM image.

    The modality transform comes first (LUT, else rescale), then the VOI transform (LUT, else
    window, the first of several), then the inversion of MONOCHROME1. Without a VOI transform the
    range `shown` is spread from black to white.

    Args:
        header: the elements that describe the transforms; in an enhanced multi-frame object those
            of the first frame count before the shared ones.
        values: the stored values, [V].
        shown: lowest and highest stored value of the image's depth.
        is_inverted: whether the photometric interpretation is MONOCHROME1.

    Returns:
        uint8 [V].

    Raises:
        ImageError: an element of a transform is malformed.

    Reference: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.6.16.2.9-10.
    """
    low_high = np.asarray(shown, np.float64)
    modality = header.items.get(tags.MODALITY_LUT_SEQUENCE)
    if modality is not None:
        is_signed = shown[0] < 0
        output, full_scale = _apply_lut(modality, np.asarray(values, np.float64), is_signed)
        low_high = np.array([0.0, full_scale])
    else:
        output = _rescale(header, np.asarray(values, np.float64))
        low_high = np.sort(_rescale(header, low_high))
    voi = header.items.get(tags.VOI_LUT_SEQUENCE)
    if voi is not None:
        output, full_scale = _apply_lut(voi, output, bool(low_high[0] < 0))
        grey = output / full_scale
    else:
        windowed = _apply_window(header, output)
        spread = (output - low_high[0]) / (low_high[1] - low_high[0])
        grey = spread if windowed is None else windowed
    return _quantise(1.0 - grey if is_inverted else grey)


def build_palette_table(header: Header, values: npt.NDArray[Any]) -> Table:
    """Returns the grey of every possible stored value of a PALETTE COLOR image.

    Args:
        header: its three palettes.
        values: the stored values, [V].

    Returns:
        uint8 [V], luma after ITU-R 601.

    Raises:
        ImageError: a palette is missing or malformed.

    Reference: DICOM PS3.3 C.7.6.3.1.5-6.
    """
    planes = []
    for descriptor, data in zip(tags.PALETTE_DESCRIPTORS, tags.PALETTE_DATA, strict=True):
        entries, first, _ = _lut(header, descriptor, data, is_signed=bool(values[-1] < 0))
        colours = entries >> 8 if entries.max() > 255 else entries
        planes.append(colours[np.clip(values - first, 0, len(entries) - 1)].astype(np.uint8))
    rgb = np.stack(planes, axis=-1)[np.newaxis]
    table: Table = np.asarray(Image.fromarray(rgb).convert("L"))[0]
    return table


def _quantise(grey: Values) -> Table:
    return np.rint(np.clip(grey, 0.0, 1.0) * 255.0).astype(np.uint8)


def _group(header: Header, sequence: int) -> Header:
    """Returns the item of a functional group for the first frame, or the header itself."""
    for groups in (tags.PER_FRAME_GROUPS, tags.SHARED_GROUPS):
        if groups in header.items and sequence in header.items[groups].items:
            return header.items[groups].items[sequence]
    return header


def _rescale(header: Header, stored: Values) -> Values:
    group = _group(header, tags.PIXEL_VALUE_TRANSFORMATION)
    slope, intercept = group.number(tags.RESCALE_SLOPE), group.number(tags.RESCALE_INTERCEPT)
    if slope == 0:
        raise rejection("dicom_header", "RescaleSlope is zero")
    return stored * (1.0 if slope is None else slope) + (intercept or 0.0)


def _apply_window(header: Header, values: Values) -> Values | None:
    """Returns windowed values in 0..1, or None where there is no usable window.

    Reference: DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3.
    """
    group = _group(header, tags.FRAME_VOI_LUT)
    center, width = group.number(tags.WINDOW_CENTER), group.number(tags.WINDOW_WIDTH)
    if center is None or width is None or width <= 0:  # some equipment writes 0\0 for none
        return None
    function = group.code(tags.VOI_LUT_FUNCTION) or "LINEAR"
    if function == "LINEAR":
        return (values - (center - 0.5)) / max(width - 1.0, 1e-9) + 0.5
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700.0, 700.0)))
    raise rejection("dicom_header", "VOILUTFunction is none of LINEAR, LINEAR_EXACT, SIGMOID")


def _apply_lut(item: Header, values: Values, is_signed: bool) -> tuple[Values, float]:
    """Returns values through a LUT, and the largest output its depth allows."""
    lut = _lut(item, tags.LUT_DESCRIPTOR, tags.LUT_DATA, is_signed=is_signed)
    entries, first, bits = lut
    index = np.clip(np.rint(values) - first, 0, len(entries) - 1).astype(np.intp)
    # Some write a depth that their own entries exceed
    full_scale = float(max((1 << bits) - 1, int(entries.max())))
    return entries[index].astype(np.float64), full_scale


def _lut(
    item: Header, descriptor: int, data: int, *, is_signed: bool
) -> tuple[npt.NDArray[np.int64], int, int]:
    """Returns the entries of a look-up table, the first value mapped and the bits per entry."""
    words = item.words(descriptor)
    raw = item.values.get(data, b"")
    if len(words) != 3 or not 1 <= words[2] <= 16:
        raise rejection("dicom_header", "A LUT descriptor is missing or malformed")
    num_entries, first, bits = words[0] or 65536, words[1], words[2]
    if is_signed and first >= 32768:
        first -= 65536
    if len(raw) >= 2 * num_entries:
        entries = np.array(item.words(data)[:num_entries], np.int64)
    elif len(raw) >= num_entries:  # 8-bit entries, packed
        entries = np.frombuffer(raw[:num_entries], np.uint8).astype(np.int64)
    else:
        raise rejection("dicom_header", "A LUT has fewer entries than its descriptor says")
    return entries, first, bits
