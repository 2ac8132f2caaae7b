"""Reads the chunks of a PNG file before a decoder sees them.

Text and colour profiles may be of any size, or broken, and have no part in the pixels. So a decoder
is given a file of the chunks that it needs, and no more.

Reference: PNG (Third Edition), W3C 2025, sections 5 (datastream structure) and 11 (chunks).
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.data.limits import Limits, check_parts, rejection

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_KEPT = (*_PIXELS, b"eXIf")
# Writers without eXIf keep the orientation in one of these texts.
_TEXTS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
_MAX_TEXT_BYTES = 1 << 20  # inflated: what Pillow takes
_RGBA = 6


@dataclass(frozen=True)
class Png:
    """A PNG file made fit for a decoder.

    Attributes:
        data: the file with the chunks that matter, checksums checked.
        has_end: whether it had its end chunk.
        bits: per sample, 1 to 16.
        colour_type: as in the header; 4 and 6 have opacity, 2 and 6 colour.
    """

    data: bytes
    has_end: bool
    bits: int
    colour_type: int


def read_png(data: bytes, limits: Limits) -> Png:
    """Returns a PNG file without what may trouble a decoder.

    Args:
        data: the whole file.
        limits: `max_frames` bounds those of an animation; only the default image is kept.

    Raises:
        ImageError: a chunk is cut short, fails its checksum or is unknown and critical.
    """
    kept = [_SIGNATURE]
    header = b""
    has_end = False
    for kind, body, chunk in _chunks(data):
        if kind == b"IEND":
            has_end = True
        elif kind == b"acTL" and len(body) >= 4:
            limits.check_frames(int.from_bytes(body[:4], "big"))
        elif kind in _KEPT or _holds_orientation(kind, body):
            if zlib.crc32(kind + body) != int.from_bytes(chunk[-4:], "big"):
                if kind not in _PIXELS:
                    continue
                raise rejection("damaged", "A checksum of the PNG is wrong")
            header = header or body
            kept.append(chunk)
        elif kind[:1].isupper():
            raise rejection("unsupported_format", "The PNG needs an extension of the format")
    if len(header) != 13:
        raise rejection("damaged", "The PNG has no header")
    kept.append(_chunk(b"IEND", b""))
    return Png(b"".join(kept), has_end, header[8], header[9])


def as_rgba_bytes(png: Png) -> bytes:
    """Returns a PNG of 16-bit grey and opacity as one of 8-bit RGBA whose samples are the bytes.

    No decoder used here gives all 16 bits of such a file; both forms have 4 bytes a pixel.
    """
    start = len(_SIGNATURE)
    header = bytearray(png.data[start + 8 : start + 21])
    header[8:10] = bytes([8, _RGBA])
    return _SIGNATURE + _chunk(b"IHDR", bytes(header)) + png.data[start + 25 :]


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yields kind, body and all bytes of each chunk up to the end chunk, or of those before a cut.

    Raises:
        ImageError: a chunk that holds pixels is cut short.
    """
    position = len(_SIGNATURE)
    kind, num_chunks = b"", 0
    while kind != b"IEND" and position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        num_chunks += 1
        check_parts(num_chunks, "chunks")
        end = position + 12 + length
        if end > len(data):
            if kind in _PIXELS or not kind.isalpha():
                raise rejection("damaged", "The PNG ends inside a chunk")
            return
        yield kind, data[position + 8 : end - 4], data[position:end]
        position = end


def _holds_orientation(kind: bytes, body: bytes) -> bool:
    """Tells whether a chunk is a text that may hold an orientation and inflates to a sane size."""
    if kind not in (b"tEXt", b"zTXt", b"iTXt") or not body.startswith(_TEXTS):
        return False
    value = body.split(b"\0", 1)[1]
    if kind == b"tEXt" or (kind == b"iTXt" and value[:1] == b"\0"):
        return True
    packed = value[1:] if kind == b"zTXt" else value[2:].split(b"\0", 2)[-1]
    inflater = zlib.decompressobj()
    try:
        inflater.decompress(packed, _MAX_TEXT_BYTES)
    except zlib.error:
        return False
    return inflater.eof


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
