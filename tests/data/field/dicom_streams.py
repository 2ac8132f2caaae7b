"""Good DICOM: sequences, lengths, file meta and compressed streams that break a rule."""

import struct
import zlib

import numpy as np
from pydicom import uid
from pydicom.encaps import encapsulate

from tests.data.field.dicom_tools import (
    BASELINE,
    CODE,
    ITEM_END,
    J2K,
    J2K_LOSSY,
    LOSSLESS,
    LS,
    OPEN_ITEM,
    OPEN_SEQUENCE,
    RLE,
    SEQUENCE_END,
    Way,
    all_unknown,
    at_16,
    baseline,
    before,
    colours,
    data_set,
    element,
    framed,
    icon,
    jpeg,
    jpeg2000,
    jpegls,
    lossless,
    lossless_stream,
    native,
    open_pixels,
    pixel_element,
    renamed,
    rle,
    twelve,
    with_meta,
    with_pixel_vr,
    with_value,
    without,
    without_app,
    without_meta,
    wrapped,
)
from tests.data.make_images import to_bytes

YBR_422 = {"PhotometricInterpretation": "YBR_FULL_422"}
NO_END = {"notes": "no_end_marker"}


def icon_before(data: bytes, pixels: bytes) -> bytes:
    return before(data, 0x7FE00010, icon(pixels))


def private_sequence() -> bytes:
    """Returns a private sequence of undefined length whose VR is UN."""
    item = element(0x00091001, "", b"ab")
    head = element(0x00090010, "LO", b"VENDOR 1") + b"\x09\x00\x00\x10UN\0\0" + b"\xff" * 4
    return head + OPEN_ITEM + item + ITEM_END + SEQUENCE_END


def code_sequence(item: bytes = OPEN_ITEM, end: bytes = SEQUENCE_END) -> bytes:
    return OPEN_SEQUENCE + item + CODE + end


def with_sequence(grey: np.ndarray, sequence: bytes) -> bytes:
    return before(native(twelve(grey), 12), 0x00100010, sequence)


def bad_offsets(grey: np.ndarray, num_frames: int = 1) -> bytes:
    stream = jpeg2000(twelve(grey), 12)
    ds = data_set(twelve(grey), 12, NumberOfFrames=num_frames)
    ds.file_meta.TransferSyntaxUID = J2K
    other = jpeg2000(4095 - twelve(grey), 12)
    ds.PixelData = encapsulate([stream, *[other] * (num_frames - 1)], fragments_per_frame=3)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    data = to_bytes(ds)
    at = pixel_element(data) + 20
    return data[:at] + struct.pack("<I", 4242) * num_frames + data[at + 4 * num_frames :]


def of_defined_length(data: bytes) -> bytes:
    at = pixel_element(data) + 8
    return data[:at] + struct.pack("<I", len(data) - at - 4) + data[at + 4 :]


def odd(grey: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(grey[:-1, :-1])


def of_odd_length(grey: np.ndarray) -> bytes:
    data = native(odd(grey), 8)
    at = pixel_element(data) + 8
    return data[:at] + struct.pack("<I", odd(grey).size) + data[at + 4 : -1]


def deflated(grey: np.ndarray) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    body = packer.compress(without_meta(data_set(twelve(grey), 12))) + packer.flush()
    return with_meta(body, b"1.2.840.10008.1.2.1.99") + bytes(3)


def swapped_words(grey: np.ndarray) -> bytes:
    """Returns 8-bit pixels in big-endian words."""
    ds = data_set(grey, 8, PixelData=grey.view(">u2").astype("<u2").tobytes())
    ds["PixelData"].VR = "OW"
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    return with_meta(without_meta(ds, little=False), b"1.2.840.10008.1.2.2")


def plain(grey: np.ndarray, **how: bool) -> bytes:
    return without_meta(data_set(twelve(grey), 12), **how)


def in_ycbcr(grey: np.ndarray) -> np.ndarray:
    return np.dstack([grey, *[np.full_like(grey, 128)] * 2])


def packed(pixels: np.ndarray) -> bytes:
    """Returns 8-bit pixels as an RLE frame of literal runs, which do not end with the rows."""
    segments = []
    for plane in np.atleast_3d(pixels).transpose(2, 0, 1):
        flat = plane.tobytes()
        runs = [flat[at : at + 100] for at in range(0, len(flat), 100)]
        segments.append(b"".join(bytes([len(run) - 1]) + run for run in runs))
    starts = [64 + sum(map(len, segments[:place])) for place in range(len(segments))]
    head = struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(starts)))
    return head + b"".join(segments)


