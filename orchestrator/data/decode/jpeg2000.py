"""Reads JPEG 2000 streams by their markers, before a decoder sees them.

Reference: ITU-T T.800 annex A (codestream syntax), annex B.6 (precincts).
"""

import struct

from orchestrator.data.decode.codestream import END, Codestream
from orchestrator.data.limits import check_parts, rejection

_START = b"\xff\x4f\xff\x51"
STARTS = (_START, b"\0\0\0\x0cjP  \r\n\x87\n")  # of a stream, and of a file around one
_SIZES, _DEFAULT_CODING, _COMPONENT_CODING, _TILE_PART = 0xFF51, 0xFF52, 0xFF53, 0xFF90
_WHOLE = bytes([0xFF])  # exponents of a precinct that holds any image
_MAX_PADDING = 4


def read_jpeg2000(data: bytes) -> Codestream | None:
    """Returns the size of a JPEG 2000 stream, or None where its header cannot be read.

    Args:
        data: the stream, alone or in a JP2 file.
    """
    start = data.find(_START)
    if start < 0 or start + 43 > len(data):
        return None
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    num_components = int.from_bytes(data[start + 40 : start + 42], "big")
    is_signed, depth = divmod(data[start + 42], 128)
    return Codestream(
        "jpeg 2000", right - left, bottom - top, num_components, depth + 1, bool(is_signed)
    )


def check_jpeg2000_parts(data: bytes) -> None:
    """Raises `ImageError` where a JPEG 2000 stream is cut into too many tiles or precincts.

    OpenJPEG takes some 550 bytes for each precinct before it reads any of them, so that a stream of
    500 bytes may take gigabytes.

    Args:
        data: a stream whose header `read_jpeg2000` has read.
    """
    position = data.find(_START) + 2
    layout = (0,) * 8
    num_components = 0
    while position + 4 <= len(data):
        marker, length = struct.unpack_from(">HH", data, position)
        body = data[position + 4 : position + 2 + length]
        if marker == _TILE_PART or length < 2:
            return
        if marker == _SIZES and len(body) >= 36:
            layout = struct.unpack_from(">8I", body, 2)
            num_components = int.from_bytes(body[34:36], "big")
            check_parts(_count_tiles(layout) * num_components, "tiles")
        elif marker == _DEFAULT_CODING:
            check_parts(_count_precincts(layout, body, 0, 5) * num_components, "precincts")
        elif marker == _COMPONENT_CODING:
            style = 1 if num_components < 257 else 2
            check_parts(_count_precincts(layout, body, style, style + 1), "precincts")
        position += 2 + length


def add_jpeg2000_end(data: bytes) -> bytes:
    """Returns a JPEG 2000 stream with its end marker, which may be missing if no tile is.

    Args:
        data: the stream; zeros after it do not count.

    Raises:
        ImageError: it has no end marker, and its tiles are not all there.
    """
    if data.rstrip(b"\0\xff").endswith(END):
        return data
    start = data.find(_START)
    num_tiles = _count_tiles(struct.unpack_from(">8I", data, start + 8))
    complete: dict[int, bool] = {}
    num_coded = len(data.rstrip(b"\0")) + _MAX_PADDING  # zeros may stand for a lost end
    tile_part = _TILE_PART.to_bytes(2, "big")
    position = data.find(tile_part, start)
    while 0 <= position <= len(data) - 12 and data[position : position + 2] == tile_part:
        tile, length, part, num_parts = struct.unpack_from(">HIBB", data, position + 4)
        position += length
        if length < 12 or position > min(len(data), num_coded):
            break
        complete[tile] = complete.get(tile, False) or part + 1 >= num_parts
    else:
        if len(complete) == num_tiles and all(complete.values()):
            return data[:position] + END
    raise rejection("damaged", "The JPEG 2000 pixels have no end marker, and tiles are missing")


def _count_tiles(layout: tuple[int, ...]) -> int:
    """Returns the number of tiles of the SIZ marker's right, bottom, left, top and so on."""
    right, bottom, _, _, width, height, first, upper = layout
    return _steps(right - first, width) * _steps(bottom - upper, height)


def _count_precincts(layout: tuple[int, ...], body: bytes, style: int, levels: int) -> int:
    """Returns the number of precincts of one component in all tiles.

    Args:
        layout: as for `_count_tiles`.
        body: of a COD or COC marker.
        style: where its coding style stands in it; bit 0 says that precincts are given.
        levels: where its number of decomposition levels stands, 5 bytes before the precincts.
    """
    if len(body) <= levels:
        return 0
    num_levels = body[levels]
    sizes = body[levels + 5 : levels + 6 + num_levels] if body[style] & 1 else b""
    right, bottom, left, top, width, height, _, _ = layout
    width, height = min(width, right - left), min(height, bottom - top)
    num_precincts = 0
    for resolution in range(num_levels + 1):
        rows, columns = divmod((sizes[resolution : resolution + 1] or _WHOLE)[0], 16)
        scale = num_levels - resolution
        num_precincts += _steps(width, 1 << scale + columns) * _steps(height, 1 << scale + rows)
    return num_precincts * _count_tiles(layout)


def _steps(length: int, step: int) -> int:
    return -(-length // max(step, 1))
