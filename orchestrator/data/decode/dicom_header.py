"""Reads the few DICOM elements that are needed to decode an image and to say what it is of.

Every other element is stepped over by its length: its value is never read, decoded or kept, so no
text of a header can reach a message, a log or a warning of a library. That is why this is not left
to a general reader. What the values mean is the business of `dicom` and `dicom_facts`.

Over 300 lines: a whole parser, which shares its state.

Reference: DICOM PS3.5 section 7 (data elements, sequences), PS3.10 section 7 (file meta).
"""

import math
import struct
import zlib
from dataclasses import dataclass, field

from orchestrator.data.limits import Limits, Stopwatch, rejection
from orchestrator.errors import ImageError

MEDIA_SOP_CLASS = 0x0002_0002
TRANSFER_SYNTAX = 0x0002_0010
DIRECTORY_RECORDS = 0x0004_1220
SOP_CLASS = 0x0008_0016
SOP_UID = 0x0008_0018
STUDY_DATE = 0x0008_0020
MODALITY = 0x0008_0060
PRESENTATION_INTENT = 0x0008_0068
MANUFACTURER = 0x0008_0070
CODE_VALUE = 0x0008_0100
DEVICE_MODEL = 0x0008_1090
PATIENT_NAME = 0x0010_0010
PATIENT_ID = 0x0010_0020
ISSUER_OF_PATIENT_ID = 0x0010_0021
BIRTH_DATE = 0x0010_0030
PATIENT_SEX = 0x0010_0040
PATIENT_AGE = 0x0010_1010
BODY_PART = 0x0018_0015
VIEW_POSITION = 0x0018_5101
STUDY_UID = 0x0020_000D
SERIES_UID = 0x0020_000E
SAMPLES_PER_PIXEL = 0x0028_0002
PHOTOMETRIC_INTERPRETATION = 0x0028_0004
PLANAR_CONFIGURATION = 0x0028_0006
NUMBER_OF_FRAMES = 0x0028_0008
ROWS = 0x0028_0010
COLUMNS = 0x0028_0011
BITS_ALLOCATED = 0x0028_0100
BITS_STORED = 0x0028_0101
HIGH_BIT = 0x0028_0102
PIXEL_REPRESENTATION = 0x0028_0103
PIXEL_PADDING_VALUE = 0x0028_0120
PIXEL_PADDING_RANGE_LIMIT = 0x0028_0121
BURNED_IN_ANNOTATION = 0x0028_0301
WINDOW_CENTER = 0x0028_1050
WINDOW_WIDTH = 0x0028_1051
RESCALE_INTERCEPT = 0x0028_1052
RESCALE_SLOPE = 0x0028_1053
VOI_LUT_FUNCTION = 0x0028_1056
PALETTE_DESCRIPTORS = (0x0028_1101, 0x0028_1102, 0x0028_1103)
PALETTE_DATA = (0x0028_1201, 0x0028_1202, 0x0028_1203)
MODALITY_LUT_SEQUENCE = 0x0028_3000
LUT_DESCRIPTOR = 0x0028_3002
LUT_DATA = 0x0028_3006
VOI_LUT_SEQUENCE = 0x0028_3010
FRAME_VOI_LUT = 0x0028_9132
PIXEL_VALUE_TRANSFORMATION = 0x0028_9145
VIEW_CODES = 0x0054_0220
SHARED_GROUPS = 0x5200_9229
PER_FRAME_GROUPS = 0x5200_9230
EXTENDED_OFFSETS = 0x7FE0_0001
EXTENDED_LENGTHS = 0x7FE0_0002
FLOAT_PIXEL_DATA = 0x7FE0_0008
DOUBLE_PIXEL_DATA = 0x7FE0_0009
PIXEL_DATA = 0x7FE0_0010

