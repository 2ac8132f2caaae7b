"""An archive's address: where its DICOMweb service is, and which instances are meant.

`dicomweb+https://host/dicom-web?StudyDate=20260101-20260131&Modality=DX,CR`: what stands after the
`?` are attributes by which QIDO-RS finds instances. An archive passes over attributes that it does
not know, and would then give everything, so that each is checked here.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import parse_qsl, urlsplit

from orchestrator.errors import SpecError

_EXAMPLE = "dicomweb+https://host/dicom-web?StudyDate=20260101-20260131&Modality=DX"
# What an archive must match, and what most match, by PS3.18 table 10.6.1-5.
ATTRIBUTES = (
    *("StudyDate", "StudyTime", "ModalitiesInStudy", "StudyInstanceUID", "StudyID"),
    *("StudyDescription", "Modality", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription"),
    *("BodyPartExamined", "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime"),
    *("InstitutionName", "StationName", "Manufacturer", "ManufacturerModelName", "ViewPosition"),
    *("SOPClassUID", "SOPInstanceUID", "InstanceNumber"),
)
# The address is kept with the run and shown in reports.
_OF_PATIENTS = frozenset(
    {
        *("PatientID", "PatientName", "PatientBirthDate", "OtherPatientIDs", "AccessionNumber"),
        *("IssuerOfPatientID", "ReferringPhysicianName", "PatientSex", "PatientAge"),
    }
)
_DATES = re.compile(r"(\d{8})|(\d{8})-(\d{8})?|-(\d{8})")
_MOST_SEARCHES = 1000


@dataclass(frozen=True)
class Query:
    """What an address says.

    Attributes:
        service: base of the DICOMweb service, `http://...` or `https://...`.
        filters: attributes and the values that each may have.
    """

    service: str
    filters: tuple[tuple[str, tuple[str, ...]], ...]

    def searches(self) -> Iterator[dict[str, str]]:
        """Yields the filters of one search after the other: one for each choice of values."""
        for values in itertools.product(*(values for _, values in self.filters)):
            yield dict(zip((name for name, _ in self.filters), values, strict=True))


def read_query(address: str) -> Query:
    """Returns what an archive's address says.

    Raises:
        SpecError: it has another form, no filters, or filters that are not known or not well made.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
        given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        host, given = None, []
    scheme = address.partition("://")[0].lower().removeprefix("dicomweb+")
    if not host or scheme not in ("http", "https") or parts.fragment or not given:
        raise SpecError(
            f"cannot read the address {address}; expected a DICOMweb service and what to look for "
            f"in it, such as {_EXAMPLE}"
        )
    filters: dict[str, list[str]] = {}
    for name, text in given:
        _check_name(name)
        values = [value.strip() for value in text.split(",")]
        for value in values:
            _check_value(name, value)
        filters.setdefault(name, []).extend(values)
    unique = tuple((name, tuple(dict.fromkeys(values))) for name, values in filters.items())
    query = Query(f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}", unique)
    if next(itertools.islice(query.searches(), _MOST_SEARCHES, None), None) is not None:
        raise SpecError(
            f"the address asks for over {_MOST_SEARCHES:,} combinations of values; give fewer"
        )
    return query


def _check_name(name: str) -> None:
    if name in _OF_PATIENTS:
        raise SpecError(
            f"the filter {name} tells of a patient or a physician, and the address would be stored "
            "with the run; look for studies by StudyInstanceUID or StudyDate"
        )
    if name not in ATTRIBUTES:
        raise SpecError(
            f"the filter {name[:60]!r} is none that an archive is asked by; expected one of "
            f"{', '.join(ATTRIBUTES)}"
        )


def _check_value(name: str, value: str) -> None:
    if not value:
        raise SpecError(f"the filter {name} has no value; expected one, such as Modality=DX")
    found = _DATES.fullmatch(value)
    if name.endswith("Date") and not (found and all(map(_is_date, filter(None, found.groups())))):
        raise SpecError(
            f"the filter {name} is {value[:60]!r}; expected a day, 20260101, or days, "
            "20260101-20260131 or 20260101-"
        )
    if name.endswith("UID") and not re.fullmatch(r"[0-9.]{1,64}", value):
        raise SpecError(f"the filter {name} is {value[:70]!r}; expected digits and dots")


def _is_date(text: str) -> bool:
    try:
        datetime.strptime(text, "%Y%m%d")
    except ValueError:
        return False
    return True
