"""What is kept of a DICOM header: as pydicom reads it, and nothing that may name a person."""

import dataclasses
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes

from orchestrator.data.decode.dicom_facts import (
    FACT_NAMES,
    MAX_PACKED,
    DicomFacts,
    read_facts,
    unpack_facts,
)
from orchestrator.data.decode.dicom_header import read_header
from orchestrator.data.decode.images import decode
from orchestrator.data.limits import Limits, Stopwatch
from orchestrator.data.pseudonym import keyed_hash
from orchestrator.errors import ImageError
from tests.data.make_images import make_chest, make_dataset, to_bytes, write_picture

KEY = b"0123456789abcdef"
KEYWORDS = {
    "study_uid": "StudyInstanceUID",
    "series_uid": "SeriesInstanceUID",
    "sop_uid": "SOPInstanceUID",
    "sex": "PatientSex",
    "view_position": "ViewPosition",
    "modality": "Modality",
    "photometric_interpretation": "PhotometricInterpretation",
    "presentation_intent": "PresentationIntentType",
    "body_part": "BodyPartExamined",
    "manufacturer": "Manufacturer",
    "device_model": "ManufacturerModelName",
    "burned_in_annotation": "BurnedInAnnotation",
}
FULL = {
    "StudyInstanceUID": "1.2.840.99.1",
    "SeriesInstanceUID": "1.2.840.99.2",
    "SOPInstanceUID": "1.2.840.99.20240131",
    "PatientName": "Doe^Jane",
    "PatientID": "MRN-4711",
    "PatientBirthDate": "19800203",
    "StudyDate": "20240131",
    "PatientAge": "043Y",
    "PatientSex": "F",
    "ViewPosition": "PA",
    "Modality": "DX",
    "PresentationIntentType": "FOR PRESENTATION",
    "BodyPartExamined": "CHEST",
    "Manufacturer": "GE Healthcare",
    "ManufacturerModelName": "Discovery XR656 (v2.1)",
    "BurnedInAnnotation": "NO",
}


def written(**elements: Any) -> bytes:
    ds = make_dataset(make_chest(), 8)
    for keyword, value in elements.items():
        if value is None:
            if keyword in ds:
                delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return to_bytes(ds)


def facts_of(elements: dict[str, Any], key: bytes | None = KEY, **kept: bool) -> DicomFacts:
    header = read_header(written(**elements), Limits(), Stopwatch(9))
    return read_facts(header, key, **kept)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_facts_are_those_that_pydicom_reads(syntax: str) -> None:
    data = written(**FULL)
    ds = pydicom.dcmread(BytesIO(data))
    ds.file_meta.TransferSyntaxUID = syntax
    raw = BytesIO()
    ds.save_as(raw, implicit_vr=syntax.endswith(".1.2"), little_endian=True)
    facts = decode(raw.getvalue(), 32, Limits(), KEY, keep_uids=True).facts
    assert facts is not None
    assert set(KEYWORDS) | {"age_years"} == set(FACT_NAMES)
    for name, keyword in KEYWORDS.items():
        assert getattr(facts, name) == str(ds[keyword].value), name
    assert facts.age_years == float(ds.PatientAge[:3])
    hashed = decode(raw.getvalue(), 32, Limits(), KEY).facts
    assert hashed is not None
    for name in ("study_uid", "series_uid", "sop_uid"):
        assert getattr(hashed, name) == keyed_hash(KEY, getattr(facts, name))
    assert facts_of(FULL, None).study_uid is None


def test_a_picture_has_no_facts_and_a_bare_header_few() -> None:
    png = decode(write_picture(make_chest(), "png"), 32, Limits(), KEY)
    assert (png.facts, png.file_format) == (None, "PNG")
    bare = facts_of({"SOPInstanceUID": None, "Modality": ""})
    assert bare == DicomFacts(photometric_interpretation="MONOCHROME2")


