"""Tools to write one X-ray as DICOM in the ways that the field sends it.

Headers that are wrong, streams that say something else than the header, structures that break a
rule; the ways themselves are in `dicom_values.py`, `dicom_streams.py` and `rejects.py`.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import jpeg_ls
import numpy as np
from openjpeg.utils import encode_array
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.data.make_images import (
    compress_lossless,
    encapsulated,
    make_dataset,
    make_lut,
    save,
    to_bytes,
)

FRAME_PX = 20  # width of what is put around or into a picture
MONO1 = {"PhotometricInterpretation": "MONOCHROME1"}
SIGNED = {"PixelRepresentation": 1}
BASELINE, LOSSLESS = uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1
J2K, J2K_LOSSY, LS = uid.JPEG2000Lossless, uid.JPEG2000, uid.JPEGLSLossless
RLE = uid.RLELossless
FULL_12 = {"WindowCenter": 2048, "WindowWidth": 4096}


@dataclass(frozen=True)
class Way:
    """One way to write a picture.

    Attributes:
        write: makes the file from uint8 [height, width].
        rule: the grey rule to expect.
        notes: the notes to expect.
        levels: largest difference in grey levels.
        is_framed: whether the outer `FRAME_PX` pixels show something else.
    """

    write: Callable[[np.ndarray], bytes]
    rule: str = "declared_depth"
    notes: str | None = None
    levels: int = 1
    is_framed: bool = False


def twelve(grey: np.ndarray) -> np.ndarray:
    return grey.astype(np.uint16) * 16 + 15


def signed(grey: np.ndarray) -> np.ndarray:
    return twelve(grey).astype(np.int16) - 2048


def unextended(grey: np.ndarray) -> np.ndarray:
    """Returns signed 12-bit values whose upper 4 bits are left zero."""
    return (signed(grey) & 0xFFF).astype(np.uint16)


def colours(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, axis=-1)


def framed(pixels: np.ndarray, value: int) -> np.ndarray:
    """Returns pixels whose outer `FRAME_PX` hold one value."""
    out = np.full_like(pixels, value)
    inner = np.s_[FRAME_PX:-FRAME_PX, FRAME_PX:-FRAME_PX]
    out[inner] = pixels[inner]
    return out


def marked(pixels: np.ndarray, value: int) -> np.ndarray:
    """Returns pixels with a burnt-in marker in a corner of the frame."""
    out = pixels.copy()
    out[3:15, 3:25] = value
    out[6:9, 6:20] = pixels.min()
    return out


def overlaid(grey: np.ndarray) -> np.ndarray:
    """Returns 12-bit pixels with a drawing in the bits above."""
    pixels = twelve(grey)
    pixels[20:60, 30:50] |= 0x8000
    pixels[70:90, 60:90] |= 0x1000
    return pixels


def data_set(pixels: np.ndarray, bits: int, **elements: Any) -> Dataset:
    ds = make_dataset(pixels, bits, **elements)
    if pixels.ndim == 3:
        ds.SamplesPerPixel, ds.PlanarConfiguration = 3, 0
        ds.PhotometricInterpretation = elements.get("PhotometricInterpretation", "RGB")
    return ds


def native(pixels: np.ndarray, bits: int, **elements: Any) -> bytes:
    return to_bytes(data_set(pixels, bits, **elements))


def padded(
    pixels: np.ndarray, bits: int, first: int, last: int | None = None, **more: Any
) -> bytes:
    """Returns a file that declares a value, or a range of values, as padding."""
    ds = data_set(pixels, bits, **more)
    vr = "SS" if ds.PixelRepresentation else "US"
    ds.add_new(0x00280120, vr, first)
    if last is not None:
        ds.add_new(0x00280121, vr, last)
    return to_bytes(ds)


def voi_lut(grey: np.ndarray, bits: int, entries: np.ndarray, first: int = 0) -> bytes:
    pixels = signed(grey) if first < 0 else twelve(grey)
    return native(pixels, 12, VOILUTSequence=Sequence([make_lut(first, bits, entries)]))


def modality_lut(grey: np.ndarray, bits: int, **more: Any) -> bytes:
    lut = Sequence([make_lut(0, bits, np.arange(4096))])
    return native(twelve(grey), 12, ModalityLUTSequence=lut, **more)


def palette(grey: np.ndarray, bits: int, entries: bytes) -> bytes:
    ds = data_set(grey, 8, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, bits])
        setattr(ds, f"{colour}PaletteColorLookupTableData", entries)
    return to_bytes(ds)


def element(tag: int, vr: str, value: bytes) -> bytes:
    """Returns one element, Explicit VR Little Endian; without a VR, Implicit."""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    if not vr or vr in ("OB", "OW", "SQ", "UN"):
        return head + bytes(2 * bool(vr)) + struct.pack("<I", len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def with_value(data: bytes, tag: int, value: bytes) -> bytes:
    """Returns a file in which the value of a short element is replaced, length included."""
    at = data.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF))
    (length,) = struct.unpack_from("<H", data, at + 6)
    return data[: at + 6] + struct.pack("<H", len(value)) + value + data[at + 8 + length :]


def windowed(grey: np.ndarray, center: bytes, width: bytes, **more: Any) -> bytes:
    """Returns a file with a window of any text."""
    data = native(twelve(grey), 12, WindowCenter=1, WindowWidth=1, **more)
    return with_value(with_value(data, 0x00281050, center), 0x00281051, width)


def before(data: bytes, tag: int, extra: bytes) -> bytes:
    """Returns a file with something put before an element."""
    at = data.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF))
    return data[:at] + extra + data[at:]


def pixel_element(data: bytes) -> int:
    """Returns where the last pixel element starts."""
    return data.rindex(b"\xe0\x7f\x10\x00")


def with_pixel_vr(data: bytes, vr: bytes) -> bytes:
    at = pixel_element(data)
    return data[: at + 4] + vr + data[at + 6 :]


def without_meta(ds: Dataset, *, implicit: bool = False, little: bool = True) -> bytes:
    """Returns a data set alone, in any of the three native encodings."""
    plain = Dataset()
    plain.update({each.tag: each for each in ds})
    out = BytesIO()
    plain.save_as(out, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    return out.getvalue()


def with_meta(body: bytes, syntax: bytes | None, *, vr: bool = True) -> bytes:
    """Returns a data set behind a file meta group that says what it is told to."""
    kind = "UI" if vr else ""
    meta = element(0x00020002, kind, b"1.2.840.10008.5.1.4.1.1.1.1\0")
    if syntax is not None:
        meta += element(0x00020010, kind, syntax + bytes(len(syntax) % 2))
    return bytes(128) + b"DICM" + meta + body


def all_unknown(data: bytes) -> bytes:
    """Returns a file in which every element of the data set has the VR UN."""
    start = at = data.index(b"\x08\x00\x16\x00")
    out = b""
    while at < len(data):
        high, low = struct.unpack_from("<HH", data, at)
        is_long = data[at + 4 : at + 6] in (b"OB", b"OW")
        (length,) = struct.unpack_from("<I" if is_long else "<H", data, at + (8 if is_long else 6))
        body = at + (12 if is_long else 8)
        out += element(high << 16 | low, "UN", data[body : body + length])
        at = body + length
    return data[:start] + out


ITEM, ITEM_END, SEQUENCE_END = (
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\x0d\xe0" + bytes(4),
    b"\xfe\xff\xdd\xe0" + bytes(4),
)
OPEN_ITEM = ITEM + b"\xff" * 4
OPEN_SEQUENCE = b"\x08\x00\x18\x22SQ\0\0" + b"\xff" * 4
CODE = element(0x00080100, "SH", b"CODE")


def icon(pixels: bytes) -> bytes:
    """Returns an icon image sequence around a pixel element."""
    numbers = {0x00280002: 1, 0x00280010: 8, 0x00280011: 8, 0x00280100: 8, 0x00280101: 8}
    body = b"".join(element(tag, "US", struct.pack("<H", n)) for tag, n in numbers.items())
    head = b"\x88\x00\x00\x02SQ\0\0" + b"\xff" * 4
    return head + OPEN_ITEM + body + pixels + ITEM_END + SEQUENCE_END


def open_pixels(*fragments: bytes) -> bytes:
    """Returns a pixel element of undefined length, its table of offsets empty."""
    items = b"".join(ITEM + struct.pack("<I", len(each)) + each for each in (b"", *fragments))
    return b"\xe0\x7f\x10\x00OB\0\0" + b"\xff" * 4 + items + SEQUENCE_END


def jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    return save(Image.fromarray(pixels), "JPEG", quality=98, **options)


def without_app(stream: bytes) -> bytes:
    """Returns a JPEG without its APP segments: neither JFIF nor Adobe."""
    out, at = stream[:2], 2
    while stream[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        out += b"" if 0xE0 <= stream[at + 1] <= 0xEF else stream[at:end]
        at = end
    return out + stream[at:]


def renamed(stream: bytes) -> bytes:
    """Returns a colour JPEG whose components are numbered as R, G and B."""
    out = bytearray(stream)
    frame, scan = out.index(b"\xff\xc0"), out.index(b"\xff\xda")
    for number, letter in enumerate(b"RGB"):
        out[frame + 10 + 3 * number] = out[scan + 5 + 2 * number] = letter
    return bytes(out)


def jpeg2000(pixels: np.ndarray, bits: int, **options: Any) -> bytes:
    colour = {"photometric_interpretation": 2, "codec_format": 0} | options
    return bytes(encode_array(pixels, bits_stored=bits, **colour))


def jpegls(pixels: np.ndarray, bits: int, lossy_error: int = 0) -> bytes:
    """Returns a JPEG-LS stream without padding."""
    rows, columns = pixels.shape
    coded = jpeg_ls.encode_pixel_data(
        pixels.tobytes(), rows=rows, columns=columns, samples_per_pixel=1, planar_configuration=0,
        bits_allocated=8 * pixels.dtype.itemsize, bits_stored=bits, lossy_error=lossy_error,
    )  # fmt: skip
    return bytes(coded).rstrip(b"\0")


def lossless(pixels: np.ndarray, bits: int, **elements: Any) -> bytes:
    return compress_lossless(data_set(pixels, bits, **elements))


def lossless_stream(pixels: np.ndarray, bits: int) -> bytes:
    data = lossless(pixels, bits)
    return data[data.index(b"\xff\xd8\xff") : data.rindex(b"\xff\xd9") + 2]


def wrapped(pixels: np.ndarray, bits: int, syntax: str, *frames: bytes, **elements: Any) -> bytes:
    return encapsulated(data_set(pixels, bits, **elements), syntax, *frames)


def baseline(grey: np.ndarray, **elements: Any) -> bytes:
    return wrapped(grey, 8, BASELINE, jpeg(grey), **elements)


def rle(pixels: np.ndarray, bits: int, **elements: Any) -> bytes:
    ds = data_set(pixels, bits, **elements)
    ds.compress(uid.RLELossless)
    return to_bytes(ds)


def without(ds: Dataset, *keywords: str) -> Dataset:
    for keyword in keywords:
        del ds[keyword]
    return ds


def at_14(grey: np.ndarray) -> np.ndarray:
    return grey.astype(np.uint16) * 64


def at_16(grey: np.ndarray) -> np.ndarray:
    return grey.astype(np.uint16) * 257
