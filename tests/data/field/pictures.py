"""Good pictures: chunks, opacities, depths and ends that break a rule or a habit."""

import struct
import zlib

import numpy as np
from PIL import Image

from tests.data.field.dicom_tools import (
    Way,
    colours,
    framed,
    jpeg,
    marked,
    renamed,
    twelve,
    without_app,
)
from tests.data.field.picture_tools import (
    GREY,
    GREY_ALPHA,
    RGB,
    RGBA,
    bmp,
    bmp_top_down,
    chunk,
    cut,
    orientation_text,
    packed_12,
    pages,
    png,
    tiff,
    transparent,
    turned,
    with_entry,
    with_opacity,
)
from tests.data.make_images import save

OPAQUE = {"rule": "as_stored", "notes": "opaque_alpha"}
BIG = 3_000_000
PNG_WAYS = {
    "png with a large compressed text": Way(
        lambda g: png(g, GREY, chunk(b"zTXt", b"XML\0\0" + zlib.compress(bytes(BIG)))), "as_stored"
    ),
    "png with a large text": Way(
        lambda g: png(g, GREY, chunk(b"tEXt", b"parameters\0" + b"a" * BIG)), "as_stored"
    ),
    "png with large metadata": Way(
        lambda g: png(g, GREY, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<x/>" * BIG)),
        "as_stored",
    ),
    "png with large compressed metadata": Way(
        lambda g: png(
            g, GREY, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<x/>" * BIG))
        ),
        "as_stored",
    ),
    "png with a large profile": Way(
        lambda g: png(g, GREY, chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(BIG)))), "as_stored"
    ),
    "png with a broken profile": Way(
        lambda g: png(g, GREY, chunk(b"iCCP", b"icc\0\0not compressed")), "as_stored"
    ),
    "png with a gamma": Way(
        lambda g: png(g, GREY, chunk(b"gAMA", struct.pack(">I", 45455))), "as_stored"
    ),
    "png whose text fails its checksum": Way(
        lambda g: png(g, GREY, chunk(b"tEXt", b"a\0b")[:-1] + b"x"), "as_stored"
    ),
    "png turned by a text": Way(
        lambda g: png(np.rot90(g, 2), GREY, orientation_text(3)), "as_stored"
    ),
    "png without end": Way(lambda g: cut(png(g, GREY), 12), "as_stored", "no_end_marker"),
    "png cut in its end": Way(lambda g: cut(png(g, GREY), 5), "as_stored", "no_end_marker"),
    "png and more": Way(lambda g: png(g, GREY) + bytes(999), "as_stored"),
    "png interlaced": Way(lambda g: png(g, GREY, passes=True), "as_stored"),
    "png of black made transparent": Way(
        lambda g: png(g, GREY, chunk(b"tRNS", b"\0\3")), "as_stored", levels=4
    ),
    "png of 12 in 16": Way(lambda g: png(twelve(g), GREY), "narrower_depth"),
    "png of 12 in 16 with a marker": Way(
        lambda g: png(marked(twelve(g), 65535), GREY), "narrower_depth", is_framed=True
    ),
    "png of 12 in 16 with a border": Way(
        lambda g: png(framed(twelve(g), 65535), GREY), "narrower_depth", is_framed=True
    ),
    "png of 12 at the upper bits": Way(
        lambda g: png(twelve(g) << 4, GREY, chunk(b"sBIT", b"\x0c"))
    ),
    "png rgb of 12 in 16": Way(lambda g: png(colours(twelve(g)), RGB), "narrower_depth"),
    "png rgb of 12 in 16 interlaced": Way(
        lambda g: png(colours(twelve(g)), RGB, passes=True), "narrower_depth"
    ),
    "png rgb of 16": Way(lambda g: png(colours(g.astype(np.uint16) * 257), RGB)),
    "png rgba of 12 in 16": Way(
        lambda g: png(with_opacity(colours(twelve(g)), 65535), RGBA), "narrower_depth"
    ),
    "png rgba of 12 in 16, opaque at 4095": Way(
        lambda g: png(with_opacity(colours(twelve(g)), 4095), RGBA), "narrower_depth"
    ),
    "png rgba of 12 in 16, transparent": Way(
        lambda g: png(with_opacity(colours(twelve(g)), 0), RGBA), "narrower_depth", "opaque_alpha"
    ),
    "png grey alpha of 16": Way(
        lambda g: png(with_opacity(g.astype(np.uint16) * 257, 65535), GREY_ALPHA)
    ),
    "png grey alpha of 12 in 16": Way(
        lambda g: png(with_opacity(twelve(g), 65535), GREY_ALPHA), "narrower_depth"
    ),
    "png grey alpha of 12 in 16 interlaced": Way(
        lambda g: png(with_opacity(twelve(g), 65535), GREY_ALPHA, passes=True), "narrower_depth"
    ),
    "png grey alpha of 12 in 16, transparent": Way(
        lambda g: png(with_opacity(twelve(g), 0), GREY_ALPHA), "narrower_depth", "opaque_alpha"
    ),
    "png rgba, transparent": Way(lambda g: transparent(g, "RGBA"), **OPAQUE),
    "png grey alpha, transparent": Way(lambda g: transparent(g, "LA"), **OPAQUE),
    "png animated": Way(
        lambda g: save(
            Image.fromarray(g),
            "PNG",
            save_all=True,
            append_images=[Image.new("L", g.shape[::-1], 9)] * 2,
        ),
        "as_stored",
    ),
}

