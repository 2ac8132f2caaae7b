"""Decodes JPEG, PNG, TIFF, BMP and GIF files into a square of 8-bit grey.

Headers are read here, or beside here, before Pillow allocates anything; Pillow decodes. What the
rules are is said in `images`.

Over 300 lines, one section a format.
"""

import logging
import struct
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from orchestrator.data.decode.codestream import add_end_marker, check_jpeg_scans, read_jpeg
from orchestrator.data.decode.colour import colour_to_grey, is_luma_chroma
from orchestrator.data.decode.gif import check_gif
from orchestrator.data.decode.grey import reduce_16_bits, reduce_colour
from orchestrator.data.decode.jpeg import decode_grey_jpeg, decode_jpeg
from orchestrator.data.decode.png import Png, as_rgba_bytes, read_png
from orchestrator.data.decode.rules import GreyImage
from orchestrator.data.decode.tiff import TiffPage, choose_page
from orchestrator.data.decode.unknown import reject_unknown
from orchestrator.data.limits import Limits, Stopwatch, rejection

# Pillow quotes header text in debug logs and in warnings.
logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"PIL\b")
# Every image is held against `Limits` by its header; Pillow's own fixed limit would overrule them.
Image.MAX_IMAGE_PIXELS = None

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
# A JPEG is decoded at 1/2, 1/4 or 1/8 size where that leaves this many times the target.
_REDUCING_GAP = 2.0
_OTHER_JPEGS = {
    "jpeg lossless": "A JPEG Lossless image",
    "jpeg-ls": "A JPEG-LS image",
    "other jpeg": "A hierarchical JPEG",
}
_JPEG_PIXEL_BYTES = 8  # progressive colour; most take 1, decoded at a reduced size
# Byte orders in Pillow's raw modes: N is that of the machine.
_EXCHANGED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_BMP_BITS, _BMP_COMPRESSIONS = (1, 4, 8, 16, 24, 32), (0, 1, 2, 3)


@dataclass(frozen=True)
class Picture:
    """One image as the models see it.

    Attributes:
        grey: square image, uint8, turned as displayed.
        width_px: width of the source as displayed, px.
        height_px: height of the source as displayed, px.
    """

    grey: GreyImage
    width_px: int
    height_px: int


def decode_picture(data: bytes, size_px: int, limits: Limits, watch: Stopwatch) -> Picture:
    """Returns the first frame of an image file other than DICOM as a square.

    Args:
        data: the whole file.
        size_px: height and width of the result, px.
        limits: checked on headers, before pixels are decoded.
        watch: checked between the steps.

    Raises:
        ImageError: no image of a format decoded here, over a limit, or damaged. Other exceptions
            may come out of the libraries; their text must not be shown.
    """
    found = find_format(data)
    if found is None:
        raise reject_unknown(data)
    return _DECODERS[found](data, size_px, limits, watch)


def find_format(data: bytes) -> str | None:
    """Returns the format that a file's first bytes tell, one of `rules.FILE_FORMATS`, or None."""
    return next((name for magic, name in _STARTS.items() if data.startswith(magic)), None)


