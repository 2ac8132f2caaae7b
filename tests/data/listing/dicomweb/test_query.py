"""What an archive's address may say."""

import pytest

from orchestrator.config.addresses import refuse_secrets
from orchestrator.data.listing.addresses import check_address
from orchestrator.data.listing.dicomweb.query import read_query
from orchestrator.errors import SpecError

BASE = "dicomweb+https://pacs.example:8443/dicom-web"


def test_an_address_is_a_service_and_filters() -> None:
    query = read_query(f"{BASE}/?StudyDate=20260101-20260131&Modality=DX")
    assert query.service == "https://pacs.example:8443/dicom-web"
    assert list(query.searches()) == [{"StudyDate": "20260101-20260131", "Modality": "DX"}]
    assert read_query("dicomweb+http://[::1]/x?StudyDate=20260101-").service == "http://[::1]/x"


def test_several_values_are_a_search_each() -> None:
    query = read_query(f"{BASE}?Modality=DX,CR&StudyDate=20260101&Modality=DX")
    assert list(query.searches()) == [
        {"Modality": "DX", "StudyDate": "20260101"},
        {"Modality": "CR", "StudyDate": "20260101"},
    ]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (BASE, "expected a DICOMweb service and what to look for"),
        ("dicomweb://pacs/dicom-web?Modality=DX", r"such as dicomweb\+https://host"),
        ("dicomweb+https://?Modality=DX", "cannot read the address"),
        ("dicomweb+https://h:99999/?Modality=DX", "cannot read the address"),
        (f"{BASE}?Modality=DX#a", "cannot read the address"),
        (f"{BASE}?Modalty=DX", "'Modalty' is none that an archive is asked by; expected one of"),
        (f"{BASE}?limit=5", "'limit' is none"),
        (f"{BASE}?Modality=", "Modality has no value"),
        (f"{BASE}?Modality=DX,", "Modality has no value"),
        (f"{BASE}?PatientID=4711", "PatientID tells of a patient .* StudyInstanceUID or StudyDate"),
        (f"{BASE}?StudyDate=2026-01-01", "'2026-01-01'; expected a day, 20260101, or days"),
        (f"{BASE}?StudyDate=20260230", "'20260230'; expected a day"),
        (f"{BASE}?StudyInstanceUID=1.2.x", "'1.2.x'; expected digits and dots"),
        (f"{BASE}?SeriesNumber={','.join(map(str, range(1001)))}", "over 1,000 combinations"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_line(address: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        check_address(address, is_input=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["dicomweb+https://u:canary@pacs/dicom-web?Modality=DX", f"{BASE}?Modality=DX&token=canary",
     "dicomweb+https://u:ca/canary@pacs:8042/dicom-web?Modality=DX"],
)  # fmt: skip
def test_an_address_with_a_password_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ValueError, match=r"credentials.*DICOMWEB_PASSWORD.*netrc") as caught:
        refuse_secrets(address)
    assert "canary" not in str(caught.value)


def test_an_archive_is_no_place_for_a_run_or_a_registry() -> None:
    with pytest.raises(SpecError, match="is an archive, from which images are scored"):
        check_address(f"{BASE}?Modality=DX")
