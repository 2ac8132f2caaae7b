"""What one image file may cost, and the public list of reasons to reject one.

The limits are checked on headers, before any pixel is decoded. Nothing here reads a file.
"""

import time
from dataclasses import dataclass

from orchestrator.errors import ImageError

# Every code a rejected row can carry, with what to do about it. The codes are stable: reports,
# scripts and dashboards may count by them.
REJECTION_CODES: dict[str, str] = {
    # the listing and the opening of a file
    "not_a_file": "Only regular files are read; remove it from the folder or ignore this row.",
    "link_outside_root": "Links that leave the input folder are not followed; copy the file in.",
    "link_loop": "The link leads back to itself; remove or repair it.",
    "unlistable_folder": "Give the user who runs the job permission to list this folder.",
    "unreadable": "Check the file's permissions and the disk, then run again.",
    "missing_file": "It was removed or renamed after the listing, or the path is wrong; run again.",
    "empty_file": "Copy it again from its source.",
    "too_large": "If it is a genuine X-ray, raise the limit on bytes.",
    # the content
    "not_an_image": "Expected JPEG, PNG, TIFF, BMP, GIF or DICOM content; convert or remove it.",
    "unsupported_format": "Convert it to JPEG, PNG, TIFF or uncompressed DICOM and run again.",
    "too_small": "It is too small to show a chest; export the X-ray at its full size.",
    "no_contrast": "There is nothing to see in it; export the X-ray again or remove it.",
    "damaged": "The file is cut short or corrupt; copy it again from its source.",
    "too_many_pixels": "If it is a genuine X-ray, raise the limit on pixels.",
    "too_many_frames": "Export the X-ray as a single image, or raise the limit on frames.",
    "too_slow": "If it is a genuine X-ray, raise the limit on seconds.",
    "decoder_crashed": "Keep it away from other readers; export the image again from its source.",
    "decoder_hung": "Keep it away from other readers; export the image again from its source.",
    "too_many_parts": "No X-ray needs so many; export the image again from its source.",
    "out_of_memory": "If it is a genuine X-ray, raise the limit on memory.",
    "unsupported_pixels": "Export it with 8- or 16-bit unsigned grey or colour pixels.",
    # DICOM
    "dicom_directory": "This is the index of a disc, not an image; score the files it lists.",
    "dicom_not_an_image": "Only images can be scored; remove it or ignore this row.",
    "dicom_syntax": "Convert it to Explicit VR Little Endian (uncompressed) and run again.",
    "dicom_header": "The header is incomplete or wrong; export the image again.",
}


_PIXEL_BYTES = 30  # more than any format was measured to take
# Tiles, strips, precincts, chunks or fragments of one image; each costs memory however few pixels
# it has. Real files have thousands at most.
MAX_PARTS = 1 << 18


def check_parts(num_parts: int, what: str) -> None:
    """Raises `ImageError` where an image is cut into more parts than memory allows.

    Args:
        num_parts: how many.
        what: their name, in the plural.
    """
    if num_parts > MAX_PARTS:
        raise rejection("too_many_parts", f"{num_parts} {what}, over the limit of {MAX_PARTS}")


@dataclass(frozen=True)
class Limits:
    """What one file may cost before it is rejected; the defaults pass any chest radiograph.

    The largest detectors give about 4300 x 4300 px of 16 bits (37 MB). Beside the file, decoding
    was measured to take up to 26 bytes per pixel (16-bit RGBA in PNG; JPEG takes 2, 16-bit DICOM 5
    to 15): at `max_pixels` 1.3 GB at worst for each image decoded at a time.

    Attributes:
        max_bytes: size of the file, and of a deflated DICOM data set once inflated.
        max_pixels: width x height of one frame.
        max_frames: frames or pages in one file; only the first is decoded, so the rest is cost
            without use, and a file with many is a cine loop or a volume, not a radiograph.
        max_seconds: processor time of the decoding thread. It is compared between the steps
            (header, pixels, grey, resize): a step runs in C and cannot be interrupted from inside
            the process, so `decoders` runs it in one that can be ended.
        max_memory: most memory that decoding may take in its process, beside the program's own,
            bytes. Held against what a header's pixels need, and by the system where it is Linux.
    """

    max_bytes: int = 256 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_frames: int = 64
    max_seconds: float = 30.0
    max_memory: int = 2 * 1024**3

    def check_bytes(self, num_bytes: int) -> None:
        """Raises `ImageError` where a size in bytes is over the limit."""
        if num_bytes > self.max_bytes:
            raise rejection("too_large", f"{num_bytes} bytes, over the limit of {self.max_bytes}")

    def check_pixels(self, width_px: int, height_px: int, pixel_bytes: int = _PIXEL_BYTES) -> None:
        """Raises `ImageError` where a header's width and height are over the limits, or zero.

        Args:
            width_px: width, px.
            height_px: height, px.
            pixel_bytes: what decoding takes for each pixel, bytes.
        """
        if width_px < 1 or height_px < 1:
            raise rejection("damaged", f"The header says {width_px} x {height_px} px")
        if width_px * height_px > self.max_pixels:
            found = f"The header says {width_px} x {height_px} px, over {self.max_pixels} pixels"
            raise rejection("too_many_pixels", found)
        needed = width_px * height_px * pixel_bytes
        if needed > self.max_memory:
            found = f"{width_px} x {height_px} px may take {needed} bytes, over {self.max_memory}"
            raise rejection("out_of_memory", found)

    def check_frames(self, num_frames: int) -> None:
        """Raises `ImageError` where a number of frames is over the limit."""
        if num_frames > self.max_frames:
            found = f"More than {self.max_frames} frames or pages in one file"
            raise rejection("too_many_frames", found)


class Stopwatch:
    """Processor time of the calling thread since construction, held against a limit.

    Processor time, not wall time: a good image must not be rejected because the machine is busy.
    Use it in the thread that made it.

    Args:
        max_seconds: the limit, s.
    """

    def __init__(self, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self._started_s = time.thread_time()

    def check(self) -> None:
        """Raises `ImageError` where the limit is passed."""
        if time.thread_time() - self._started_s > self._max_seconds:
            raise rejection("too_slow", f"Decoding took over {self._max_seconds:g} s")


def rejection(code: str, found: str) -> ImageError:
    """Returns the error for one bad file: what was found, then what to do about it.

    Args:
        code: a key of `REJECTION_CODES`.
        found: what was found, without a full stop. Never text from inside the file, nor the text
            of a library's exception: both may hold patient data.

    Returns:
        The error, to be raised by the caller.
    """
    return ImageError(code, f"{found}. {REJECTION_CODES[code]}")
