"""From stored numbers to 8-bit grey: rescaling, windows and look-up tables.

Everything is computed once per possible stored value (65,536 at most) and applied as a table, so
no step costs memory or time per pixel beyond one look-up. Which numbers become black and white is
chosen in `value_range`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from orchestrator.data.decode import dicom_header as tags
from orchestrator.data.decode.dicom_header import Header
from orchestrator.data.decode.value_range import (
    Counts,
    Shown,
    choose_range,
    count_codes,
    misleads,
)
from orchestrator.data.limits import rejection

Table = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GreyTable:
    """The grey of every possible stored value.

    Attributes:
        table: uint8 [V].
        rule: a key of `rules.GREY_RULES`.
        notes: keys of `rules.DECODE_NOTES`.
    """

    table: Table
    rule: str
    notes: tuple[str, ...] = ()


def reduce_16_bits(stored: npt.NDArray[np.uint16], *, is_inverted: bool) -> tuple[Table, str]:
    """Returns 16-bit unsigned grey pixels as 8-bit ones, and the rule that was used.

    Args:
        stored: uint16 [H, W].
        is_inverted: whether zero stands for white.
    """
    values = np.arange(65536)
    shown = choose_range(values, count_codes(stored), (0, 65535))
    grey = _spread(values.astype(np.float64), shown)
    table = _finish(grey, is_inverted)
    return table[stored], shown.rule


def reduce_colour(samples: npt.NDArray[np.uint16], bits: int) -> tuple[Table, str]:
    """Returns colour samples of more than 8 bits as 8-bit ones, and the rule that was used.

    All colours share one range, so that grey stays grey.

    Args:
        samples: uint16 [H, W, 3].
        bits: the declared depth, 9 to 16.
    """
    values = np.arange(65536)
    shown = choose_range(values, count_codes(samples), (0, (1 << bits) - 1))
    return _truncate(values, shown)[samples], shown.rule


def build_grey_table(
    header: Header,
    values: npt.NDArray[np.int64],
    counts: Counts,
    declared: tuple[int, int],
    padding: npt.NDArray[np.bool_],
    *,
    is_inverted: bool,
) -> GreyTable:
    """Returns the displayed grey of every possible stored value of a DICOM image.

    The modality transform comes first (LUT, else rescale), then the VOI transform (LUT, else
    window, the first of several), then the inversion of MONOCHROME1. Without a VOI transform, or
    where it contradicts the pixels, the range of `choose_range` is spread from black to white.

    Args:
        header: the elements that describe the transforms; in an enhanced multi-frame object those
            of the first frame count before the shared ones.
        values: what each stored value stands for, [V].
        counts: pixels of each, [V].
        declared: lowest and highest value of the declared depth.
        padding: which values are declared as padding, [V]. It has no part in the range; where it
            lies outside, it is no value of the image and is shown black.
        is_inverted: whether the photometric interpretation is MONOCHROME1.

    Returns:
        The table, the rule and what was odd.

    Raises:
        ImageError: an element of a transform is malformed.

    Reference: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.6.16.2.9-10.
    """
    counts = np.where(padding, 0, counts)
    stored_shown = choose_range(values, counts, declared)
    output, shown, is_signed, notes = _apply_modality(
        header, values.astype(np.float64), counts, declared, stored_shown
    )
    grey, rule, more_notes = _apply_voi(header, output, counts, shown, is_signed)
    table = _finish(grey, is_inverted)
    table[padding & ((values < stored_shown.low) | (values > stored_shown.high))] = 0
    return GreyTable(table, rule, notes + more_notes)


def _apply_modality(
    header: Header, values: Values, counts: Counts, declared: tuple[int, int], shown: Shown
) -> tuple[Values, Shown, bool, tuple[str, ...]]:
    """Returns rescaled values, the range of them to show, whether they are signed, and notes."""
    lut = _lut_item(header, tags.MODALITY_LUT_SEQUENCE)
    if lut is not None:
        output, full_scale = _apply_lut(lut, values, declared[0] < 0)
        shown = choose_range(output, counts, (0, full_scale))
        return output, shown, False, _lut_notes(shown)
    ends = _rescale(header, np.array([shown.low, shown.high]))
    is_signed = bool(_rescale(header, np.array(declared, np.float64)).min() < 0)
    rescaled = Shown(float(ends.min()), float(ends.max()), shown.rule)
    return _rescale(header, values), rescaled, is_signed, ()


def _apply_voi(
    header: Header, values: Values, counts: Counts, shown: Shown, is_signed: bool
) -> tuple[Values, str, tuple[str, ...]]:
    """Returns values as displayed in 0..1, the rule that was used, and notes."""
    notes: tuple[str, ...] = ()
    lut = _lut_item(header, tags.VOI_LUT_SEQUENCE)
    if lut is not None:
        output, full_scale = _apply_lut(lut, values, is_signed)
        lut_shown = choose_range(output, counts, (0, full_scale))
        grey = _spread(output, lut_shown)
        if not misleads(values, grey, counts, shown):
            return grey, "voi_lut", _lut_notes(lut_shown)
        notes = ("voi_lut_ignored",)
    windowed = _apply_window(header, values)
    if windowed is not None:
        if not misleads(values, windowed, counts, shown):
            return windowed, "window", notes
        notes += ("window_ignored",)
    return _spread(values, shown), shown.rule, notes


def _lut_notes(shown: Shown) -> tuple[str, ...]:
    return ("lut_depth_corrected",) if shown.rule == "narrower_depth" else ()


def build_palette_table(header: Header, values: npt.NDArray[np.int64]) -> GreyTable:
    """Returns the grey of every possible stored value of a PALETTE COLOR image.

    Args:
        header: its three palettes.
        values: the stored values, [V].

    Returns:
        The table, luma after ITU-R 601, and the rule.

    Raises:
        ImageError: a palette is missing or malformed.

    Reference: DICOM PS3.3 C.7.6.3.1.5-6.
    """
    palettes = [
        _lut(header, descriptor, data, is_signed=bool(values[-1] < 0))
        for descriptor, data in zip(tags.PALETTE_DESCRIPTORS, tags.PALETTE_DATA, strict=True)
    ]
    colours = np.concatenate([entries for entries, _, _ in palettes])
    full_scale = max(max(bits for _, _, bits in palettes), 8)
    shown = choose_range(colours, np.ones_like(colours), (0, (1 << full_scale) - 1))
    planes = []
    for entries, first, _ in palettes:
        looked_up = entries[np.clip(values - first, 0, len(entries) - 1)]
        planes.append(_truncate(looked_up, shown))
    rgb = np.stack(planes, axis=-1)[np.newaxis]
    table: Table = np.asarray(Image.fromarray(rgb).convert("L"))[0]
    return GreyTable(table, shown.rule)


def _spread(values: Values, shown: Shown) -> Values:
    return (values - shown.low) / (shown.high - shown.low)


def _truncate(values: npt.NDArray[np.int64], shown: Shown) -> Table:
    """Returns colour values as 8-bit ones by dropping the lowest bits, as colour readers do."""
    steps = np.floor((values - shown.low) * 256 / (shown.high + 1 - shown.low))
    table: Table = np.clip(steps, 0.0, 255.0).astype(np.uint8)
    return table


def _finish(grey: Values, is_inverted: bool) -> Table:
    return np.rint(np.clip(1.0 - grey if is_inverted else grey, 0.0, 1.0) * 255.0).astype(np.uint8)


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
    function = group.code(tags.VOI_LUT_FUNCTION).upper() or "LINEAR"
    if function == "LINEAR":
        return (values - (center - 0.5)) / max(width - 1.0, 1e-9) + 0.5
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700.0, 700.0)))
    raise rejection("dicom_header", "VOILUTFunction is none of LINEAR, LINEAR_EXACT, SIGMOID")


def _lut_item(header: Header, sequence: int) -> Header | None:
    """Returns the look-up table of a sequence, or None where there is none or an empty one."""
    item = header.items.get(sequence)
    is_empty = item is None or not item.values.get(tags.LUT_DESCRIPTOR)
    return None if is_empty else item


def _apply_lut(item: Header, values: Values, is_signed: bool) -> tuple[Values, int]:
    """Returns values through a LUT, and the largest output of its depth."""
    entries, first, bits = _lut(item, tags.LUT_DESCRIPTOR, tags.LUT_DATA, is_signed=is_signed)
    index = np.clip(np.rint(values) - first, 0, len(entries) - 1).astype(np.intp)
    # Some write a depth that their own entries exceed
    return entries[index].astype(np.float64), (1 << max(bits, int(entries.max()).bit_length())) - 1


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
