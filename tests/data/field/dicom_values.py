"""Good DICOM: which stored numbers are shown, windows and look-up tables, bits and signs."""

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.data.field.dicom_tools import (
    BASELINE,
    FULL_12,
    J2K,
    J2K_LOSSY,
    LS,
    MONO1,
    SIGNED,
    Way,
    at_14,
    at_16,
    colours,
    data_set,
    framed,
    jpeg,
    jpeg2000,
    jpegls,
    lossless,
    marked,
    modality_lut,
    native,
    overlaid,
    padded,
    palette,
    rle,
    signed,
    twelve,
    unextended,
    voi_lut,
    windowed,
    with_value,
    without,
    wrapped,
)
from tests.data.make_images import make_lut, to_bytes

RAMP = np.arange(4096)

# Which range of stored numbers is shown.
RANGE_WAYS = {
    "12 bits declared 16": Way(lambda g: native(twelve(g), 16), "narrower_depth"),
    "12 bits declared 15": Way(lambda g: native(twelve(g), 15), "narrower_depth"),
    "12 bits declared 14": Way(lambda g: native(twelve(g), 14), "narrower_depth"),
    "10 bits declared 12": Way(lambda g: native(g.astype(np.uint16) * 4 + 3, 12), "narrower_depth"),
    "14 bits declared 16 inverted": Way(
        lambda g: native(16383 - g.astype(np.uint16) * 64, 16, **MONO1), "narrower_depth"
    ),
    "12 bits at the upper end of 16": Way(
        lambda g: native(65535 - twelve(g), 16, **MONO1), "narrower_depth"
    ),
    "signed 12 bits about the middle of 16": Way(
        lambda g: native((signed(g).astype(int) + 32768).astype(np.uint16), 16), "narrower_depth"
    ),
    "signed and all positive": Way(
        lambda g: native(twelve(g).astype(np.int16), 16), "narrower_depth"
    ),
    "signed with noise below zero": Way(
        lambda g: native((twelve(g) - 60).astype(np.int16), 16), "narrower_depth", levels=5
    ),
    "one hot pixel": Way(
        lambda g: native(
            np.where(np.arange(g.size).reshape(g.shape) == 99, 65535, twelve(g)).astype(np.uint16),
            16,
        ),
        "narrower_depth",
        is_framed=True,
    ),
    "burnt-in marker": Way(
        lambda g: native(marked(twelve(g), 65535), 16), "narrower_depth", is_framed=True
    ),
    "burnt-in marker signed": Way(
        lambda g: native(marked(signed(g), 32767), 16), "narrower_depth", is_framed=True
    ),
    "padding 65535": Way(
        lambda g: padded(framed(twelve(g), 65535), 16, 65535),
        "narrower_depth",
        is_framed=True,
    ),
    "padding 65535 not declared": Way(
        lambda g: native(framed(twelve(g), 65535), 16), "narrower_depth", is_framed=True
    ),
    "padding of a range": Way(
        lambda g: padded(
            np.where(
                framed(twelve(g), 0) == 0,
                np.arange(g.size).reshape(g.shape) % 5000 + 60000,
                twelve(g),
            ).astype(np.uint16),
            16,
            60000,
            65535,
        ),
        "narrower_depth",
        is_framed=True,
    ),
    "padding -2000 signed": Way(
        lambda g: padded(framed(twelve(g).astype(np.int16), -2000), 16, -2000),
        "narrower_depth",
        is_framed=True,
    ),
    "padding with a window": Way(
        lambda g: padded(framed(4095 - twelve(g), 65535), 16, 65535, **MONO1, **FULL_12),
        "window",
        is_framed=True,
    ),
    "rgb of 12 in 16": Way(lambda g: native(colours(twelve(g)), 16), "narrower_depth"),
    "rgb of 12 stored": Way(lambda g: native(colours(twelve(g)), 12)),
    "rgb of 16": Way(lambda g: native(colours(at_16(g)), 16)),
    "palette of 16": Way(lambda g: palette(g, 16, (np.arange(256) * 257).astype("<u2").tobytes())),
    "palette of 12 in 16": Way(
        lambda g: palette(g, 16, (np.arange(256) * 16).astype("<u2").tobytes()),
        "narrower_depth",
    ),
    "palette says 16 holds 8": Way(
        lambda g: palette(g, 16, np.arange(256).astype("<u2").tobytes()), "narrower_depth"
    ),
    "palette of packed bytes": Way(
        lambda g: palette(g, 8, np.arange(256).astype("u1").tobytes()), "as_stored"
    ),
    "14 bits declared 12": Way(
        lambda g: native(g.astype(np.uint16) * 64 + 63, 12), "narrower_depth", "bits_exceeded"
    ),
    "jpeg 2000 of 14 says 16": Way(lambda g: wrapped(at_14(g), 16, J2K, jpeg2000(at_14(g), 14))),
    "jpeg 2000 of 16 says 12": Way(lambda g: wrapped(twelve(g), 12, J2K, jpeg2000(twelve(g), 16))),
    "jpeg 2000 lossy beyond its depth": Way(
        lambda g: wrapped(
            twelve(g), 16, J2K_LOSSY, jpeg2000(twelve(g), 16, compression_ratios=[6])
        ),
        "narrower_depth",
        levels=6,
    ),
    "jpeg-ls of 8 says 16": Way(
        lambda g: wrapped(g.astype(np.uint16), 16, LS, jpegls(g, 8)), "as_stored"
    ),
}

