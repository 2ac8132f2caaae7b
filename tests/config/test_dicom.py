"""The columns that a user may ask for of DICOM headers."""

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from orchestrator.config.dicom import DicomColumn, DicomForm
from orchestrator.data.decode.dicom_facts import FACT_NAMES


def test_columns_are_the_facts_of_a_header() -> None:
    assert get_args(DicomColumn) == FACT_NAMES


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({}, ()),
        ({"dicom_columns": True}, FACT_NAMES),
        ({"dicom_columns": "true"}, FACT_NAMES),
        ({"dicom_columns": ["sex", "age_years"]}, ("age_years", "sex")),
    ],
)
def test_what_is_kept(asked: dict[str, Any], kept: tuple[str, ...]) -> None:
    assert DicomForm(**asked).kept_columns == kept


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"dicom_columns": ["patient_name"]}, "study_uid"),
        ({"dicom_columns": []}, "at least 1"),
        ({"keep_uids": True}, "give --dicom-columns"),
        ({"keep_uids": True, "dicom_columns": ["sex"]}, "name study_uid"),
    ],
)
def test_what_cannot_be_asked_for(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DicomForm(**asked)
