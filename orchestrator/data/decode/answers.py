"""The form in which a decoding process answers: numbers at fixed places and raw bytes.

A file that took over a decoder written in C could have it answer anything, beside the worker's
secrets. So nothing of an answer is unpickled, and everything in it is checked before it is used:
words are numbers of fixed lists, free text is short, printable and only shown.
"""

import struct

import numpy as np

from orchestrator.data.decode.dicom_facts import MAX_PACKED, DicomFacts, unpack_facts
from orchestrator.data.decode.images import DecodedImage
from orchestrator.data.decode.rules import DECODE_NOTES, FILE_FORMATS, GREY_RULES
from orchestrator.data.known.index import Origin
from orchestrator.data.limits import REJECTION_CODES, rejection
from orchestrator.data.pseudonym import HASHED
from orchestrator.errors import (
    BundleError,
    ClusterError,
    DataError,
    ImageError,
    OrchestratorError,
    SpecError,
)

Answer = DecodedImage | Origin | ImageError | OrchestratorError | None

_READY, _IMAGE, _ORIGIN, _REJECTION, _ERROR = range(5)
_RULES, _NOTES, _CODES = tuple(GREY_RULES), tuple(DECODE_NOTES), tuple(REJECTION_CODES)
_ERRORS = (SpecError, DataError, BundleError, ClusterError)
# Kind, size, width, height, perceptual hash, SHA-256, rule, notes as bits, whether a patient's
# hash, that, format; pixels follow, and facts where there are any
_IMAGE_HEAD = struct.Struct("<BIIIq32sBHB16sB")
_ORIGIN_HEAD = struct.Struct("<Bq32s")  # kind, row of the earlier run, SHA-256; its name follows
# Kind, number of the code or of the class; text follows, and after `_END` facts where there are any
_TEXT_HEAD = struct.Struct("<BB")
_END = b"\0"
_MAX_TEXT = 4000


class MalformedAnswer(Exception):
    """An answer that no decoding process of this program gives."""


def pack(answer: Answer) -> bytes:
    """Returns an answer as bytes.

    Args:
        answer: an image, where an earlier run scored the same bytes, an error, or None for ready.
    """
    if answer is None:
        return bytes([_READY])
    if isinstance(answer, DecodedImage):
        notes = (answer.decode_notes or "").split(",")
        head = _IMAGE_HEAD.pack(
            _IMAGE,
            len(answer.pixels),
            answer.width_px,
            answer.height_px,
            answer.phash,
            bytes.fromhex(answer.sha256),
            _RULES.index(answer.grey_rule),
            sum(1 << place for place, note in enumerate(_NOTES) if note in notes),
            answer.patient_id is not None,
            bytes.fromhex((answer.patient_id or "").removeprefix(HASHED)),
            FILE_FORMATS.index(answer.file_format),
        )
        return head + answer.pixels.tobytes() + (answer.facts.pack() if answer.facts else b"")
    if isinstance(answer, Origin):
        sha256 = bytes.fromhex(answer.sha256 or "")
        return _ORIGIN_HEAD.pack(_ORIGIN, answer.row, sha256) + answer.run.encode()
    if isinstance(answer, ImageError):
        found = answer.message.removesuffix(f". {REJECTION_CODES[answer.code]}")
        head = _TEXT_HEAD.pack(_REJECTION, _CODES.index(answer.code))
        facts = answer.facts.pack() if isinstance(answer.facts, DicomFacts) else b""
        return head + _shortened(found) + (_END + facts if facts else b"")
    place = next(place for place, kind in enumerate(_ERRORS) if isinstance(answer, kind))
    return _TEXT_HEAD.pack(_ERROR, place) + _shortened(str(answer))


def unpack(raw: bytes, size_px: int) -> Answer:
    """Returns an answer from its bytes.

    Args:
        raw: whatever a decoding process sent.
        size_px: height and width that an image must have, px.

    Raises:
        MalformedAnswer: it is none of those that `pack` gives.
    """
    try:
        return _unpack(raw, size_px)
    except (struct.error, ValueError, IndexError) as error:
        raise MalformedAnswer from error


def max_bytes(size_px: int) -> int:
    """Returns the length of the longest answer, bytes."""
    return _IMAGE_HEAD.size + max(size_px * size_px, _MAX_TEXT) + MAX_PACKED


def _unpack(raw: bytes, size_px: int) -> Answer:
    kind = raw[0]
    if kind == _READY and len(raw) == 1:
        return None
    if kind == _IMAGE:
        return _unpack_image(raw, size_px)
    if kind == _ORIGIN:
        _, row, sha256 = _ORIGIN_HEAD.unpack_from(raw)
        return Origin(_text(raw[_ORIGIN_HEAD.size :]), row, sha256.hex(), None)
    _, place = _TEXT_HEAD.unpack_from(raw)
    if kind == _REJECTION:
        found, end, facts = raw[_TEXT_HEAD.size :].partition(_END)
        rejected = rejection(_CODES[place], _text(found))
        rejected.facts = unpack_facts(facts) if end else None
        return rejected
    if kind == _ERROR:
        return _ERRORS[place](_text(raw[_TEXT_HEAD.size :]))
    raise ValueError("no such kind of answer")


def _unpack_image(raw: bytes, size_px: int) -> DecodedImage:
    _, size, width_px, height_px, phash, sha256, rule, notes, has_patient, patient, file_format = (
        _IMAGE_HEAD.unpack_from(raw)
    )
    pixels = np.frombuffer(raw, np.uint8, size_px * size_px, _IMAGE_HEAD.size)
    facts = raw[_IMAGE_HEAD.size + size_px * size_px :]
    if size != size_px or not width_px or not height_px or notes >> len(_NOTES) or has_patient > 1:
        raise ValueError("a number out of its range")
    named = [note for place, note in enumerate(_NOTES) if notes >> place & 1]
    return DecodedImage(
        pixels=pixels.reshape(size, size),
        width_px=width_px,
        height_px=height_px,
        sha256=sha256.hex(),
        phash=phash,
        grey_rule=_RULES[rule],
        decode_notes=",".join(named) or None,
        patient_id=HASHED + patient.hex() if has_patient else None,
        file_format=FILE_FORMATS[file_format],
        facts=unpack_facts(facts) if facts else None,
    )


def _shortened(text: str) -> bytes:
    return text.encode()[:_MAX_TEXT].decode(errors="ignore").encode()


def _text(raw: bytes) -> str:
    """Returns a text that may be shown.

    Raises:
        ValueError: it is too long, no UTF-8 or not printable.
    """
    text = raw.decode()
    if len(raw) > _MAX_TEXT or not text.isprintable():
        raise ValueError("a text that must not be shown")
    return text
