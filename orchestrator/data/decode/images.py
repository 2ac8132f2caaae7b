"""Decodes an image file into the pixels that every model sees: uint8 [size, size] grey.

One function, `decode`, serves training and scoring alike: JPEG, PNG, TIFF, BMP, GIF and DICOM,
told apart by content. Rules that are not obvious from a format:

- Of several frames or pages the first is decoded (`Limits.max_frames` bounds how many there are).
- Colour becomes grey by ITU-R 601 luma; transparent parts become black; EXIF orientation applies;
  colour profiles are ignored.
- 16-bit grey is scaled by the smallest usual depth (8, 10, 12, 14 or 16 bits) that holds its
  brightest pixel, since detectors of 10 to 14 bits are commonly exported in 16-bit files.
- The image is stretched to a square with an antialiased bilinear filter.
- A file that is cut short or fails a checksum is rejected, never shown in part.

Every failure is an `ImageError` that repeats no text of the file. Opening files is in `files`,
DICOM in `dicom`, limits and codes in `limits`; what callers need is re-exported here.
"""

import hashlib
import logging
import struct
import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from orchestrator.data.decode.codestream import check_jpeg_scans
from orchestrator.data.decode.dicom_header import is_dicom
from orchestrator.data.decode.files import read_file
from orchestrator.data.decode.grey import reduce_16_bits
from orchestrator.data.decode.perceptual import perceptual_hash
from orchestrator.data.limits import REJECTION_CODES, Limits, Stopwatch, rejection
from orchestrator.errors import ImageError

__all__ = ["DECODER_VERSION", "REJECTION_CODES", "DecodedImage", "Limits", "decode", "read_file"]

# Raised whenever the pixels that any file gives change: older predictions are then computed again.
DECODER_VERSION = 1

# Pillow quotes header text in debug logs and in warnings.
logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"PIL\b")
# Every image is held against `Limits` by its header; Pillow's own fixed limit would overrule them.
Image.MAX_IMAGE_PIXELS = None

_OPENERS: dict[bytes, type[ImageFile]] = {
    b"\xff\xd8\xff": JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
    b"II+\0": TiffImageFile,  # BigTIFF
    b"MM\0+": TiffImageFile,
    b"BM": BmpImageFile,
    b"GIF87a": GifImageFile,
    b"GIF89a": GifImageFile,
}
_ORIENTATION = 0x0112
_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_PHOTOMETRIC, _TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 262, 322, 323
# A JPEG is decoded at 1/2, 1/4 or 1/8 size where that leaves this many times the target.
_REDUCING_GAP = 2.0


@dataclass(frozen=True)
class DecodedImage:
    """One image as the models see it, and what else is kept of its file.

    Attributes:
        pixels: uint8 [size_px, size_px], grey, C-contiguous.
        width_px: width of the source as displayed (after EXIF rotation), px.
        height_px: height of the source as displayed, px.
        sha256: hash of the file's bytes, hexadecimal.
        phash: 64-bit perceptual hash of `pixels` (`perceptual.py`), as a signed integer.
        patient_id: "hmac:" and 32 hexadecimal digits for DICOM with a patient id when a key was
            given; otherwise None.
    """

    pixels: npt.NDArray[np.uint8]
    width_px: int
    height_px: int
    sha256: str
    phash: int
    patient_id: str | None


def decode(
    data: bytes, size_px: int, limits: Limits, patient_key: bytes | None = None
) -> DecodedImage:
    """Returns the first frame of an image file as square 8-bit grey.

    The result depends on the bytes and the size alone. Safe to call from many threads.

    Args:
        data: the whole file.
        size_px: height and width of the result, px.
        limits: checked on headers before pixels are decoded.
        patient_key: key of the patient hash of DICOM files; see `DecodedImage.patient_id`.

    Returns:
        The decoded image.

    Raises:
        ImageError: the only exception that leaves, with a code of `REJECTION_CODES`; it carries
            no other exception as cause or context.
    """
    try:
        return _decode(data, size_px, limits, patient_key)
    except ImageError as caught:
        error = ImageError(caught.code, caught.message)
    except MemoryError:
        error = rejection("out_of_memory", "There was not enough memory to decode it")
    except Exception:
        # Decoders raise anything on damaged input, with text that may come from the file.
        error = rejection("damaged", "The image cannot be decoded")
    # Raised here, outside the handlers, so that no library's exception hangs on it as context.
    raise error