@pytest.mark.parametrize(
    ("elements", "years"),
    [
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "026W"}, 26 * 7 / 365.25),
        ({"PatientAge": "004D"}, 4 / 365.25),
        ({"PatientAge": "000Y"}, 0.0),
        ({"PatientAge": "51"}, 51.0),
        ({"PatientAge": "097Y"}, 90.0),
        ({"PatientAge": "155Y"}, None),
        ({"PatientAge": "Y12"}, None),
        # stated goes before computed
        ({"PatientAge": "007Y", "PatientBirthDate": "19800203", "StudyDate": "20240131"}, 7.0),
        ({"PatientBirthDate": "19800203", "StudyDate": "20240131"}, 43.0),
        ({"PatientBirthDate": "19800131", "StudyDate": "2024.01.31"}, 44.0),
        ({"PatientBirthDate": "20230415", "StudyDate": "20240414"}, 11 / 12),
        ({"PatientBirthDate": "20250415", "StudyDate": "20240414"}, None),
        ({"PatientBirthDate": "20231341", "StudyDate": "20240414"}, None),
        ({"PatientBirthDate": "19800203"}, None),
    ],
)
def test_ages(elements: dict[str, str], years: float | None) -> None:
    with pydicom.config.disable_value_validation():
        assert facts_of(elements).age_years == pytest.approx(years)


def test_a_view_is_told_by_its_code_where_there_is_no_word() -> None:
    def with_code(code: str, scheme: str, **elements: Any) -> str | None:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, scheme, "Doe^Jane"
        return facts_of({"ViewCodeSequence": Sequence([item])} | elements).view_position

    expected = {"AnteroPosterior": "AP", "PosteroAnterior": "PA", "LeftLateral": "LL"}
    expected |= {"RightLateral": "RL", "LateralProjection": "LATERAL", "Frontal": "FRONTAL"}
    for name, view in expected.items():
        assert with_code(getattr(codes.cid4010, name).value, "SCT") == view
    assert with_code("R-10206", "SRT") == "AP"
    assert with_code("77", "99X") == "OTHER"
    assert with_code("399348003", "SCT", ViewPosition="PA") == "PA"


@pytest.mark.parametrize(
    ("elements", "name", "kept"),
    [
        ({"Modality": "DOE"}, "modality", "OTHER"),
        ({"BodyPartExamined": "DOE JANE"}, "body_part", "OTHER"),
        ({"PatientSex": "f"}, "sex", "F"),
        ({"Manufacturer": "Doe Imaging"}, "manufacturer", None),
        ({"ManufacturerModelName": "for janes chest"}, "device_model", None),
        ({"ManufacturerModelName": "MRN 4711"}, "device_model", None),
        ({"ManufacturerModelName": "DR 20240131"}, "device_model", None),
        ({"ManufacturerModelName": "DR 31.01.24"}, "device_model", None),
        ({"ManufacturerModelName": "<b>DR</b>"}, "device_model", None),
        ({"ManufacturerModelName": "DR\u00e4"}, "device_model", None),
        ({"ManufacturerModelName": "DX-D  600"}, "device_model", "DX-D 600"),
        ({"SOPInstanceUID": "1.2.x"}, "sop_uid", None),
    ],
)
def test_what_may_name_a_person_is_not_kept(
    elements: dict[str, str], name: str, kept: str | None
) -> None:
    with pydicom.config.disable_value_validation():
        facts = facts_of(FULL | {"SpecificCharacterSet": "ISO_IR 100"} | elements)
    assert getattr(facts, name) == kept


def test_a_rejected_file_keeps_the_facts_of_its_header() -> None:
    with pytest.raises(ImageError) as caught:
        decode(written(**FULL, BitsAllocated=32), 32, Limits(), KEY)
    assert caught.value.facts == facts_of(FULL)
    data = written(**FULL)
    with pytest.raises(ImageError) as caught:
        decode(data[: len(data) // 2], 32, Limits(), KEY)
    assert caught.value.facts is None


def test_facts_come_back_from_bytes_and_others_are_refused() -> None:
    for facts in (facts_of(FULL), facts_of(FULL, keep_uids=True), DicomFacts()):
        assert unpack_facts(facts.pack()) == facts
        assert len(facts.pack()) <= MAX_PACKED
    for change in (
        {"sex": "X"},
        {"manufacturer": "Canon 20240131"},
        {"study_uid": "hmac:zz"},
        {"age_years": 91.0},
        {"age_years": np.nan},
    ):
        with pytest.raises(ValueError, match="out of its form"):
            dataclasses.replace(DicomFacts(), **change)
    for raw in (b"", b"\t" * 11, b"\t" * 13, b"a" + b"\t" * 12, b"\xff" + b"\t" * 12):
        with pytest.raises(ValueError):
            unpack_facts(raw)
