"""Small files that make a decoder take gigabytes, or hours: many parts, few pixels in each."""

import struct

from pydicom.encaps import encapsulate

from tests.data.field.dicom_tools import BASELINE, ITEM, J2K
from tests.data.field.picture_tools import chunk
from tests.data.make_images import make_chest, make_dataset, to_bytes

SMALL = make_chest(32, 32)
MANY = 1 << 20


def precincts(width: int, height: int, *, in_component: bool = False) -> bytes:
    """Returns a JPEG 2000 stream of some 100 bytes with precincts of one pixel.

    Args:
        width: of the image, px.
        height: of the image, px.
        in_component: whether the component says so rather than the default of all.
    """
    sizes = struct.pack(">H8IH3B", 0, width, height, 0, 0, width, height, 0, 0, 1, 7, 1, 1)
    spacing = bytes([0, 0, 0, 0, 0, 1])  # no decomposition, 4 x 4 blocks, reversible, 1 x 1 px
    plain = bytes([0, 0, 0, 1, 0]) + spacing[:5]
    parts = [(0xFF51, sizes), (0xFF52, plain if in_component else b"\1" + plain[1:5] + spacing)]
    if in_component:
        parts.append((0xFF53, bytes([0, 1]) + spacing))
    parts.append((0xFF5C, bytes([0x40, 8 << 3])))
    header = b"".join(struct.pack(">HH", tag, len(body) + 2) + body for tag, body in parts)
    tile = struct.pack(">HHHIBB", 0xFF90, 10, 0, 14 + 64, 0, 1) + b"\xff\x93" + bytes(64)
    return b"\xff\x4f" + header + tile + b"\xff\xd9"


def tiles(width: int, height: int) -> bytes:
    """Returns a JPEG 2000 stream whose tiles are one pixel each."""
    stream = bytearray(precincts(width, height))
    at = stream.index(b"\xff\x51") + 4
    stream[at + 18 : at + 26] = struct.pack(">II", 1, 1)
    return bytes(stream)


def in_dicom(stream: bytes, width: int, height: int) -> bytes:
    ds = make_dataset(SMALL, 8, Rows=height, Columns=width)
    ds.file_meta.TransferSyntaxUID = J2K
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return to_bytes(ds)


def strips(num_strips: int) -> bytes:
    """Returns a 64 x 64 px TIFF whose directory lists so many strips."""
    pixels = bytes(64 * 64)
    at = 8 + len(pixels)
    longs = {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1}
    entries = [(tag, 3, 1, value) for tag, value in longs.items()]
    entries += [(273, 3, num_strips, at), (279, 3, 1, 64)]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    offsets = struct.pack("<H", 8) * num_strips
    offsets += bytes(len(offsets) % 2)
    head = struct.pack("<2sHI", b"II", 42, at + len(offsets))
    return head + pixels + offsets + struct.pack("<H", len(entries)) + directory + bytes(4)


def fragments(num_fragments: int) -> bytes:
    ds = make_dataset(SMALL, 8)
    ds.file_meta.TransferSyntaxUID = BASELINE
    ds.PixelData = (ITEM + bytes(4)) * num_fragments
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return to_bytes(ds)


def chunks(num_chunks: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") * num_chunks


def segments(num_segments: int) -> bytes:
    return b"\xff\xd8" + b"\xff\x01" * num_segments


SIDE = 7000
BOMBS = {
    "precincts": lambda: in_dicom(precincts(SIDE, SIDE), SIDE, SIDE),
    "precincts of a component": lambda: in_dicom(
        precincts(SIDE, SIDE, in_component=True), SIDE, SIDE
    ),
    "tiles": lambda: in_dicom(tiles(SIDE, SIDE), SIDE, SIDE),
    "strips": lambda: strips(16 * MANY),
    "fragments": lambda: fragments(MANY),
    "chunks": lambda: chunks(MANY),
    "marker segments": lambda: segments(MANY),
}