def _decode(data: bytes, size_px: int, limits: Limits, patient_key: bytes | None) -> DecodedImage:
    watch = Stopwatch(limits.max_seconds)
    if not data:
        raise rejection("empty_file", "The file holds no bytes")
    limits.check_bytes(len(data))
    patient_id = None
    if is_dicom(data):
        # Imported at the first DICOM file: pydicom costs a quarter of a second.
        from orchestrator.data.decode.dicom import decode_dicom

        image = decode_dicom(data, limits, watch, patient_key)
        patient_id = image.patient_id
        (width_px, height_px), small = image.grey.size, _resize(image.grey, size_px)
    else:
        width_px, height_px, small = _decode_picture(data, size_px, limits, watch)
    watch.check()
    pixels = np.ascontiguousarray(np.asarray(small, np.uint8))
    sha256 = hashlib.sha256(data).hexdigest()
    return DecodedImage(pixels, width_px, height_px, sha256, perceptual_hash(pixels), patient_id)


def _decode_picture(
    data: bytes, size_px: int, limits: Limits, watch: Stopwatch
) -> tuple[int, int, Image.Image]:
    """Returns width and height as displayed and the square grey image of a non-DICOM file."""
    opener = next((o for magic, o in _OPENERS.items() if data.startswith(magic)), None)
    if opener is None:
        raise rejection("not_an_image", "The content is of no known image format")
    if opener is GifImageFile:
        _check_gif(data, limits)  # Pillow may allocate the first frame as it opens the file
    image = opener(BytesIO(data))
    width_px, height_px = image.size
    limits.check_pixels(width_px, height_px)
    if isinstance(image, JpegImageFile):
        check_jpeg_scans(data)
    elif isinstance(image, PngImageFile):
        limits.check_frames(image.n_frames)
        PngImageFile(BytesIO(data)).verify()  # every checksum; loading skips those of the pixels
    elif isinstance(image, TiffImageFile):
        _check_tiff(image, limits)
    watch.check()
    orientation = _orientation(image)
    if orientation >= 5:
        width_px, height_px = height_px, width_px
    box = None
    if isinstance(image, JpegImageFile):
        gap_px = int(size_px * _REDUCING_GAP)
        drafted = image.draft("L", (gap_px, gap_px))
        box = drafted[1] if drafted else None
    image.load()
    watch.check()
    small = _resize(_to_grey(image), size_px, box)
    # Turning the small square is the same as turning the image before stretching it.
    turned = small.transpose(_TRANSPOSED[orientation]) if orientation in _TRANSPOSED else small
    return width_px, height_px, turned


def _resize(
    grey: Image.Image, size_px: int, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """Returns an image stretched to a square; `box` is the part to use where not all of it."""
    return grey.resize(
        (size_px, size_px), Image.Resampling.BILINEAR, box=box, reducing_gap=_REDUCING_GAP
    )


def _orientation(image: ImageFile) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 where it is absent or unreadable.

    Viewers show an image whose EXIF is broken as it is stored, and so does this. Pillow itself
    turns TIFF as it loads it.
    """
    if isinstance(image, TiffImageFile):
        return 1
    try:
        found = image.getexif().get(_ORIENTATION)
    except Exception:  # its parser raises anything
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _to_grey(image: ImageFile) -> Image.Image:
    """Returns a loaded image as mode "L"."""
    if image.mode.startswith("I;16"):
        is_white_zero = isinstance(image, TiffImageFile) and image.tag_v2[_TIFF_PHOTOMETRIC] == 0
        return Image.fromarray(reduce_16_bits(np.asarray(image), is_inverted=is_white_zero))
    if image.mode in ("I", "F"):
        raise rejection("unsupported_pixels", "The pixels are signed, 32-bit or floating point")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        # Over black, compositing is multiplying by the opacity
        return ImageChops.multiply(rgba.convert("L"), rgba.getchannel("A"))
    if image.mode == "LAB":
        raise rejection("unsupported_pixels", "The pixels are in the Lab colour space")
    return image.convert("L")


def _check_tiff(image: TiffImageFile, limits: Limits) -> None:
    """Raises `ImageError` where the pages or the tiles of a TIFF are over the limits."""
    for tag in (_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH):
        if tag in image.tag_v2 and not isinstance(image.tag_v2[tag], int):
            raise rejection("damaged", "The TIFF's tile size is malformed")
    width_px = cast(int, image.tag_v2.get(_TIFF_TILE_WIDTH, 1))
    limits.check_pixels(width_px, cast(int, image.tag_v2.get(_TIFF_TILE_LENGTH, 1)))
    try:
        image.seek(limits.max_frames)
    except EOFError:
        image.seek(0)
    else:
        limits.check_frames(limits.max_frames + 1)


def _check_gif(data: bytes, limits: Limits) -> None:
    """Raises `ImageError` where a GIF's canvas, a frame or their number is over the limits.

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


def _colour_table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
