"""Finds the compressed stream of the first frame among the fragments of encapsulated pixels.

Offset tables and delimiters are often wrong or absent, and neither is needed for one frame: what
the fragments themselves say comes first, tables count only where they point to fragments.

Reference: DICOM PS3.5 annex A.4.
"""

import struct
from itertools import pairwise

from orchestrator.data.decode import jpeg2000
from orchestrator.data.decode.codestream import JPEG_START
from orchestrator.data.limits import check_parts, rejection

_ITEM = b"\xfe\xff\x00\xe0"
_STREAM_STARTS = (JPEG_START, *jpeg2000.STARTS)


def is_fragmented(pixels: memoryview) -> bool:
    """Tells whether a pixel element is a row of items, whatever its length says."""
    return pixels[:4] == _ITEM


def first_frame(pixels: memoryview, num_frames: int, extended_offsets: bytes = b"") -> bytes:
    """Returns the compressed stream of the first frame, joined from its fragments.

    Args:
        pixels: the value of the pixel element, from its first item.
        num_frames: what the header says, >= 1.
        extended_offsets: of the Extended Offset Table, 8 bytes a frame.

    Raises:
        ImageError: there are no fragments.
    """
    items = _items(pixels)
    if items and not bytes(pixels[slice(*items[0])]).startswith(_STREAM_STARTS):
        table = bytes(pixels[slice(*items.pop(0))])  # the Basic Offset Table, often empty
    else:
        table = b""
    if not items:
        raise rejection("damaged", "The compressed pixels hold no fragments")
    fragments = [bytes(pixels[start:end]) for start, end in items]
    places = [start - items[0][0] for start, _ in items]
    num_first = _count_first(fragments, places, num_frames, table, extended_offsets)
    return b"".join(fragments[:num_first])


def _count_first(
    fragments: list[bytes], places: list[int], num_frames: int, table: bytes, extended: bytes
) -> int:
    """Returns how many fragments the first frame has."""
    if num_frames == 1:
        return len(fragments)
    if len(fragments) == num_frames:
        return 1
    for offsets, width in ((extended, "<2Q"), (table, "<2I")):
        if len(offsets) >= struct.calcsize(width):
            first, second = struct.unpack_from(width, offsets)
            if first == 0 and second in places[1:]:
                return places.index(second)
    starts = [each.startswith(_STREAM_STARTS) for each in fragments]
    following = (place for place, (_, starts_next) in enumerate(pairwise(starts), 1) if starts_next)
    return next(following, len(fragments))


def _items(pixels: memoryview) -> list[tuple[int, int]]:
    """Returns start and end of the value of each item, up to what is none."""
    items = []
    position = 0
    while pixels[position : position + 4] == _ITEM and position + 8 <= len(pixels):
        length = int.from_bytes(pixels[position + 4 : position + 8], "little")
        start = position + 8
        position = start + length
        items.append((start, min(position, len(pixels))))  # the last may be cut short
        check_parts(len(items), "fragments")
    return items
