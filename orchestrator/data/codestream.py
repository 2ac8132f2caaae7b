"""Reads the size of a JPEG, JPEG-LS or JPEG 2000 stream from its markers, before decoding it.

A stream can claim any size whatever the file around it says, and the decoders believe the stream.
"""

import re
import struct
from dataclasses import dataclass

# After a scan's header come coded bytes, in which FF is followed by 00 (stuffing) or D0-D7
# (restart). Anything else ends the scan.
_NEXT_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}  # F7: JPEG-LS
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_WITHOUT_LENGTH = frozenset([0x01, *range(0xD0, 0xD9)])
_J2K_START = b"\xff\x4f\xff\x51"


@dataclass(frozen=True)
class Codestream:
    """What the markers of one coded image say.

    Attributes:
        width_px, height_px: size of the image.
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
    position = 2
    while data[position : position + 1] == b"\xff":
        marker = data[position + 1] if position + 1 < len(data) else 0
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        elif marker in _START_OF_FRAME and position + 10 <= len(data):
            precision, height, width, components = struct.unpack_from(">BHHB", data, position + 4)
            return Codestream(width, height, components, precision)
        elif marker in (_START_OF_SCAN, _END_OF_IMAGE) or position + 4 > len(data):
            return None
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def count_jpeg_scans(data: bytes, stop: int) -> int | None:
    """Returns the number of scans of a JPEG file, or None where it has no end marker.

    A progressive JPEG may hold any number of scans, each of which costs a pass over all pixels
    however few bytes it has; and a file whose second half was lost and filled with zeros still
    decodes, but has no end marker.

    Args:
        data: the file, from its start-of-image marker.
        stop: counting ends here.

    Returns:
        The number of scans up to the end marker, at most `stop`.
    """
    num_scans = 0
    position = 2
    while found := _NEXT_MARKER.search(data, position):
        marker = found.group(1)[0]
        position = found.end()
        if marker == _END_OF_IMAGE:
            return num_scans
        if marker == _START_OF_SCAN:
            num_scans += 1
            if num_scans == stop:
                return num_scans
        if marker not in _WITHOUT_LENGTH:
            position += int.from_bytes(data[position : position + 2], "big")
    return None


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