IMPLICIT, EXPLICIT, BIG = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2"

# Structure: sequences, fragments, lengths, file meta.
STRUCTURE_WAYS = {
    "item closed by the end of its sequence": Way(lambda g: with_sequence(g, code_sequence())),
    "items closed by the next": Way(
        lambda g: with_sequence(g, code_sequence(end=OPEN_ITEM + CODE + SEQUENCE_END))
    ),
    "sequence closed by the item around it": Way(
        lambda g: with_sequence(
            g, OPEN_SEQUENCE + OPEN_ITEM + code_sequence(end=ITEM_END) + ITEM_END + SEQUENCE_END
        )
    ),
    "implicit inside a sequence": Way(
        lambda g: with_sequence(
            g,
            OPEN_SEQUENCE + OPEN_ITEM + element(0x00080100, "", b"CODE") + ITEM_END + SEQUENCE_END,
        )
    ),
    "private sequence of VR UN": Way(lambda g: with_sequence(g, private_sequence())),
    "icon": Way(lambda g: icon_before(native(twelve(g), 12), element(0x7FE00010, "OB", bytes(64)))),
    "icon compressed": Way(
        lambda g: icon_before(native(twelve(g), 12), open_pixels(jpeg(g[:8, :8]) + b"\0"))
    ),
    "icon without pixels": Way(lambda g: icon_before(native(twelve(g), 12), b"")),
    "trailing padding": Way(
        lambda g: native(twelve(g), 12) + element(0xFFFCFFFC, "OB", bytes(100))
    ),
    "trailing zeros": Way(lambda g: native(twelve(g), 12) + bytes(2048)),
    "pixels padded": Way(
        lambda g: native(twelve(g), 12, PixelData=twelve(g).tobytes() + bytes(510))
    ),
    "odd number of pixels": Way(lambda g: native(odd(g), 8), "as_stored", levels=99),
    "odd length": Way(of_odd_length, "as_stored", levels=99),
    "pixels of VR UN": Way(lambda g: with_pixel_vr(native(twelve(g), 12), b"UN")),
    "pixels of VR OB": Way(lambda g: with_pixel_vr(native(twelve(g), 12), b"OB")),
    "all of VR UN": Way(lambda g: all_unknown(native(twelve(g), 12))),
    "no meta implicit": Way(lambda g: plain(g, implicit=True)),
    "no meta explicit": Way(plain),
    "no meta big endian": Way(
        lambda g: without_meta(
            data_set(twelve(g), 12, PixelData=twelve(g).byteswap().tobytes()), little=False
        )
    ),
    "meta without syntax": Way(lambda g: with_meta(plain(g, implicit=True), None)),
    "meta implicit": Way(lambda g: with_meta(plain(g, implicit=True), IMPLICIT, vr=False)),
    "meta of wrong length": Way(
        lambda g: with_value(native(twelve(g), 12), 0x00020000, b"\x07\0\0\0")
    ),
    "implicit says explicit": Way(lambda g: with_meta(plain(g, implicit=True), EXPLICIT)),
    "explicit says implicit": Way(lambda g: with_meta(plain(g), IMPLICIT)),
    "little endian says big": Way(lambda g: with_meta(plain(g), BIG)),
    "syntax padded by a space": Way(lambda g: with_meta(plain(g, implicit=True), IMPLICIT + b" ")),
    "8 bits in big-endian words": Way(swapped_words, "as_stored"),
    "deflated with padding": Way(deflated),
    "photometric in lower case": Way(
        lambda g: native(twelve(g), 12).replace(b"MONOCHROME2", b"Monochrome2")
    ),
    "samples absent": Way(lambda g: to_bytes(without(data_set(twelve(g), 12), "SamplesPerPixel"))),
    "pixel representation absent": Way(
        lambda g: to_bytes(without(data_set(twelve(g), 12), "PixelRepresentation"))
    ),
    "frames empty": Way(
        lambda g: with_value(native(twelve(g), 12, NumberOfFrames=1), 0x00280008, b"")
    ),
    "frames zero": Way(
        lambda g: with_value(native(twelve(g), 12, NumberOfFrames=1), 0x00280008, b"0 ")
    ),
    "more pixels than frames": Way(
        lambda g: native(twelve(g), 12, PixelData=twelve(g).tobytes() * 2)
    ),
    "rgb without planar configuration": Way(
        lambda g: to_bytes(without(data_set(colours(g), 8), "PlanarConfiguration")),
        "as_stored",
    ),
}

