"""Tools to write one X-ray as a picture in the ways that the field sends it."""

import struct
import zlib

import numpy as np
from PIL import Image

from tests.data.field.dicom_tools import (
    colours,
    twelve,
)
from tests.data.make_images import save

GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6
ORIENTATION, TRANSVERSE = 0x0112, 7


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(samples: np.ndarray, colour: int, *extra: bytes, passes: bool = False) -> bytes:
    """Returns a PNG written chunk by chunk.

    Args:
        samples: uint8 or uint16 [H, W] or [H, W, channels].
        colour: the colour type.
        extra: chunks between header and pixels.
        passes: whether it is interlaced.
    """
    height, width = samples.shape[:2]
    bits = 8 * samples.dtype.itemsize
    steps = [(0, 0, 1, 1)]
    if passes:
        steps = [
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        ]
    rows = b"".join(
        b"\0" + row.astype(f">u{bits // 8}").tobytes()
        for top, left, down, right in steps
        for row in samples[top::down, left::right]
    )
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(passes))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *extra, pixels, chunk(b"IEND", b"")]
    )


def with_opacity(samples: np.ndarray, opacity: int) -> np.ndarray:
    """Returns samples with a channel of constant opacity, [H, W, channels + 1]."""
    flat = samples if samples.ndim == 3 else samples[..., np.newaxis]
    return np.concatenate([flat, np.full_like(flat[..., :1], opacity)], axis=-1)


def tiff(samples: np.ndarray, photometric: int, order: str = "<", **more: int) -> bytes:
    """Returns a TIFF of one strip.

    Args:
        samples: uint8, int8 or uint16 [H, W] or [H, W, channels].
        photometric: PhotometricInterpretation; -1 for none.
        order: "<" or ">".
        more: Compression (1 or 8), ExtraSamples, SampleFormat, PlanarConfiguration, BitsPerSample.
    """
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    plain = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    body = zlib.compress(plain) if more.get("Compression") == 8 else plain
    body += bytes(len(body) % 2)
    bits = more.get("BitsPerSample", 8 * samples.dtype.itemsize)
    tags = {
        256: [width],
        257: [height],
        258: [bits] * channels,
        259: [more.get("Compression", 1)],
        262: [photometric],
        277: [channels],
        278: [height],
        284: [more.get("PlanarConfiguration", 1)],
    }
    tags |= {338: [more["ExtraSamples"]]} if "ExtraSamples" in more else {}
    tags |= {339: [more["SampleFormat"]]} if "SampleFormat" in more else {}
    if photometric < 0:
        del tags[262]
    at = 8 + len(body)
    longs = {273: [8], 279: [len(body)]}
    values_at = at + 2 + 12 * (len(tags) + len(longs)) + 4
    entries, values = b"", b""
    for tag, numbers in sorted((tags | longs).items()):
        form = "I" if tag in longs else "H"
        raw = b"".join(struct.pack(order + form, number) for number in numbers)
        if len(raw) > 4:
            values, raw = values + raw, struct.pack(order + "I", values_at + len(values))
        kind = 4 if form == "I" else 3
        entries += struct.pack(order + "HHI", tag, kind, len(numbers)) + raw.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    count = struct.pack(order + "H", len(tags) + len(longs))
    return magic + struct.pack(order + "I", at) + body + count + entries + bytes(4) + values


def with_entry(data: bytes, tag: int, kind: int, count: int, value: int) -> bytes:
    """Returns a little-endian TIFF with one more entry at the end of its directory."""
    (at,) = struct.unpack_from("<I", data, 4)
    (num_entries,) = struct.unpack_from("<H", data, at)
    entries = data[at + 2 : at + 2 + 12 * num_entries] + struct.pack(
        "<HHII", tag, kind, count, value
    )
    directory = struct.pack("<H", num_entries + 1) + entries + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory


def packed_12(grey: np.ndarray) -> bytes:
    pairs = twelve(grey).reshape(-1, 2).astype(np.uint32)
    first, second = pairs[:, 0], pairs[:, 1]
    body = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    samples = body.astype(np.uint8).reshape(grey.shape[0], -1)
    data = tiff(samples, 1, BitsPerSample=12)
    return data.replace(
        struct.pack("<HHII", 256, 3, 1, samples.shape[1]),
        struct.pack("<HHII", 256, 3, 1, grey.shape[1]),
    )


def bmp(grey: np.ndarray, opacity: int, header_bytes: int) -> bytes:
    """Returns a 32-bit BMP; with the header of version 5 it says where its opacity is."""
    height, width = grey.shape
    rows = with_opacity(colours(grey)[::-1], opacity).tobytes()
    is_v5 = header_bytes == 124
    head = struct.pack(
        "<IiiHHIIiiII", header_bytes, width, height, 1, 32, 3 * is_v5, len(rows), 0, 0, 0, 0
    )
    if is_v5:
        head += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(64)
    start = 14 + len(head)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + head + rows


def bmp_top_down(grey: np.ndarray) -> bytes:
    data = save(Image.fromarray(grey[::-1]), "BMP")
    return data[:22] + struct.pack("<i", -grey.shape[0]) + data[26:]


def pages(grey: np.ndarray, *flags: int) -> bytes:
    """Returns a TIFF of a thumbnail and the picture, marked as reduced copies or not."""
    thumbnail = Image.fromarray(grey).resize((20, 16))
    images = [thumbnail, Image.fromarray(grey)]
    data = save(images[0], "TIFF", save_all=True, append_images=images[1:], tiffinfo={254: 9})
    for flag in flags:
        data = data.replace(
            struct.pack("<HHII", 254, 4, 1, 9), struct.pack("<HHII", 254, 4, 1, flag), 1
        )
    return data


def turned(grey: np.ndarray) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = TRANSVERSE
    return save(
        Image.fromarray(grey).transpose(Image.Transpose.TRANSVERSE), "JPEG", quality=98, exif=exif
    )


def orientation_text(orientation: int) -> bytes:
    """Returns a compressed text chunk with an orientation, as ImageMagick writes it."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    body = exif.tobytes()
    text = f"\nexif\n{len(body):8}\n{body.hex()}\n".encode()
    return chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))


def cut(data: bytes, num_bytes: int) -> bytes:
    return data[:-num_bytes]


def transparent(grey: np.ndarray, mode: str) -> bytes:
    image = Image.fromarray(grey).convert(mode)
    image.putalpha(0)
    return save(image, "PNG")
