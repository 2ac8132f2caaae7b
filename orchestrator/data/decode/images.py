"""Decodes an image file into the pixels that every model sees: uint8 [size, size] grey.

One function, `decode`, serves training and scoring alike: JPEG, PNG, TIFF, BMP, GIF and DICOM,
told apart by content. Rules that are not obvious from a format:

- Of several frames or pages the first is decoded (`Limits.max_frames` bounds how many there are);
  of a TIFF the first that is not marked as a reduced copy.
- Colour becomes grey by ITU-R 601 luma; transparent parts become black; EXIF orientation applies;
  colour profiles are ignored.
- Values of more than 8 bits are scaled by the range that is plausible for them (`value_range`).
- The image is stretched to a square with an antialiased bilinear filter.
- A file that is cut short or fails a checksum is rejected, never shown in part; one that lacks its
  end marker alone is decoded, with a note.
- What is too small or has too little contrast to be an X-ray is rejected.

Every failure is an `ImageError` that repeats no text of the file. Opening files is in `files`,
DICOM in `dicom`, all other formats in `pictures`, the words for rules and notes in `rules`, limits
and codes in `limits`; what callers need is re-exported here.
"""

import hashlib
from bisect import bisect_left
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from orchestrator.data.decode.dicom_facts import DicomFacts, hash_patient, read_facts
from orchestrator.data.decode.dicom_header import is_dicom, read_header
from orchestrator.data.decode.files import read_file
from orchestrator.data.decode.perceptual import perceptual_hash
from orchestrator.data.decode.pictures import Picture, decode_picture, find_format, resize
from orchestrator.data.decode.rules import DECODE_NOTES
from orchestrator.data.limits import REJECTION_CODES, Limits, Stopwatch, rejection
from orchestrator.errors import ImageError

__all__ = ["DECODER_VERSION", "REJECTION_CODES", "DecodedImage", "Limits", "decode", "read_file"]

# Raised whenever the pixels that any file gives change: older predictions are then computed again.
DECODER_VERSION = 3

_MIN_SIDE_PX = 16  # the smallest public data set of chest X-rays has 28 px
# Ends of the bulk of the pixels, and the grey levels that must lie between them.
_BULK, _MIN_LEVELS = (0.01, 0.99), 16


@dataclass(frozen=True)
class DecodedImage:
    """One image as the models see it, and what else is kept of its file.

    Attributes:
        pixels: uint8 [size_px, size_px], grey, C-contiguous.
        width_px: width of the source as displayed (after EXIF rotation), px.
        height_px: height of the source as displayed, px.
        sha256: hash of the file's bytes, hexadecimal.
        phash: 64-bit perceptual hash of `pixels` (`perceptual.py`), as a signed integer.
        grey_rule: how its numbers were spread from black to white, a key of `rules.GREY_RULES`.
        decode_notes: what was odd about the file, keys of `rules.DECODE_NOTES` joined by commas;
            None where nothing was.
        patient_id: "hmac:" and 32 hexadecimal digits for DICOM with a patient id when a key was
            given; otherwise None.
        file_format: one of `rules.FILE_FORMATS`.
        facts: what the DICOM header says; None for other formats.
    """

    pixels: npt.NDArray[np.uint8]
    width_px: int
    height_px: int
    sha256: str
    phash: int
    grey_rule: str
    decode_notes: str | None
    patient_id: str | None
    file_format: str
    facts: DicomFacts | None = None


def decode(
    data: bytes,
    size_px: int,
    limits: Limits,
    patient_key: bytes | None = None,
    *,
    keep_uids: bool = False,
) -> DecodedImage:
    """Returns the first frame of an image file as square 8-bit grey.

    The result depends on the bytes and the size alone. Safe to call from many threads.

    Args:
        data: the whole file.
        size_px: height and width of the result, px.
        limits: checked on headers before pixels are decoded.
        patient_key: key of the hashes of DICOM files; see `DecodedImage.patient_id`.
        keep_uids: keep the UIDs of DICOM files as they are.

    Returns:
        The decoded image.

    Raises:
        ImageError: the only exception that leaves, with a code of `REJECTION_CODES`, and the facts
            of a DICOM file whose header could be read; it carries no other exception as cause or
            context.
    """
    facts = None
    try:
        watch = Stopwatch(limits.max_seconds)
        if not data:
            raise rejection("empty_file", "The file holds no bytes")
        limits.check_bytes(len(data))
        if not is_dicom(data):
            picture = decode_picture(data, size_px, limits, watch)
            return _finish(data, picture, str(find_format(data)), watch)
        header = read_header(data, limits, watch)
        facts = read_facts(header, patient_key, keep_uids=keep_uids)
        # Imported at the first DICOM file: pydicom costs a quarter of a second.
        from orchestrator.data.decode.dicom import decode_dicom

        grey = decode_dicom(header, limits, watch)
        picture = Picture(replace(grey, image=resize(grey.image, size_px)), *grey.image.size)
        image = _finish(data, picture, "DICOM", watch)
        patient_id = hash_patient(header, patient_key) if patient_key else None
        return replace(image, facts=facts, patient_id=patient_id)
    except ImageError as caught:
        error = ImageError(caught.code, caught.message)
    except MemoryError:
        error = rejection("out_of_memory", "There was not enough memory to decode it")
    except Exception:
        # Decoders raise anything on damaged input, with text that may come from the file.
        error = rejection("damaged", "The image cannot be decoded")
    error.facts = facts
    # Raised here, outside the handlers, so that no library's exception hangs on it as context.
    raise error


def _finish(data: bytes, picture: Picture, file_format: str, watch: Stopwatch) -> DecodedImage:
    """Returns a decoded picture of a file as the models see it."""
    watch.check()
    pixels = np.ascontiguousarray(np.asarray(picture.grey.image, np.uint8))
    _check_content(picture)
    return DecodedImage(
        pixels,
        picture.width_px,
        picture.height_px,
        hashlib.sha256(data).hexdigest(),
        perceptual_hash(pixels),
        picture.grey.rule,
        ",".join(note for note in DECODE_NOTES if note in picture.grey.notes) or None,
        None,
        file_format,
    )


def _check_content(picture: Picture) -> None:
    """Raises `ImageError` where an image cannot be a radiograph, whatever it shows."""
    if min(picture.width_px, picture.height_px) < _MIN_SIDE_PX:
        found = f"{picture.width_px} x {picture.height_px} px, under {_MIN_SIDE_PX} px a side"
        raise rejection("too_small", found)
    reached = list(accumulate(picture.grey.image.histogram()))
    darkest, brightest = (bisect_left(reached, share * reached[-1]) for share in _BULK)
    if brightest - darkest < _MIN_LEVELS:
        found = f"98 % of the pixels lie within {brightest - darkest + 1} of 256 grey levels"
        raise rejection("no_contrast", found)