NAMES = {
    SAMPLES_PER_PIXEL: "SamplesPerPixel",
    PHOTOMETRIC_INTERPRETATION: "PhotometricInterpretation",
    PLANAR_CONFIGURATION: "PlanarConfiguration",
    NUMBER_OF_FRAMES: "NumberOfFrames",
    ROWS: "Rows",
    COLUMNS: "Columns",
    BITS_ALLOCATED: "BitsAllocated",
    BITS_STORED: "BitsStored",
    HIGH_BIT: "HighBit",
    PIXEL_REPRESENTATION: "PixelRepresentation",
    PIXEL_PADDING_VALUE: "PixelPaddingValue",
    PIXEL_PADDING_RANGE_LIMIT: "PixelPaddingRangeLimit",
    WINDOW_CENTER: "WindowCenter",
    WINDOW_WIDTH: "WindowWidth",
    RESCALE_INTERCEPT: "RescaleIntercept",
    RESCALE_SLOPE: "RescaleSlope",
    VOI_LUT_FUNCTION: "VOILUTFunction",
    LUT_DESCRIPTOR: "LUTDescriptor",
    LUT_DATA: "LUTData",
}
# The allowlist. Of a sequence the first item is read: what describes the image, no identifiers.
_SEQUENCES = frozenset(
    [
        MODALITY_LUT_SEQUENCE,
        VOI_LUT_SEQUENCE,
        FRAME_VOI_LUT,
        PIXEL_VALUE_TRANSFORMATION,
        VIEW_CODES,
        SHARED_GROUPS,
        PER_FRAME_GROUPS,
    ]
)
_VALUES = frozenset(
    [
        *(MEDIA_SOP_CLASS, TRANSFER_SYNTAX, SOP_CLASS, PATIENT_ID, ISSUER_OF_PATIENT_ID),
        *(SOP_UID, STUDY_UID, SERIES_UID, MODALITY, PRESENTATION_INTENT, MANUFACTURER),
        *(DEVICE_MODEL, PATIENT_SEX, PATIENT_AGE, BODY_PART, VIEW_POSITION, BURNED_IN_ANNOTATION),
        *(PATIENT_NAME, BIRTH_DATE, STUDY_DATE),  # never kept of a file: see `dicom_facts`
        *(EXTENDED_OFFSETS, EXTENDED_LENGTHS, *NAMES, *PALETTE_DESCRIPTORS, *PALETTE_DATA),
    ]
)
_KEPT = _VALUES | _SEQUENCES
_KEPT_IN_ITEM = _SEQUENCES | frozenset([*NAMES, CODE_VALUE])
_PIXELS = frozenset([PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_PIXEL_DATA])

_LONG_LENGTH = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD
_UNDEFINED = 0xFFFF_FFFF
_MAX_DEPTH = 32  # of sequences within sequences; real headers reach about 8
_DEFLATED = b"1.2.840.10008.1.2.1.99"


