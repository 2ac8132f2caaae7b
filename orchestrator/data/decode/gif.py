"""Reads the blocks of a GIF file before a decoder sees them."""

import struct

from orchestrator.data.limits import Limits


def check_gif(data: bytes, limits: Limits) -> bool:
    """Returns whether a GIF has its end marker.

    Args:
        data: the whole file.
        limits: on its canvas, its frames and their number.

    Raises:
        ImageError: it is over a limit.

    Reference: CompuServe, GIF89a specification, sections 18 to 20.
    """
    canvas_width, canvas_height, flags = struct.unpack_from("<HHB", data, 6)
    limits.check_pixels(canvas_width, canvas_height)
    position = 13 + _colour_table_bytes(flags)
    num_frames = 0
    while position < len(data) and data[position] in b"!,":
        if data[position] == ord("!"):
            position += 2
        else:
            num_frames += 1
            limits.check_frames(num_frames)
            left, top, width, height, flags = struct.unpack_from("<HHHHB", data, position + 1)
            limits.check_pixels(left + width, top + height)
            position += 11 + _colour_table_bytes(flags)
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1
    return data[position : position + 1] == b";"


def _colour_table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
