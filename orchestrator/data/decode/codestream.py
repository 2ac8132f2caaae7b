"""Reads JPEG and JPEG-LS streams by their markers, before a decoder sees them.

A stream can claim any size whatever the file around it says, and the decoders believe the stream.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.data.limits import check_parts, rejection

# Coded bytes follow a scan's header; in them FF is followed by 00 (stuffing) or D0-D7 (restart).
# Anything else after FF is a marker.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_JPEG_LS_FRAME = 0xF7
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {_JPEG_LS_FRAME}
# Sequential and progressive, by Huffman and by arithmetic coding: what Pillow decodes
_COMMON_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
_LOSSLESS_FRAME, _HUFFMAN_TABLES, _RESTART_INTERVAL = 0xC3, 0xC4, 0xDD
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN = 0xD8, 0xD9, 0xDA
_JFIF, _ADOBE = 0xE0, 0xEE
_WITHOUT_LENGTH = frozenset([0x01, _START_OF_IMAGE, _END_OF_IMAGE])
_COMMENTS = frozenset([*range(0xE0, 0xF0), 0xFE])
_MAX_SCANS = 100  # encoders write about 10
END = b"\xff\xd9"  # of a JPEG image and of a JPEG 2000 stream
_FILLING = b"\xff\x00" * 64  # one bits, where a decoder without data reads zeros
_MAX_CODED_ZEROS, _MAX_PADDING = 2, 4
JPEG_START = b"\xff\xd8\xff"


@dataclass(frozen=True)
class Codestream:
    """What the markers of one coded image say.

    Attributes:
        coding: "jpeg" (sequential or progressive), "jpeg lossless", "jpeg-ls", "jpeg 2000", or
            "other jpeg" for the codings that nobody writes.
        width_px: width of the image.
        height_px: height of the image.
        num_components: 1 for grey.
        precision_bits: bits per sample.
        is_signed: whether samples are two's complement; only JPEG 2000 says.
        colour_model: "ycbcr" or "rgb" where the markers say, otherwise "".
    """

    coding: str
    width_px: int
    height_px: int
    num_components: int
    precision_bits: int
    is_signed: bool = False
    colour_model: str = ""


def read_jpeg(data: bytes) -> Codestream | None:
    """Returns the size of a JPEG or JPEG-LS stream, or None where its header cannot be read.

    Reference: ITU-T T.81 annex B; ITU-T T.87 annex C; JFIF 1.02 (YCbCr); Adobe TN 5116 (APP14).
    """
    colour_model = ""
    for marker, start, end in _segments(data):
        body = data[start + 4 : end]
        if marker == _JFIF and body.startswith(b"JFIF\0"):
            colour_model = "ycbcr"
        elif marker == _ADOBE and body.startswith(b"Adobe") and len(body) >= 12:
            colour_model = colour_model or ("ycbcr" if body[11] == 1 else "rgb")
        elif marker in _START_OF_FRAME and start + 10 <= len(data):
            precision, height, width, components = struct.unpack_from(">BHHB", data, start + 4)
            if body[6::3] == b"RGB":
                colour_model = colour_model or "rgb"
            coding = {_LOSSLESS_FRAME: "jpeg lossless", _JPEG_LS_FRAME: "jpeg-ls"}.get(
                marker, "jpeg" if marker in _COMMON_FRAMES else "other jpeg"
            )
            return Codestream(
                coding, width, height, components, precision, colour_model=colour_model
            )
        if marker in _START_OF_FRAME or marker == _START_OF_SCAN:
            break
    return None


def check_jpeg_scans(data: bytes) -> bool:
    """Returns whether a JPEG has its end marker.

    Args:
        data: the file, from its start-of-image marker.

    Raises:
        ImageError: scans enough to be an attack. A progressive JPEG may hold any number of them,
            each of which costs a pass over all pixels however few bytes it has.
    """
    num_scans = 0
    for marker, _, _ in _segments(data):
        num_scans += marker == _START_OF_SCAN
        if num_scans > _MAX_SCANS:
            raise rejection("too_slow", f"The JPEG has more than {_MAX_SCANS} scans")
        if marker == _END_OF_IMAGE:
            return True
    return False


def add_end_marker(
    data: bytes, decode: Callable[[bytes], npt.NDArray[Any]], *, is_strict: bool = False
) -> bytes:
    """Returns a JPEG stream without an end marker with one, where all its rows are there.

    A decoder that runs out of data may make up the rest of the image from what it finds after the
    end. So the stream is decoded twice, with different bits there: only where nothing was missing
    the pixels are the same.

    Args:
        data: the stream, of any JPEG coding; zeros after it are dropped.
        decode: decodes a whole stream at full size.
        is_strict: whether `decode` raises for every byte too few or too many.

    Raises:
        ImageError: rows are missing.
    """
    stripped = data.rstrip(b"\0")
    num_zeros = len(data) - len(stripped)

    def ended(num_kept: int) -> bytes:
        return (stripped + bytes(num_kept)).removesuffix(b"\xff")  # half an end marker

    def is_whole(stream: bytes) -> bool:
        try:
            pixels = decode(stream + END)
            return is_strict or np.array_equal(pixels, decode(stream + _FILLING + END))
        except Exception:  # decoders raise anything
            return False

    # Zeros at the end may be padding, all of them coded (black rows), or stand for rows now lost
    for num_kept in range(min(num_zeros, _MAX_CODED_ZEROS) + 1):
        if is_whole(ended(num_kept)):
            return ended(num_kept) + END
    if is_whole(data) and not is_whole(ended(num_zeros - _MAX_PADDING)):
        return data + END
    raise rejection("damaged", "The JPEG has no end marker, and rows are missing")


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
    position, num_segments = 2, 0
    while found := _MARKER.search(data, position):
        num_segments += 1
        check_parts(num_segments, "marker segments")
        marker = found[1][0]
        position = found.end()
        if marker not in _WITHOUT_LENGTH:
            position += int.from_bytes(data[position : position + 2], "big")
        yield marker, found.start(), position
        if marker == _END_OF_IMAGE:
            return