@dataclass
class Header:
    """The allowed elements of one data set or of one sequence item.

    Attributes:
        values: raw bytes by tag, in the byte order of the data set.
        items: the first item of each allowed sequence, by the sequence's tag.
        is_little_endian: byte order of `values` and of native pixels.
        pixels: the value of the pixel element; None where there is none.
        pixels_tag: which of the three pixel elements it is; 0 where there is none.
        pixels_vr: its value representation, `b""` where implicit.
        is_encapsulated: whether `pixels` is a row of fragments of a compressed stream.
    """

    values: dict[int, bytes] = field(default_factory=dict)
    items: dict[int, "Header"] = field(default_factory=dict)
    is_little_endian: bool = True
    pixels: memoryview | None = None
    pixels_tag: int = 0
    pixels_vr: bytes = b""
    is_encapsulated: bool = False

    def code(self, tag: int) -> str:
        """Returns a code string or UID without its padding; "" where absent or not ASCII."""
        text = self.values.get(tag, b"").strip(b" \0")
        return text.decode("ascii") if text.isascii() else ""

    def integer(self, tag: int, default: int | None = None) -> int:
        """Returns an unsigned 16-bit element.

        Raises:
            ImageError: it is of another length, or absent and without a default.
        """
        raw = self.values.get(tag, b"")
        if not raw and default is not None:
            return default
        if not raw:
            raise rejection("dicom_header", f"{NAMES[tag]} is missing")
        if len(raw) != 2:
            raise rejection("dicom_header", f"{NAMES[tag]} has {len(raw)} bytes, expected 2")
        return int.from_bytes(raw, "little" if self.is_little_endian else "big")

    def number(self, tag: int) -> float | None:
        """Returns the first value of a decimal string; None where absent or empty.

        Raises:
            ImageError: it is not a finite number.
        """
        text = self.values.get(tag, b"").split(b"\\", 1)[0].strip(b" \0")
        if not text:
            return None
        try:
            value = float(text) if len(text) <= 64 else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise rejection("dicom_header", f"{NAMES[tag]} is not a number")
        return value

    def words(self, tag: int) -> list[int]:
        """Returns an element of unsigned 16-bit words."""
        raw = self.values.get(tag, b"")
        order = "<" if self.is_little_endian else ">"
        return list(struct.unpack(f"{order}{len(raw) // 2}H", raw[: len(raw) // 2 * 2]))


def is_dicom(data: bytes) -> bool:
    """Tells whether the content is DICOM, with or without the 128-byte preamble.

    Without it, the file must open with an element of group 0002 (file meta) or 0008 (the first
    group of every data set), in either byte order, whose header makes sense.
    """
    if data[128:132] == b"DICM":
        return True
    if data[:2] in (b"\x02\x00", b"\x08\x00"):
        length = int.from_bytes(data[4:8], "little")
        return data[3:4] == b"\x00" and (_has_vr(data, 0) or length < min(len(data), 1 << 16))
    return data[:3] == b"\x00\x08\x00" and _has_vr(data, 0)


def read_header(data: bytes, limits: Limits, watch: Stopwatch) -> Header:
    """Returns the allowed elements of a DICOM file, file meta included.

    Reading stops at the pixels, which are the last element that matters.

    Args:
        data: the whole file, for which `is_dicom` holds.
        limits: `max_bytes` bounds what a deflated data set may inflate to.
        watch: checked at every element.

    Returns:
        The header; only the presence of a directory or of pixels is certain to be noted.

    Raises:
        ImageError: the elements do not follow each other as they must.
    """
    start = 132 if data[128:132] == b"DICM" else 0
    meta = Header()
    walker = _Elements(data, meta, watch, is_explicit=_has_vr(data, start))
    position = walker.read(start, len(data), group=2)
    if meta.code(TRANSFER_SYNTAX).encode() == _DEFLATED:
        data, position = _inflate(data[position:], limits), 0
    header = Header(values=meta.values)
    # No data set starts above group 00FF, so a zero first means big endian. Some writers say one
    # byte order, or explicit, and write the other: the bytes decide.
    header.is_little_endian = data[position : position + 1] != b"\x00"
    is_explicit = _has_vr(data, position)
    _Elements(data, header, watch, is_explicit=is_explicit).read(position, len(data))
    return header


def _has_vr(data: bytes, position: int) -> bool:
    """Tells whether the element at a position spells out its value representation."""
    vr = data[position + 4 : position + 6]
    return len(vr) == 2 and vr.isalpha() and vr.isupper()


def _inflate(data: bytes, limits: Limits) -> bytes:
    """Returns a deflated data set, never inflating past the limit on bytes."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, limits.max_bytes + 1)
    except zlib.error:
        inflated = b""
    limits.check_bytes(len(inflated))
    if not inflater.eof:
        raise rejection("damaged", "The deflated DICOM data set does not inflate")
    return inflated


class _Elements:
    """Walks the elements of one data set, keeping those of `kept` in `header`."""

    def __init__(
        self,
        data: bytes,
        header: Header,
        watch: Stopwatch,
        *,
        is_explicit: bool,
        kept: frozenset[int] = _KEPT,
        depth: int = 0,
    ) -> None:
        if depth > _MAX_DEPTH:
            raise rejection("damaged", f"DICOM sequences nested over {_MAX_DEPTH} deep")
        self._data = data
        self._header = header
        self._watch = watch
        self._kept = kept
        self._is_explicit = is_explicit
        self._depth = depth
        order = "<" if header.is_little_endian else ">"
        self._tag = struct.Struct(f"{order}HH").unpack_from
        self._short = struct.Struct(f"{order}H").unpack_from
        self._long = struct.Struct(f"{order}I").unpack_from

    def read(self, position: int, end: int, group: int | None = None) -> int:
        """Reads elements up to `end`, the pixels, an item's end mark or another group.

        Returns:
            The position after what was read.
        """
        while position + 8 <= end:
            self._watch.check()
            tag, vr, length, start = self._element(position)
            if group is not None and tag >> 16 != group:
                return position
            if tag == _ITEM_END:
                return start
            if tag in (_ITEM, _SEQUENCE_END) and self._depth:  # an item without its end mark
                return position
            if tag in _PIXELS and self._depth == 0:
                self._keep_pixels(tag, vr, length, start, end)
                return end
            position = self._value(tag, vr, length, start, end)
        return end

    def _element(self, position: int) -> tuple[int, bytes, int, int]:
        """Returns an element's tag, value representation, length and where its value starts."""
        data = self._data
        high, low = self._tag(data, position)
        tag = high << 16 | low
        vr = data[position + 4 : position + 6] if self._is_explicit and high != 0xFFFE else b""
        if not (vr.isalpha() and vr.isupper()):  # implicit, or an implicit one among explicit
            vr = b""
            return tag, vr, self._long(data, position + 4)[0], position + 8
        if vr not in _LONG_LENGTH:
            return tag, vr, self._short(data, position + 6)[0], position + 8
        if position + 12 > len(data):
            raise _cut_short()
        return tag, vr, self._long(data, position + 8)[0], position + 12

    def _value(self, tag: int, vr: bytes, length: int, start: int, end: int) -> int:
        """Keeps or steps over one value; returns the position after it."""
        if tag == DIRECTORY_RECORDS and self._depth == 0:
            self._header.values[tag] = b""  # its presence alone says what the file is
        if length == _UNDEFINED:
            is_explicit = self._is_explicit and vr != b"UN"  # PS3.5 section 6.2.2 note 4
            return self._items(tag, start, end, is_explicit)
        after = start + length
        if after > end:
            raise _cut_short()
        if tag in _SEQUENCES & self._kept:
            self._items(tag, start, after, self._is_explicit and vr != b"UN")
        elif tag in self._kept:
            self._header.values[tag] = self._data[start:after]
        return after

    def _items(self, tag: int, position: int, end: int, is_explicit: bool) -> int:
        """Walks the items of a sequence, keeping the first where the sequence is allowed."""
        is_kept = tag in self._kept
        while position + 8 <= end:
            item_tag, _, length, start = self._element(position)
            if item_tag == _SEQUENCE_END:
                return start
            if item_tag == _ITEM_END:  # of the item around a sequence without its end mark
                return position
            if item_tag != _ITEM:
                raise rejection("damaged", "A DICOM sequence holds something else than items")
            position = end if length == _UNDEFINED else start + length
            if position > end:
                raise _cut_short()
            if length == _UNDEFINED or is_kept:
                item = Header(is_little_endian=self._header.is_little_endian)
                walker = _Elements(
                    self._data,
                    item,
                    self._watch,
                    # Some writers switch to implicit inside a sequence
                    is_explicit=is_explicit and _has_vr(self._data, start),
                    kept=_KEPT_IN_ITEM if is_kept else frozenset(),
                    depth=self._depth + 1,
                )
                position = walker.read(start, position)
                if is_kept:
                    self._header.items[tag] = item
                    is_kept = False
        return end

    def _keep_pixels(self, tag: int, vr: bytes, length: int, start: int, end: int) -> None:
        self._header.is_encapsulated = length == _UNDEFINED
        if length != _UNDEFINED and start + length > end:
            raise _cut_short()
        after = end if length == _UNDEFINED else start + length
        self._header.pixels = memoryview(self._data)[start:after]
        self._header.pixels_tag = tag
        self._header.pixels_vr = vr


def _cut_short() -> ImageError:
    return rejection("damaged", "A DICOM element reaches past the end of the file")
