"""Reads JPEG, JPEG-LS and JPEG 2000 streams by their markers, before a decoder sees them.

A stream can claim any size whatever the file around it says, and the decoders believe the stream.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.data.limits import rejection

# Coded bytes follow a scan's header; in them FF is followed by 00 (stuffing) or D0-D7 (restart).
# Anything else after FF is a marker.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}  # F7: JPEG-LS
_LOSSLESS_FRAME, _HUFFMAN_TABLES, _RESTART_INTERVAL = 0xC3, 0xC4, 0xDD
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN = 0xD8, 0xD9, 0xDA
_WITHOUT_LENGTH = frozenset([0x01, _START_OF_IMAGE, _END_OF_IMAGE])
_COMMENTS = frozenset([*range(0xE0, 0xF0), 0xFE])
_MAX_SCANS = 100  # encoders write about 10
_J2K_START = b"\xff\x4f\xff\x51"


@dataclass(frozen=True)
class Codestream:
    """What the markers of one coded image say.

    Attributes:
        width_px: width of the image.
        height_px: height of the image.
        num_components: 1 for grey.
        precision_bits: bits per sample.
    """

    width_px: int
    height_px: int
    num_components: int
    precision_bits: int


def read_jpeg(data: bytes) -> Codestream | None:
    """Returns the size of a JPEG or JPEG-LS stream, or None where its header cannot be read.

    Reference: ITU-T T.81 annex B; ITU-T T.87 annex C.
    """
    for marker, start, _ in _segments(data):
        if marker in _START_OF_FRAME and start + 10 <= len(data):
            precision, height, width, components = struct.unpack_from(">BHHB", data, start + 4)
            return Codestream(width, height, components, precision)
        if marker in _START_OF_FRAME or marker == _START_OF_SCAN:
            break
    return None


def check_jpeg_scans(data: bytes) -> None:
    """Raises `ImageError` where a JPEG has no end marker, or scans enough to be an attack.

    A file whose second half was lost and filled with zeros still decodes, but has no end marker;
    and a progressive JPEG may hold any number of scans, each of which costs a pass over all pixels
    however few bytes it has.

    Args:
        data: the file, from its start-of-image marker.
    """
    num_scans = 0
    for marker, _, _ in _segments(data):
        num_scans += marker == _START_OF_SCAN
        if num_scans > _MAX_SCANS:
            raise rejection("too_slow", f"The JPEG has more than {_MAX_SCANS} scans")
        if marker == _END_OF_IMAGE:
            return
    raise rejection("damaged", "The JPEG has no end marker")


def rebuild_lossless_jpeg(data: bytes) -> bytes | None:
    """Returns a JPEG Lossless stream with only what decoding needs, or None where it is malformed.

    GDCM ends the whole process on some malformed streams, so it is given none: one frame header,
    Huffman tables, restart interval, scans and the end marker, in the order found, and no more.

    Args:
        data: the stream, from its start-of-image marker.

    Returns:
        The stream rebuilt; comments, application data and what lies between markers are dropped.
    """
    rebuilt = [b"\xff\xd8"]
    num_frames = num_scans = 0
    scan_start = 0
    for marker, start, end in _segments(data):
        if scan_start:
            rebuilt.append(data[scan_start:start])
            scan_start = 0
        if end > len(data):
            return None
        if marker in _COMMENTS:
            continue
        rebuilt.append(data[start:end])
        num_frames += marker == _LOSSLESS_FRAME
        if marker == _START_OF_SCAN:
            num_scans += 1
            scan_start = end
        elif marker == _END_OF_IMAGE:
            return b"".join(rebuilt) if num_frames == 1 and num_scans else None
        elif marker not in (_LOSSLESS_FRAME, _HUFFMAN_TABLES, _RESTART_INTERVAL):
            return None
    return None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields marker, start and end of each marker segment, up to the end of the image."""
    position = 2
    while found := _MARKER.search(data, position):
        marker = found[1][0]
        position = found.end()
        if marker not in _WITHOUT_LENGTH:
            position += int.from_bytes(data[position : position + 2], "big")
        yield marker, found.start(), position
        if marker == _END_OF_IMAGE:
            return


def read_jpeg2000(data: bytes) -> Codestream | None:
    """Returns the size of a JPEG 2000 stream, or None where its header cannot be read.

    Reference: ITU-T T.800 annex A.5.1 (the SIZ marker).
    """
    start = data.find(_J2K_START)  # 0, or after the boxes of a JP2 file
    if start < 0 or start + 43 > len(data):
        return None
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    num_components = int.from_bytes(data[start + 40 : start + 42], "big")
    precision_bits = (data[start + 42] & 0x7F) + 1
    return Codestream(right - left, bottom - top, num_components, precision_bits)