# Compressed pixels.
STREAM_WAYS = {
    "offsets wrong": Way(bad_offsets),
    "offsets of frames wrong": Way(lambda g: bad_offsets(g, 2)),
    "no table of offsets": Way(
        lambda g: (lambda d, at: d[:at] + d[at + 12 :])(
            baseline(g), pixel_element(baseline(g)) + 12
        ),
        "as_stored",
        levels=4,
    ),
    "no delimiter": Way(lambda g: baseline(g)[:-8], "as_stored", levels=4),
    "zeros for a delimiter": Way(lambda g: baseline(g)[:-8] + bytes(8), "as_stored", levels=4),
    "delimiter with a length": Way(lambda g: baseline(g)[:-4] + b"\xff" * 4, "as_stored", levels=4),
    "defined length": Way(lambda g: of_defined_length(baseline(g)), "as_stored", levels=4),
    "defined length rle": Way(lambda g: of_defined_length(rle(g, 8)), "as_stored"),
    "rle with runs across rows": Way(lambda g: wrapped(g, 8, RLE, packed(g)), "as_stored"),
    "rle in ycbcr 422": Way(
        lambda g: wrapped(in_ycbcr(g), 8, RLE, packed(in_ycbcr(g)), **YBR_422), "as_stored"
    ),
    "jpeg without end": Way(
        lambda g: wrapped(g, 8, BASELINE, jpeg(g)[:-2]), "as_stored", levels=4, **NO_END
    ),
    "jpeg with zeros after the end": Way(
        lambda g: wrapped(g, 8, BASELINE, jpeg(g) + bytes(64)), "as_stored", levels=4
    ),
    "jpeg lossless without end": Way(
        lambda g: wrapped(twelve(g), 12, LOSSLESS, lossless_stream(twelve(g), 12)[:-2]),
        **NO_END,
    ),
    "jpeg lossless without end, last rows black": Way(
        lambda g: wrapped(
            framed(twelve(g), 0), 12, LOSSLESS, lossless_stream(framed(twelve(g), 0), 12)[:-2]
        ),
        is_framed=True,
        **NO_END,
    ),
    "jpeg lossless of baseline": Way(
        lambda g: wrapped(g, 8, LOSSLESS, jpeg(g)), "as_stored", levels=4
    ),
    "jpeg baseline of lossless": Way(
        lambda g: wrapped(g, 8, BASELINE, lossless_stream(g, 8)), "as_stored"
    ),
    "jpeg 2000 without end": Way(
        lambda g: wrapped(twelve(g), 12, J2K, jpeg2000(twelve(g), 12)[:-2]), **NO_END
    ),
    "jpeg 2000 in a file": Way(
        lambda g: wrapped(twelve(g), 12, J2K, jpeg2000(twelve(g), 12, codec_format=1))
    ),
    "jpeg 2000 lossy of 16": Way(
        lambda g: wrapped(at_16(g), 16, J2K_LOSSY, jpeg2000(at_16(g), 16, compression_ratios=[6])),
        levels=6,
    ),
    "jpeg-ls without end": Way(
        lambda g: wrapped(twelve(g), 12, LS, jpegls(twelve(g), 12)[:-2]), **NO_END
    ),
    "jpeg-ls with a zero before its end": Way(
        lambda g: wrapped(twelve(g), 12, LS, jpegls(twelve(g), 12)[:-2] + b"\0\xff\xd9")
    ),
    "jpeg-ls of 8 says 7": Way(
        lambda g: wrapped(g, 8, LS, jpegls(g, 8), BitsStored=7, HighBit=6),
        "as_stored",
        "bits_exceeded",
    ),
    "jpeg-ls near lossless": Way(
        lambda g: wrapped(
            twelve(g), 12, uid.JPEGLSNearLossless, jpegls(twelve(g), 12, lossy_error=16)
        ),
        levels=2,
    ),
    "jpeg in ycbcr says rgb": Way(
        lambda g: wrapped(colours(g), 8, BASELINE, jpeg(colours(g), subsampling=0)),
        "as_stored",
        levels=4,
    ),
    "jpeg in ycbcr says rgb, no JFIF": Way(
        lambda g: wrapped(colours(g), 8, BASELINE, without_app(jpeg(colours(g), subsampling=0))),
        "as_stored",
        "colour_model_corrected",
        levels=4,
    ),
    "jpeg in ycbcr named rgb": Way(
        lambda g: wrapped(
            colours(g), 8, BASELINE, renamed(without_app(jpeg(colours(g), subsampling=0)))
        ),
        "as_stored",
        "colour_model_corrected",
        levels=4,
    ),
    "jpeg in ycbcr": Way(
        lambda g: wrapped(colours(g), 8, BASELINE, jpeg(colours(g), subsampling=1), **YBR_422),
        "as_stored",
        levels=4,
    ),
    "jpeg in ycbcr, no JFIF": Way(
        lambda g: wrapped(
            colours(g), 8, BASELINE, without_app(jpeg(colours(g), subsampling=1)), **YBR_422
        ),
        "as_stored",
        levels=4,
    ),
    "jpeg in rgb": Way(
        lambda g: wrapped(colours(g), 8, BASELINE, jpeg(colours(g), keep_rgb=True)),
        "as_stored",
        levels=4,
    ),
    "jpeg in rgb says ycbcr": Way(
        lambda g: wrapped(
            colours(g), 8, BASELINE, without_app(jpeg(colours(g), keep_rgb=True)), **YBR_422
        ),
        "as_stored",
        levels=4,
    ),
    "native ycbcr says rgb": Way(
        lambda g: native(in_ycbcr(g), 8),
        "as_stored",
        "colour_model_corrected",
    ),
    "native rgb says ycbcr": Way(
        lambda g: native(colours(g), 8, PhotometricInterpretation="YBR_FULL"),
        "as_stored",
        "colour_model_corrected",
    ),
    "jpeg lossless rgb": Way(lambda g: lossless(colours(g), 8), "as_stored"),
    "jpeg lossless rgb says planes": Way(
        lambda g: with_value(lossless(colours(g), 8), 0x00280006, b"\1\0"), "as_stored"
    ),
    "jpeg 2000 rgb says planes": Way(
        lambda g: with_value(
            wrapped(colours(g), 8, J2K, jpeg2000(colours(g), 8, photometric_interpretation=1)),
            0x00280006,
            b"\1\0",
        ),
        "as_stored",
    ),
}

GOOD_STREAMS = STRUCTURE_WAYS | STREAM_WAYS
