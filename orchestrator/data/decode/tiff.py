"""Reads the directories of a TIFF file before a decoder sees them.

Reference: Adobe, TIFF 6.0, 1992, section 2; BigTIFF, Aware Systems.
"""

import struct
from dataclasses import dataclass

from orchestrator.data.limits import Limits, check_parts, rejection

_SUBFILE_TYPE, _WIDTH, _LENGTH = 254, 256, 257
_BITS, _COMPRESSION, _PHOTOMETRIC, _STRIP_OFFSETS = 258, 259, 262, 273
_SAMPLES, _PLANAR, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS = 277, 284, 322, 323, 324
_STRIP_BYTES, _TILE_BYTES, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 279, 325, 338, 339
_NAMES = {
    _BITS: "BitsPerSample",
    _SAMPLES: "SamplesPerPixel",
    _SAMPLE_FORMAT: "SampleFormat",
    _PHOTOMETRIC: "PhotometricInterpretation",
    _COMPRESSION: "Compression",
}
_READ = frozenset(
    [
        *(_SUBFILE_TYPE, _WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIP_OFFSETS),
        *(_SAMPLES, _STRIP_BYTES, _PLANAR, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_BYTES),
        *(_EXTRA_SAMPLES, _SAMPLE_FORMAT),
    ]
)
_SHORT = 3
_UNSIGNED = {1: "B", _SHORT: "H", 4: "I", 16: "Q"}  # 4: LONG, 16: LONG8
_WHITE_IS_ZERO = 0
_JPEG_COMPRESSIONS = (6, 7)  # the stream says what its samples are


@dataclass(frozen=True)
class TiffPage:
    """The entries of one directory that are unsigned integers.

    Attributes:
        index: number of the page, from 0.
        numbers: the first value of each entry, by tag.
        photometric_at: where the value of PhotometricInterpretation stands in the file; 0 where
            there is none.
        is_little_endian: byte order of the file.
    """

    index: int
    numbers: dict[int, int]
    photometric_at: int
    is_little_endian: bool

    @property
    def num_pixels(self) -> int:
        """Width x height."""
        return self._number(_WIDTH) * self._number(_LENGTH)

    @property
    def is_deep_white_zero(self) -> bool:
        """Whether it is 16-bit grey in which zero is white."""
        found = (self._number(_BITS), self._number(_SAMPLES), self.numbers.get(_PHOTOMETRIC))
        return found == (16, 1, _WHITE_IS_ZERO) and self.photometric_at > 0

    @property
    def is_deep_colour(self) -> bool:
        """Whether it is colour of 16 bits a sample."""
        return self._number(_BITS) == 16 and self._number(_SAMPLES) > 1

    @property
    def is_on_black(self) -> bool:
        """Whether its colours were multiplied by their opacity."""
        return self.numbers.get(_EXTRA_SAMPLES) == 1

    def check(self, limits: Limits) -> None:
        """Raises `ImageError` where its tiles are over a limit or its pixels cannot be told."""
        limits.check_pixels(self._number(_TILE_WIDTH), self._number(_TILE_LENGTH))
        if self._number(_SAMPLE_FORMAT) in (2, 3):
            raise rejection("unsupported_pixels", "The pixels are signed or floating point")
        is_jpeg = self._number(_COMPRESSION) in _JPEG_COMPRESSIONS
        if _PHOTOMETRIC not in self.numbers and not is_jpeg:
            raise rejection("unsupported_pixels", "The TIFF's PhotometricInterpretation is absent")
        if self.is_deep_colour and self._number(_PLANAR) == 2:
            raise rejection("unsupported_pixels", "16-bit colour is stored plane by plane")

    def is_whole(self, num_bytes: int) -> bool:
        """Tells whether its pixels start within a file of this size."""
        starts = (self.numbers.get(tag) for tag in (_STRIP_OFFSETS, _TILE_OFFSETS))
        return any(start is not None and start < num_bytes for start in starts)

    def describe(self) -> str:
        """Returns what kind of pixels it announces, in numbers alone."""
        return ", ".join(f"{name} {self._number(tag)}" for tag, name in _NAMES.items())

    def with_black_zero(self, data: bytes) -> bytes:
        """Returns the file with a PhotometricInterpretation of 1.

        Pillow reads 16-bit grey in which zero is white in one byte order only.
        """
        one = b"\1\0" if self.is_little_endian else b"\0\1"
        return data[: self.photometric_at] + one + data[self.photometric_at + 2 :]

    def _number(self, tag: int) -> int:
        return self.numbers.get(tag, 1)  # the default of every entry asked for


def choose_page(data: bytes, limits: Limits) -> TiffPage:
    """Returns the first page of a TIFF file that is not marked as a reduced copy of another.

    Where all are, it is the largest.

    Args:
        data: the whole file.
        limits: `max_frames` bounds the number of pages.

    Raises:
        ImageError: there is none, or there are too many.
    """
    pages = _read_pages(data, limits.max_frames + 1)
    if not pages:
        raise rejection("damaged", "The TIFF's directory cannot be read")
    limits.check_frames(len(pages))
    full = (page for page in pages if not page.numbers.get(_SUBFILE_TYPE, 0) & 1)
    return next(full, max(pages, key=lambda page: page.num_pixels))


def _read_pages(data: bytes, max_pages: int) -> list[TiffPage]:
    """Returns the directories that can be read, in the order of the file."""
    is_little_endian = data[:2] == b"II"
    order = "<" if is_little_endian else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    next_at, offset_form, count_form, entry_form = (
        (8, "Q", "Q", "HHQ8s") if is_big else (4, "I", "H", "HHI4s")
    )
    offset_form, count_form, entry_form = (
        order + offset_form,
        order + count_form,
        order + entry_form,
    )
    pages: list[TiffPage] = []
    seen = {0}
    try:
        while len(pages) < max_pages:
            (offset,) = struct.unpack_from(offset_form, data, next_at)
            if offset in seen:
                break
            seen.add(offset)
            (num_entries,) = struct.unpack_from(count_form, data, offset)
            position = offset + struct.calcsize(count_form)
            next_at = position + num_entries * struct.calcsize(entry_form)
            numbers: dict[int, int] = {}
            photometric_at = 0
            while position < next_at:
                tag, kind, count, value = struct.unpack_from(entry_form, data, position)
                position += struct.calcsize(entry_form)
                if tag not in _READ or kind not in _UNSIGNED or not count:
                    continue  # of the others any may be damaged
                check_parts(count, "strips, tiles or other numbers in one entry")
                form = order + _UNSIGNED[kind]
                at = position - len(value)
                if struct.calcsize(form) * count > len(value):
                    (at,) = struct.unpack(offset_form, value)
                (numbers[tag],) = struct.unpack_from(form, data, at)
                if tag == _PHOTOMETRIC and kind == _SHORT:
                    photometric_at = at
            pages.append(TiffPage(len(pages), numbers, photometric_at, is_little_endian))
    except (struct.error, OverflowError):
        pass
    return pages