JPEG_WAYS = {
    name: Way(write, "as_stored", notes, levels=4)
    for name, write, notes in [
        ("jpeg without end", lambda g: cut(jpeg(g), 2), "no_end_marker"),
        ("jpeg with half an end", lambda g: cut(jpeg(g), 1), "no_end_marker"),
        ("jpeg with zeros for an end", lambda g: cut(jpeg(g), 2) + bytes(900), "no_end_marker"),
        (
            "jpeg progressive without end",
            lambda g: cut(jpeg(g, progressive=True), 2),
            "no_end_marker",
        ),
        ("jpeg colour without end", lambda g: cut(jpeg(colours(g)), 2), "no_end_marker"),
        (
            "jpeg restarting without end",
            lambda g: cut(jpeg(g, restart_marker_rows=1), 2),
            "no_end_marker",
        ),
        ("jpeg and zeros", lambda g: jpeg(g) + bytes(4096), None),
        ("jpeg and a film", lambda g: jpeg(g) + b"\0\0\0\x18ftypmp42" + bytes(999), None),
        ("jpeg turned and mirrored", turned, None),
        ("jpeg grey with Adobe's mark", lambda g: jpeg(g)[:2] + ADOBE + jpeg(g)[2:], None),
        ("jpeg colour, no JFIF", lambda g: without_app(jpeg(colours(g))), None),
        ("jpeg rgb by its names", lambda g: without_app(jpeg(colours(g), keep_rgb=True)), None),
        (
            "jpeg ycbcr named rgb",
            lambda g: renamed(without_app(jpeg(colours(g), subsampling=0))),
            "colour_model_corrected",
        ),
        (
            "jpeg of two pictures",
            lambda g: save(
                Image.fromarray(colours(g)),
                "MPO",
                save_all=True,
                quality=98,
                append_images=[Image.new("RGB", (64, 64))],
            ),
            None,
        ),
    ]
}
ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"

