"""What cannot be shown, with its code and words of its cause."""

import gzip
import struct
from io import BytesIO

import numpy as np
from PIL import Image

from tests.data.field.dicom_streams import (
    EXPLICIT,
    plain,
)
from tests.data.field.dicom_tools import (
    BASELINE,
    J2K,
    LOSSLESS,
    LS,
    baseline,
    colours,
    data_set,
    jpeg,
    jpeg2000,
    jpegls,
    lossless_stream,
    native,
    open_pixels,
    twelve,
    windowed,
    with_meta,
    with_value,
    without,
    without_meta,
    wrapped,
)
from tests.data.field.picture_tools import (
    GREY,
    chunk,
    cut,
    png,
    tiff,
)
from tests.data.make_images import save, to_bytes


def short(stream: bytes, num_bytes: int) -> bytes:
    return stream[: -2 - num_bytes]


# What cannot be shown, with its code and words of its cause.
BAD_DICOM = {
    "window of a list": (lambda g: windowed(g, b"[2048]", b"[4096]"), "dicom_header", "Window"),
    "window with commas": (lambda g: windowed(g, b"2047,5", b"4096"), "dicom_header", "Window"),
    "window of no number": (lambda g: windowed(g, b"NaN ", b"NaN "), "dicom_header", "Window"),
    "window anonymised": (lambda g: windowed(g, b"ANON", b"ANON"), "dicom_header", "Window"),
    "photometric absent": (
        lambda g: to_bytes(without(data_set(twelve(g), 12), "PhotometricInterpretation")),
        "dicom_header",
        "PhotometricInterpretation is absent",
    ),
    "acr-nema": (
        lambda g: without_meta(
            without(data_set(twelve(g), 12), "PhotometricInterpretation"), implicit=True
        ),
        "dicom_header",
        "PhotometricInterpretation is absent",
    ),
    "rows of 4 bytes": (
        lambda g: with_value(native(twelve(g), 12), 0x00280010, bytes(4)),
        "dicom_header",
        "Rows has 4 bytes",
    ),
    "high bit of another depth": (
        lambda g: native(twelve(g), 12, HighBit=15),
        "unsupported_pixels",
        "HighBit 15",
    ),
    "no bits stored": (
        lambda g: native(twelve(g), 12, BitsStored=0),
        "unsupported_pixels",
        "BitsStored 0",
    ),
    "floating point": (
        lambda g: to_bytes(
            without(data_set(twelve(g), 12, FloatPixelData=bytes(4 * g.size)), "PixelData")
        ),
        "unsupported_pixels",
        "floating-point",
    ),
    "compressed without a syntax": (
        lambda g: with_meta(plain(g)[: plain(g).rindex(b"\xe0\x7f")] + open_pixels(jpeg(g)), None),
        "dicom_syntax",
        "without a TransferSyntaxUID",
    ),
    "compressed says native": (
        lambda g: with_meta(
            plain(g)[: plain(g).rindex(b"\xe0\x7f")] + open_pixels(jpeg(g)), EXPLICIT
        ),
        "dicom_header",
        "that of uncompressed pixels",
    ),
    "native says compressed": (
        lambda g: with_meta(plain(g), str(BASELINE).encode()),
        "dicom_header",
        "that of compressed pixels",
    ),
    "jpeg-ls of 7 bits": (
        lambda g: wrapped(g // 2, 7, LS, jpegls(g // 2, 7)),
        "dicom_syntax",
        "7-bit JPEG-LS",
    ),
    "private syntax": (
        lambda g: with_meta(plain(g, implicit=True), b"1.2.840.113619.5.2"),
        "dicom_syntax",
        "not in the DICOM registry",
    ),
    "colour stream, grey header": (
        lambda g: wrapped(g, 8, BASELINE, jpeg(colours(g))),
        "dicom_header",
        "depth",
    ),
    "no fragments": (
        lambda g: with_meta(
            plain(g)[: plain(g).rindex(b"\xe0\x7f")] + open_pixels(), str(BASELINE).encode()
        ),
        "damaged",
        "no fragments",
    ),
    "cut in the last fragment": (lambda g: baseline(g)[:-300], "damaged", "rows are missing"),
    "short by a byte": (lambda g: native(twelve(g), 12)[:-1], "damaged", "past the end"),
    "short by a row": (
        lambda g: native(twelve(g), 12, PixelData=twelve(g)[1:].tobytes()),
        "damaged",
        "",
    ),
    **{
        f"jpeg lossless short by {n} bytes": (
            lambda g, n=n: wrapped(
                twelve(g), 12, LOSSLESS, short(lossless_stream(twelve(g), 12), n)
            ),
            "damaged",
            "rows are missing",
        )
        for n in (4, 400)
    },
    **{
        f"jpeg-ls short by {n} bytes": (
            lambda g, n=n: wrapped(twelve(g), 12, LS, short(jpegls(twelve(g), 12), n)),
            "damaged",
            "rows are missing",
        )
        for n in (4, 400)
    },
    **{
        f"jpeg 2000 short by {n} bytes": (
            lambda g, n=n: wrapped(twelve(g), 12, J2K, short(jpeg2000(twelve(g), 12), n)),
            "damaged",
            "tiles are missing",
        )
        for n in (4, 400)
    },
}


def of_12_bits(grey: np.ndarray) -> bytes:
    """Returns a JPEG that says it has 12 bits a sample."""
    out = bytearray(jpeg(grey))
    frame = out.index(b"\xff\xc0")
    out[frame + 1], out[frame + 4] = 0xC1, 12
    return bytes(out)


def of_2_components(grey: np.ndarray) -> bytes:
    out = bytearray(jpeg(colours(grey)))
    out[out.index(b"\xff\xc0") + 9] = 2
    return bytes(out)


def flat(*shape: int, level: int = 0) -> bytes:
    return save(Image.fromarray(np.full(shape, level, np.uint8)), "PNG")


def numpy_file(grey: np.ndarray) -> bytes:
    out = BytesIO()
    np.save(out, grey)
    return out.getvalue()


def written(kind: str, **options: object):
    return lambda g: save(Image.fromarray(g), kind, **options)


UNKNOWN, FORMAT, PIXELS = "not_an_image", "unsupported_format", "unsupported_pixels"
BAD_PICTURES = {
    "one pixel": (lambda g: flat(1, 1), "too_small", "1 x 1 px"),
    "a line": (lambda g: flat(200, 2), "too_small", "2 x 200 px"),
    "all black": (lambda g: flat(99, 99), "no_contrast", "within 1 of 256"),
    "all white of 16": (
        lambda g: png(np.full((99, 99), 65535, np.uint16), GREY),
        "no_contrast",
        "within 1 of 256",
    ),
    "nearly black": (lambda g: png(g // 20, GREY), "no_contrast", "grey levels"),
    "black under all opacity": (
        lambda g: save(Image.merge("LA", [Image.fromarray(g * 0), Image.fromarray(g)]), "PNG"),
        "no_contrast",
        "within 1 of 256",
    ),
    "jpeg of 12 bits": (of_12_bits, FORMAT, "A 12-bit JPEG"),
    "jpeg of 2 components": (of_2_components, PIXELS, "2 components"),
    "jpeg hierarchical": (
        lambda g: jpeg(g).replace(b"\xff\xc0", b"\xff\xc5", 1),
        FORMAT,
        "hierarchical",
    ),
    "jpeg lossless": (lambda g: lossless_stream(g, 8), FORMAT, "JPEG Lossless"),
    "jpeg-ls": (lambda g: jpegls(g, 8), FORMAT, "JPEG-LS"),
    **{
        f"{kind} short by {n} bytes": (
            lambda g, n=n, more=more: cut(jpeg(g, **more), n),
            "damaged",
            "rows are missing",
        )
        for kind, more in (
            ("jpeg", {}),
            ("progressive", {"progressive": True}),
            ("restarting", {"restart_marker_rows": 1}),
        )
        for n in (20, 400)
    },
    "png cut in its pixels": (lambda g: cut(png(g, GREY), 40), "damaged", "inside a chunk"),
    "png with an extension": (
        lambda g: png(g, GREY, chunk(b"CgBI", bytes(4))),
        FORMAT,
        "extension",
    ),
    "tiff of 1 bit": (lambda g: save(Image.fromarray(g).convert("1"), "TIFF"), PIXELS, "1 bit"),
    "bmp of 1 bit": (lambda g: save(Image.fromarray(g).convert("1"), "BMP"), PIXELS, "1 bit"),
    "bmp of jpeg": (
        lambda g: (lambda d: d[:30] + b"\4" + d[31:])(save(Image.fromarray(g), "BMP")),
        FORMAT,
        "compression 4",
    ),
    "tiff of floats": (
        lambda g: save(Image.fromarray(g.astype(np.float32)), "TIFF"),
        PIXELS,
        "floating",
    ),
    "tiff of 32 bits": (
        lambda g: save(Image.fromarray(g.astype(np.int32)), "TIFF"),
        PIXELS,
        "signed",
    ),
    "tiff signed of 16": (
        lambda g: tiff(twelve(g).astype(np.int16), 1, SampleFormat=2),
        PIXELS,
        "signed",
    ),
    "tiff signed of 8": (
        lambda g: tiff((g.astype(int) - 128).astype(np.int8), 1, SampleFormat=2),
        PIXELS,
        "signed",
    ),
    "tiff without photometric": (
        lambda g: tiff(g, -1),
        PIXELS,
        "PhotometricInterpretation is absent",
    ),
    "tiff of 16 by plane": (
        lambda g: tiff(colours(twelve(g)), 2, PlanarConfiguration=2),
        PIXELS,
        "plane by plane",
    ),
    "tiff of 24 bits": (
        lambda g: tiff(g, 1, BitsPerSample=24),
        PIXELS,
        "BitsPerSample 24, SamplesPerPixel 1",
    ),
    "tiff of an unknown compression": (
        lambda g: tiff(g, 1, Compression=34712),
        PIXELS,
        "Compression 34712",
    ),
    "webp": (written("WEBP", lossless=True), FORMAT, "WebP"),
    "avif": (lambda g: save(Image.fromarray(colours(g)), "AVIF"), FORMAT, "AVIF"),
    "heic": (lambda g: b"\0\0\0\x18ftypheic" + bytes(500), FORMAT, "HEIC"),
    "jpeg xl": (lambda g: b"\xff\x0a" + bytes(500), FORMAT, "JPEG XL"),
    "jpeg 2000": (written("JPEG2000"), FORMAT, "JPEG 2000"),
    "pgm": (written("PPM"), FORMAT, "PGM"),
    "numpy": (numpy_file, FORMAT, "NumPy"),
    "nifti": (
        lambda g: struct.pack("<I", 348) + bytes(340) + b"n+1\0" + bytes(99),
        FORMAT,
        "NIfTI",
    ),
    "web page": (lambda g: b"<!DOCTYPE html><html>403 Forbidden</html>", UNKNOWN, "web page"),
    "git lfs pointer": (
        lambda g: b"version https://git-lfs.github.com/spec/v1\nsize 12345\n",
        UNKNOWN,
        "git lfs pull",
    ),
    "zip": (lambda g: b"PK\x03\x04" + bytes(400), UNKNOWN, "zip archive"),
    "gzip": (lambda g: gzip.compress(save(Image.fromarray(g), "PNG")), UNKNOWN, "gzip"),
    "companion of macOS": (lambda g: b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(90), UNKNOWN, "macOS"),
    "folder settings of macOS": (lambda g: b"\0\0\0\1Bud1" + bytes(400), UNKNOWN, "macOS"),
    "newline before a jpeg": (lambda g: b"\r\n" + jpeg(g), UNKNOWN, "no known"),
}