def resize(
    grey: Image.Image, size_px: int, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """Returns an image stretched to a square; `box` is the part to use where not all of it."""
    return grey.resize(
        (size_px, size_px), Image.Resampling.BILINEAR, box=box, reducing_gap=_REDUCING_GAP
    )


def _finish(
    grey: GreyImage,
    size: tuple[int, int],
    size_px: int,
    orientation: int = 1,
    box: tuple[float, float, float, float] | None = None,
) -> Picture:
    small = resize(grey.image, size_px, box)
    # Turning the small square is the same as turning the image before stretching it.
    turned = small.transpose(_TRANSPOSED[orientation]) if orientation in _TRANSPOSED else small
    width_px, height_px = size[::-1] if orientation >= 5 else size
    return Picture(replace(grey, image=turned), width_px, height_px)


def _decode_jpeg(data: bytes, size_px: int, limits: Limits, watch: Stopwatch) -> Picture:
    stream = read_jpeg(data)
    if stream is None:
        raise rejection("damaged", "The JPEG does not start with a readable header")
    limits.check_pixels(stream.width_px, stream.height_px, _JPEG_PIXEL_BYTES)
    if stream.coding != "jpeg" or stream.precision_bits != 8:
        found = _OTHER_JPEGS.get(stream.coding, f"A {stream.precision_bits}-bit JPEG")
        raise rejection("unsupported_format", found)
    if stream.num_components not in (1, 3, 4):
        raise rejection("unsupported_pixels", f"A JPEG of {stream.num_components} components")
    has_end = check_jpeg_scans(data)
    if not has_end:
        data = add_end_marker(data, decode_grey_jpeg)
    notes = () if has_end else ("no_end_marker",)
    watch.check()
    image = JpegImageFile(BytesIO(data))
    orientation = _orientation(image)
    if stream.num_components == 3 and stream.colour_model == "rgb":
        samples = decode_jpeg(data, stream)
        if is_luma_chroma(samples, is_ybr=False):
            grey = colour_to_grey(samples, 8, is_ybr=False)
            return _finish(grey.noted(*notes), image.size, size_px, orientation)
    size = image.size
    gap_px = int(size_px * _REDUCING_GAP)
    drafted = image.draft("L", (gap_px, gap_px))
    image.load()
    watch.check()
    grey = _to_grey(image)
    box = drafted[1] if drafted else None
    return _finish(grey.noted(*notes), size, size_px, orientation, box)


def _decode_png(data: bytes, size_px: int, limits: Limits, watch: Stopwatch) -> Picture:
    png = read_png(data, limits)
    image = PngImageFile(BytesIO(png.data))
    limits.check_pixels(*image.size)
    watch.check()
    orientation = _orientation(image)
    if png.bits == 16 and png.colour_type:
        grey = _grey_of_deep_png(png, image)
    else:
        image.load()
        grey = _to_grey(image)
    watch.check()
    notes = () if png.has_end else ("no_end_marker",)
    return _finish(grey.noted(*notes), image.size, size_px, orientation)


def _grey_of_deep_png(png: Png, image: PngImageFile) -> GreyImage:
    if png.colour_type == 4:
        four_bytes = np.asarray(PngImageFile(BytesIO(as_rgba_bytes(png))))
        grey_alpha = np.ascontiguousarray(four_bytes).view(">u2").astype(np.uint16)
        return _grey_of_deep(grey_alpha[..., :1], grey_alpha[..., 1])
    samples = _read_deep(image, PngImageFile(BytesIO(png.data)))
    return _grey_of_deep(samples[..., :3], samples[..., 3] if samples.shape[2] == 4 else None)


def _read_deep(image: ImageFile, again: ImageFile) -> npt.NDArray[np.uint16]:
    """Returns the samples of an image that Pillow decodes to the upper 8 of their 16 bits.

    Args:
        image: opened, not loaded, its raw modes ending in "16B", "16L" or "16N".
        again: the same file opened once more: decoded with the bytes of each sample exchanged, it
            gives the lower 8 bits.

    Returns:
        uint16 [H, W, channels].
    """
    again.tile = [
        _with_raw_mode(tile, lambda mode: mode[:-1] + _EXCHANGED[mode[-1]]) for tile in again.tile
    ]
    samples: npt.NDArray[np.uint16] = np.asarray(image).astype(np.uint16)
    samples <<= 8
    samples |= np.asarray(again)
    return samples


def _with_raw_mode(tile: Any, change: Callable[[str], str]) -> Any:
    """Returns a tile of Pillow's with its raw mode changed: how bytes become samples."""
    if isinstance(tile.args, str):
        return tile._replace(args=change(tile.args))
    return tile._replace(args=(change(tile.args[0]), *tile.args[1:]))


def _grey_of_deep(
    samples: npt.NDArray[np.uint16], opacity: npt.NDArray[np.uint16] | None
) -> GreyImage:
    """Returns 16-bit samples, uint16 [H, W, 1 or 3], with or without an opacity, as grey."""
    if samples.shape[2] == 1:
        reduced, rule = reduce_colour(samples[..., 0], 16)
        grey = GreyImage(Image.fromarray(reduced), rule)
    else:
        grey = colour_to_grey(samples, 16, is_ybr=False)
    if opacity is None:
        return grey
    eight_bits = (opacity.astype(np.uint32) * 255 // max(int(opacity.max()), 1)).astype(np.uint8)
    return _on_black(grey, Image.fromarray(eight_bits))


def _decode_tiff(data: bytes, size_px: int, limits: Limits, watch: Stopwatch) -> Picture:
    page = choose_page(data, limits)
    page.check(limits)
    if page.is_deep_white_zero:
        data = page.with_black_zero(data)
    image = _open_tiff(data, page)
    limits.check_pixels(*image.size)
    watch.check()
    if page.is_deep_colour and image.mode in ("RGB", "RGBA"):
        samples = _read_deep(image, _open_tiff(data, page))
        has_opacity = samples.shape[2] == 4 and not page.is_on_black
        grey = _grey_of_deep(samples[..., :3], samples[..., 3] if has_opacity else None)
    else:
        image.load()
        grey = _to_grey(image, is_inverted=page.is_deep_white_zero, is_on_black=page.is_on_black)
    watch.check()
    return _finish(grey, image.size, size_px)  # Pillow turned it by its orientation


def _open_tiff(data: bytes, page: TiffPage) -> TiffImageFile:
    """Returns a page opened by Pillow, its colours not divided by their opacity.

    Raises:
        ImageError: Pillow has no mode for its pixels.
    """
    try:
        image = TiffImageFile(BytesIO(data))
        image.seek(page.index)
    except Exception:
        if page.is_whole(len(data)):
            found = f"No decoder for a TIFF of {page.describe()}"
            raise rejection("unsupported_pixels", found) from None
        raise
    image.tile = [
        _with_raw_mode(tile, lambda mode: mode.replace("RGBa", "RGBA")) for tile in image.tile
    ]
    return image


def _decode_bmp(data: bytes, size_px: int, limits: Limits, watch: Stopwatch) -> Picture:
    if len(data) >= 34 and int.from_bytes(data[14:18], "little") >= 40:
        bits, compression = struct.unpack_from("<HI", data, 28)
        if bits not in _BMP_BITS or compression not in _BMP_COMPRESSIONS:
            found = f"A BMP of {bits} bits a pixel in compression {compression}"
            raise rejection("unsupported_format", found)
    return _load(BmpImageFile(BytesIO(data)), size_px, limits, watch)


def _decode_gif(data: bytes, size_px: int, limits: Limits, watch: Stopwatch) -> Picture:
    has_end = check_gif(data, limits)  # Pillow may allocate the first frame as it opens the file
    picture = _load(GifImageFile(BytesIO(data)), size_px, limits, watch)
    return picture if has_end else replace(picture, grey=picture.grey.noted("no_end_marker"))


def _load(image: ImageFile, size_px: int, limits: Limits, watch: Stopwatch) -> Picture:
    limits.check_pixels(*image.size)
    watch.check()
    orientation = _orientation(image)
    image.load()
    watch.check()
    return _finish(_to_grey(image), image.size, size_px, orientation)


def _orientation(image: ImageFile) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 where it is absent or unreadable.

    Viewers show an image whose EXIF is broken as it is stored, and so does this.
    """
    try:
        found = image.getexif().get(_ORIENTATION)
    except Exception:  # its parser raises anything
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _to_grey(
    image: ImageFile, *, is_inverted: bool = False, is_on_black: bool = False
) -> GreyImage:
    """Returns a loaded image of 8 bits, or of 16-bit grey.

    Args:
        image: of any mode of Pillow's.
        is_inverted: whether zero stands for white, where 16 bits are left to be scaled.
        is_on_black: whether its colours were multiplied by their opacity.
    """
    if image.mode.startswith("I;16"):
        reduced, rule = reduce_16_bits(np.asarray(image), is_inverted=is_inverted)
        return GreyImage(Image.fromarray(reduced), rule)
    if image.mode in ("I", "F"):
        raise rejection("unsupported_pixels", "The pixels are signed, 32-bit or floating point")
    if image.mode == "1":
        raise rejection("unsupported_pixels", "The pixels have 1 bit, either black or white")
    if image.mode == "LAB":
        raise rejection("unsupported_pixels", "The pixels are in the Lab colour space")
    if is_on_black:
        colours = image.getchannel(0) if image.mode == "La" else image.convert("RGB").convert("L")
        return GreyImage(colours, "as_stored")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return _on_black(GreyImage(rgba.convert("L"), "as_stored"), rgba.getchannel("A"))
    return GreyImage(image.convert("L"), "as_stored")


def _on_black(grey: GreyImage, opacity: Image.Image) -> GreyImage:
    """Returns an image over black; one that is nowhere opaque is taken as opaque.

    Opacity counts relative to its highest value, which some writers leave at that of another depth.
    """
    highest = int(np.asarray(opacity).max())
    if highest == 0:
        return grey.noted("opaque_alpha")
    if highest < 255:
        opacity = opacity.point(lambda level: level * 255 // highest)
    # Over black, compositing is multiplying by the opacity
    return replace(grey, image=ImageChops.multiply(grey.image, opacity))


_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # BigTIFF
    b"MM\0+": "TIFF",
    b"BM": "BMP",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
}
_DECODERS: dict[str, Callable[[bytes, int, Limits, Stopwatch], Picture]] = {
    "JPEG": _decode_jpeg,
    "PNG": _decode_png,
    "TIFF": _decode_tiff,
    "BMP": _decode_bmp,
    "GIF": _decode_gif,
}