# Windows and look-up tables.
VOI_WAYS = {
    "voi lut": Way(lambda g: voi_lut(g, 12, RAMP), "voi_lut"),
    "voi lut of 16": Way(lambda g: voi_lut(g, 16, RAMP * 16 + 15), "voi_lut"),
    "voi lut says 16 holds 12": Way(
        lambda g: voi_lut(g, 16, RAMP), "voi_lut", "lut_depth_corrected"
    ),
    "voi lut says 16 holds 10": Way(
        lambda g: voi_lut(g, 16, RAMP // 4), "voi_lut", "lut_depth_corrected"
    ),
    "voi lut says 12 holds 8": Way(
        lambda g: voi_lut(g, 12, RAMP // 16), "voi_lut", "lut_depth_corrected"
    ),
    "voi lut of 8 in words": Way(lambda g: voi_lut(g, 8, RAMP // 16), "voi_lut"),
    "voi lut starts later": Way(lambda g: voi_lut(g, 12, RAMP[15:], first=15), "voi_lut"),
    "voi lut signed": Way(lambda g: voi_lut(g, 12, RAMP, first=-2048), "voi_lut"),
    "voi lut signed to 16": Way(lambda g: voi_lut(g, 16, RAMP * 16 + 15, first=-2048), "voi_lut"),
    "voi lut of 65536 entries": Way(
        lambda g: native(
            at_16(g), 16, VOILUTSequence=Sequence([make_lut(0, 16, np.arange(65536))])
        ),
        "voi_lut",
    ),
    "voi lut for other values": Way(
        lambda g: native(twelve(g), 12, VOILUTSequence=Sequence([make_lut(30000, 12, RAMP)])),
        notes="voi_lut_ignored",
    ),
    "voi lut empty": Way(
        lambda g: native(twelve(g), 12, VOILUTSequence=Sequence([Dataset()]), **FULL_12), "window"
    ),
    "voi lut sequence empty": Way(
        lambda g: native(twelve(g), 12, VOILUTSequence=Sequence([]), **FULL_12), "window"
    ),
    "modality lut": Way(lambda g: modality_lut(g, 12)),
    "modality lut says 16 holds 12": Way(
        lambda g: modality_lut(g, 16), "narrower_depth", "lut_depth_corrected"
    ),
    "modality lut and window": Way(
        lambda g: modality_lut(g, 16, **FULL_12), "window", "lut_depth_corrected"
    ),
    "modality lut empty": Way(
        lambda g: native(twelve(g), 12, ModalityLUTSequence=Sequence([Dataset()]))
    ),
    "window": Way(lambda g: windowed(g, b"2048", b"4096"), "window"),
    "window with fractions": Way(lambda g: windowed(g, b"2047.5", b"4096.0"), "window"),
    "window of many digits": Way(
        lambda g: windowed(g, b"2048.00000000000001 ", b"4096.00000000000001 "), "window"
    ),
    "window with exponents": Way(lambda g: windowed(g, b"2.048e+003", b"4.096E3 "), "window"),
    "windows": Way(lambda g: windowed(g, b"2048\\1000 ", b"4096\\200"), "window"),
    "window function in lower case": Way(
        lambda g: windowed(g, b"2048", b"4096", VOILUTFunction="LINEAR").replace(
            b"LINEAR", b"linear"
        ),
        "window",
    ),
    "window inverted": Way(lambda g: native(4095 - twelve(g), 12, **MONO1, **FULL_12), "window"),
    "window inverted of 16": Way(
        lambda g: native(65535 - at_16(g), 16, **MONO1, WindowCenter=32768, WindowWidth=65536),
        "window",
    ),
    "window and inverse presentation": Way(
        lambda g: native(4095 - twelve(g), 12, **MONO1, **FULL_12, PresentationLUTShape="INVERSE"),
        "window",
    ),
    "window empty": Way(lambda g: windowed(g, b"", b"")),
    "window without width": Way(lambda g: windowed(g, b"2048", b"")),
    "window of zero": Way(lambda g: windowed(g, b"0 ", b"0 ")),
    "window of negative width": Way(lambda g: windowed(g, b"2048", b"-4096 ")),
    "window of 16 on 12": Way(lambda g: windowed(g, b"32768 ", b"65536 "), notes="window_ignored"),
    "window of 14 on 12": Way(lambda g: windowed(g, b"8192", b"16384 "), notes="window_ignored"),
    "window of 12 on 16": Way(lambda g: native(at_16(g), 16, **FULL_12), notes="window_ignored"),
    "window of 16 on 12 declared 16": Way(
        lambda g: native(twelve(g), 16, WindowCenter=32768, WindowWidth=65536),
        "narrower_depth",
        "window_ignored",
    ),
    "slope empty": Way(
        lambda g: with_value(native(twelve(g), 12, RescaleSlope=1), 0x00281053, b"")
    ),
    "slope negative": Way(
        lambda g: native(255 - g, 8, RescaleSlope=-10, RescaleIntercept=3000), "as_stored"
    ),
}

# Bits above BitsStored, signs and streams of another depth than their container.
BIT_WAYS = {
    "overlay in high bits": Way(lambda g: native(overlaid(g), 12), notes="high_bits_masked"),
    "overlay with a window": Way(
        lambda g: native(overlaid(g), 12, **FULL_12), "window", "high_bits_masked"
    ),
    "overlay in jpeg 2000": Way(
        lambda g: wrapped(overlaid(g), 12, J2K, jpeg2000(overlaid(g), 16)),
        notes="high_bits_masked",
    ),
    "overlay in rle": Way(lambda g: rle(overlaid(g), 12), notes="high_bits_masked"),
    "overlay in jpeg lossless": Way(
        lambda g: with_value(
            with_value(lossless(overlaid(g), 16), 0x00280101, b"\x0c\0"), 0x00280102, b"\x0b\0"
        )
    ),
    "sign not extended": Way(lambda g: native(unextended(g), 12, **SIGNED)),
    "sign not extended in rle": Way(lambda g: rle(unextended(g), 12, **SIGNED)),
    "sign not extended with a window": Way(
        lambda g: native(unextended(g), 12, **SIGNED, WindowCenter=0, WindowWidth=4096),
        "window",
    ),
    "jpeg-ls signed": Way(lambda g: wrapped(signed(g), 12, LS, jpegls(unextended(g), 12))),
    "jpeg 2000 unsigned says signed": Way(
        lambda g: wrapped(signed(g), 12, J2K, jpeg2000(unextended(g), 12))
    ),
    "jpeg 2000 signed says unsigned": Way(
        lambda g: wrapped(signed(g), 12, J2K, jpeg2000(signed(g), 12), PixelRepresentation=0)
    ),
    "jpeg 2000 of 13 says signed": Way(
        lambda g: wrapped(twelve(g), 13, J2K, jpeg2000(twelve(g), 13), **SIGNED, **FULL_12),
        "window",
    ),
    "8 in 16": Way(lambda g: native(g.astype(np.uint16), 8), "as_stored"),
    "8 in 16 jpeg lossless": Way(lambda g: lossless(g.astype(np.uint16), 8), "as_stored"),
    "8 in 16 jpeg 2000": Way(
        lambda g: wrapped(g.astype(np.uint16), 8, J2K, jpeg2000(g, 8)), "as_stored"
    ),
    "8 in 16 jpeg-ls": Way(
        lambda g: wrapped(g.astype(np.uint16), 8, LS, jpegls(g, 8)), "as_stored"
    ),
    "8 in 16 jpeg baseline": Way(
        lambda g: wrapped(g.astype(np.uint16), 8, BASELINE, jpeg(g)), "as_stored", levels=4
    ),
    "8 in 16 jpeg extended": Way(
        lambda g: wrapped(g.astype(np.uint16), 12, uid.JPEGExtended12Bit, jpeg(g)),
        "as_stored",
        levels=4,
    ),
    "bits stored absent": Way(
        lambda g: to_bytes(without(data_set(twelve(g), 12), "BitsStored", "HighBit")),
        "narrower_depth",
    ),
}

GOOD_VALUES = RANGE_WAYS | VOI_WAYS | BIT_WAYS