ORDERS = {"": "<", " big endian": ">"}
TIFF_WAYS = {
    f"tiff {name}{suffix}": Way(lambda g, w=write, o=order: w(g, o), rule, notes)
    for suffix, order in ORDERS.items()
    for name, write, rule, notes in [
        ("of 12 in 16", lambda g, o: tiff(twelve(g), 1, o), "narrower_depth", None),
        (
            "of 12 in 16, zero is white",
            lambda g, o: tiff(4095 - twelve(g), 0, o),
            "narrower_depth",
            None,
        ),
        (
            "of 16, zero is white",
            lambda g, o: tiff(65535 - g.astype(np.uint16) * 257, 0, o),
            "declared_depth",
            None,
        ),
        ("rgb of 12 in 16", lambda g, o: tiff(colours(twelve(g)), 2, o), "narrower_depth", None),
        (
            "rgb of 12 in 16, deflated",
            lambda g, o: tiff(colours(twelve(g)), 2, o, Compression=8),
            "narrower_depth",
            None,
        ),
        (
            "rgba of 12 in 16",
            lambda g, o: tiff(with_opacity(colours(twelve(g)), 65535), 2, o, ExtraSamples=2),
            "narrower_depth",
            None,
        ),
        (
            "rgba of 12 in 16, transparent",
            lambda g, o: tiff(with_opacity(colours(twelve(g)), 0), 2, o, ExtraSamples=2),
            "narrower_depth",
            "opaque_alpha",
        ),
        (
            "rgba of 12 in 16, on black",
            lambda g, o: tiff(with_opacity(colours(twelve(g)), 0), 2, o, ExtraSamples=1),
            "narrower_depth",
            None,
        ),
        (
            "rgba of 12 in 16, on black, deflated",
            lambda g, o: tiff(
                with_opacity(colours(twelve(g)), 0), 2, o, ExtraSamples=1, Compression=8
            ),
            "narrower_depth",
            None,
        ),
        (
            "rgb and a fourth of 12 in 16",
            lambda g, o: tiff(with_opacity(colours(twelve(g)), 0), 2, o, ExtraSamples=0),
            "narrower_depth",
            None,
        ),
        (
            "rgba on black",
            lambda g, o: tiff(with_opacity(colours(g), 0), 2, o, ExtraSamples=1),
            "as_stored",
            None,
        ),
        (
            "grey alpha on black",
            lambda g, o: tiff(with_opacity(g, 255), 1, o, ExtraSamples=1),
            "as_stored",
            None,
        ),
    ]
} | {
    "tiff of 12 packed": Way(packed_12, "narrower_depth"),
    "tiff of 16 with predictor": Way(
        lambda g: save(
            Image.fromarray(twelve(g)), "TIFF", compression="tiff_adobe_deflate", tiffinfo={317: 2}
        ),
        "narrower_depth",
    ),
    "tiff with a damaged text": Way(
        lambda g: with_entry(tiff(g, 1), 65001, 2, 999_999_999, 77), "as_stored"
    ),
    "tiff with a damaged number": Way(
        lambda g: with_entry(tiff(g, 1), 65002, 4, 9, 999_999_999), "as_stored"
    ),
    "tiff zstd": Way(lambda g: save(Image.fromarray(g), "TIFF", compression="zstd"), "as_stored"),
    "tiff lzma": Way(lambda g: save(Image.fromarray(g), "TIFF", compression="lzma"), "as_stored"),
    "tiff jpeg": Way(
        lambda g: save(Image.fromarray(g), "TIFF", compression="jpeg", quality=98),
        "as_stored",
        levels=4,
    ),
    "tiff after its thumbnail": Way(lambda g: pages(g, 1, 0), "as_stored"),
    "tiff of reduced copies": Way(lambda g: pages(g, 1, 1), "as_stored"),
}

OTHER_WAYS = {
    "bmp of 32 bits": Way(lambda g: bmp(g, 0, 40), "as_stored"),
    "bmp of version 5, transparent": Way(lambda g: bmp(g, 0, 124), **OPAQUE),
    "bmp of version 5": Way(lambda g: bmp(g, 255, 124), "as_stored"),
    "bmp from the top": Way(bmp_top_down, "as_stored"),
    "gif of black made transparent": Way(
        lambda g: save(Image.fromarray(g).convert("P"), "GIF", transparency=3),
        "as_stored",
        levels=4,
    ),
    "gif without end": Way(
        lambda g: cut(save(Image.fromarray(g), "GIF"), 1), "as_stored", "no_end_marker"
    ),
}

GOOD_PICTURES = PNG_WAYS | JPEG_WAYS | TIFF_WAYS | OTHER_WAYS
