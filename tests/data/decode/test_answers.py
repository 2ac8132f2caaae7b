"""The form of a decoding process's answers: what goes in comes out, nothing else is believed."""

import pickle
from typing import Any

import numpy as np
import pytest

from orchestrator.data.decode.answers import MalformedAnswer, max_bytes, pack, unpack
from orchestrator.data.decode.dicom_facts import DicomFacts
from orchestrator.data.decode.images import DecodedImage
from orchestrator.data.decode.rules import DECODE_NOTES, FILE_FORMATS, GREY_RULES
from orchestrator.data.known.index import Origin
from orchestrator.data.limits import REJECTION_CODES, rejection
from orchestrator.errors import ClusterError, DataError, ImageError

SIZE_PX = 5
FACTS = DicomFacts(sop_uid="1.2.3", age_years=4.5, sex="F", device_model="XR656 (v2.1)")


def image(**fields: Any) -> DecodedImage:
    pixels = np.arange(SIZE_PX**2, dtype=np.uint8).reshape(SIZE_PX, SIZE_PX)
    given: dict[str, Any] = {
        "pixels": pixels,
        "width_px": 4300,
        "height_px": 1,
        "sha256": "0f" * 32,
        "phash": -(1 << 63),
        "grey_rule": "window",
        "decode_notes": None,
        "patient_id": None,
        "file_format": "DICOM",
    }
    return DecodedImage(**(given | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"patient_id": "hmac:" + "a7" * 16, "phash": 17},
        *({"grey_rule": rule} for rule in GREY_RULES),
        *({"decode_notes": note} for note in DECODE_NOTES),
        {"decode_notes": ",".join(DECODE_NOTES)},
        *({"file_format": name} for name in FILE_FORMATS),
        {"facts": DicomFacts()},
        {"facts": FACTS},
    ],
)
def test_an_image_comes_back_as_it_was(fields: dict[str, Any]) -> None:
    sent = image(**fields)
    raw = pack(sent)
    got = unpack(raw, SIZE_PX)
    assert isinstance(got, DecodedImage)
    assert (got.pixels == sent.pixels).all()
    assert len(raw) <= max_bytes(SIZE_PX)
    named = [name for name in vars(sent) if name != "pixels"]
    assert [getattr(got, name) for name in named] == [getattr(sent, name) for name in named]


@pytest.mark.parametrize(
    "answer", [None, Origin("night-7", 12, "ab" * 32, None), Origin("nacht-ä", -1, "cd" * 32, None)]
)
def test_other_answers_come_back_as_they_were(answer: Origin | None) -> None:
    assert unpack(pack(answer), SIZE_PX) == answer


@pytest.mark.parametrize("facts", [None, FACTS])
@pytest.mark.parametrize("code", REJECTION_CODES)
def test_a_rejection_keeps_its_code_message_and_facts(code: str, facts: DicomFacts | None) -> None:
    sent = rejection(code, "The header says 9 x 0 px")
    sent.facts = facts
    for got in (unpack(pack(sent), SIZE_PX), pickle.loads(pickle.dumps(sent))):
        assert isinstance(got, ImageError)
        assert (got.code, got.message, got.facts) == (sent.code, sent.message, facts)


@pytest.mark.parametrize("error", [ClusterError("no store – none"), DataError("x" * 9000)])
def test_an_error_of_the_package_keeps_its_class(error: ClusterError | DataError) -> None:
    got = unpack(pack(error), SIZE_PX)
    assert type(got) is type(error)
    assert str(error).startswith(str(got)[:4000])
    assert len(pack(error)) <= max_bytes(SIZE_PX)


def changed(raw: bytes, place: int, value: int) -> bytes:
    return raw[:place] + bytes([value]) + raw[place + 1 :]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        pickle.dumps(image()),
        bytes([0, 0]),
        bytes([9]),
        pack(image())[:-1],
        pack(image()) + b"x",  # no facts
        changed(pack(image()), 1, SIZE_PX + 1),
        changed(pack(image()), 9, 0),  # no height
        changed(pack(image()), 53, len(GREY_RULES)),
        changed(pack(image()), 55, 0x80),  # a note that there is not
        changed(pack(image()), 56, 2),
        changed(pack(image()), 73, len(FILE_FORMATS)),
        pack(image(facts=FACTS)) + b"\n",
        pack(image(facts=FACTS)).replace(b"\tF\t", b"\tDoe\t"),
        pack(rejection("damaged", "x")) + b"\0",
        changed(pack(rejection("damaged", "x")), 1, len(REJECTION_CODES)),
        pack(rejection("damaged", "one line\nand another")),
        pack(rejection("damaged", "\x1b]0;title\x07")),
        pack(rejection("damaged", "x")) + b"\xff",
        pack(Origin("run", 1, "ab" * 32, None))[:40],
        pack(Origin("a\nb", 1, "ab" * 32, None)),
    ],
)
def test_what_is_out_of_form_is_not_believed(raw: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        unpack(raw, SIZE_PX)


def test_any_bytes_give_an_answer_of_its_kinds_or_none() -> None:
    rng = np.random.default_rng(3)
    seeds = [pack(image(facts=FACTS)), pack(rejection("damaged", "x")), pack(ClusterError("x"))]
    seeds.append(pack(Origin("run", 1, "ab" * 32, None)))
    num_refused = 0
    for _ in range(4000):
        raw = bytearray(seeds[rng.integers(len(seeds))])
        for place in rng.integers(0, len(raw), 3):
            raw[place] = rng.integers(256)
        try:
            got = unpack(bytes(raw[: rng.integers(1, len(raw) + 1)]), SIZE_PX)
        except MalformedAnswer:
            num_refused += 1
        else:
            assert got is None or isinstance(got, DecodedImage | Origin | ImageError | Exception)
    assert num_refused > 1000
