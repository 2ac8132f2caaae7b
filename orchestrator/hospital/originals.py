"""Reads again what the original object of a scored image says of its patient and its study.

The tables of a run hold hashes of ids. So a result that is to stand beside the X-ray takes patient
and study from that X-ray alone, and no message repeats them.

Reference: DICOM PS3.3 C.7.1 to C.7.5 (modules), PS3.5 section 6.2 (value representations).
"""

import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import pydicom
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pydicom.valuerep import validate_value

from orchestrator.data.file_decoder import FileDecoder
from orchestrator.data.limits import Limits
from orchestrator.data.roots import STORAGE_CODES, Roots
from orchestrator.errors import ImageError

PATIENT = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")
STUDY = (
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyDescription",
)
_OPTIONAL = ("IssuerOfPatientID", "StudyDescription")
REQUIRED = tuple(name for name in (*PATIENT, *STUDY) if name not in _OPTIONAL)  # may be empty
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_SEXES = ("M", "F", "O")
_NAMESPACE = uuid.UUID("7a6c3a86-6f60-5c0b-9a53-2f1f4a4d7c11")  # of the UIDs made here


@dataclass(frozen=True)
class Original:
    """Which object was scored, and of whom it is.

    Attributes:
        study_uid: Study Instance UID.
        series_uid: Series Instance UID.
        sop_uid: SOP Instance UID.
        sop_class: SOP Class UID.
        identity: the elements of `PATIENT` and `STUDY` by keyword, each valid, or empty where the
            object holds nothing that is.
    """

    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str
    identity: Mapping[str, str]

    @property
    def patient(self) -> tuple[str, ...]:
        """What tells this patient from another one."""
        return tuple(self.identity[keyword] for keyword in PATIENT)

    def identify(self, result: Dataset) -> None:
        """Makes a result one of this patient and study."""
        for keyword, text in self.identity.items():
            if text or keyword in REQUIRED:
                setattr(result, keyword, text or None)
        if not "".join(self.identity.values()).isascii():
            result.SpecificCharacterSet = "ISO_IR 192"


class Originals:
    """Reads the files of a run again.

    Args:
        roots: input roots of the run's manifest.
        listed_ns: when they were listed, ns since the epoch, where that is recorded.
        limits: on one file.
    """

    def __init__(self, roots: Sequence[bytes], listed_ns: int | None, limits: Limits) -> None:
        self._roots = Roots(roots, listed_ns)
        self._reader = FileDecoder(tuple(roots), 1, limits, None)

    def read(self, root: int, path: bytes) -> bytes | None:
        """Returns the content of a file, None where it is gone or cannot be read.

        Args:
            root: number of its root.
            path: relative to the root.

        Raises:
            ClusterError: it is the storage that is gone, or does not answer.
        """
        try:
            found = self._reader.fetch((root, path))
            return found if isinstance(found, bytes) else self._reader.read(found)
        except ImageError as error:
            if error.code in STORAGE_CODES:
                self._roots.check(root, path)
            return None


def read_original(data: bytes) -> Original | None:
    """Returns what a DICOM object says of itself; None where no result can be made from it.

    That is so where a UID or the patient's id is wrong: a result under another one could be filed
    with another patient's images.

    Args:
        data: the whole DICOM file.
    """
    # What the library warns of, and logs, quotes values.
    with config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read = pydicom.dcmread(
                BytesIO(data),
                stop_before_pixels=True,
                force=True,
                specific_tags=[*_UIDS, *PATIENT, *STUDY, "SpecificCharacterSet"],
            )
            found = {keyword: _text(read, keyword) for keyword in (*_UIDS, *PATIENT, *STUDY)}
        except Exception:  # a damaged header makes the library fail in any way, quoting it
            return None
    uids = {keyword: found.pop(keyword) for keyword in _UIDS}
    if not all(text and UID(text).is_valid for text in uids.values()):
        return None
    if found["PatientID"] is None:
        return None
    if found["PatientSex"] not in _SEXES:
        found["PatientSex"] = ""
    identity = {keyword: text or "" for keyword, text in found.items()}
    return Original(
        uids["StudyInstanceUID"] or "",
        uids["SeriesInstanceUID"] or "",
        uids["SOPInstanceUID"] or "",
        uids["SOPClassUID"] or "",
        identity,
    )


def derive_uid(*parts: str) -> str:
    """Returns a UID that is the same whenever it is made from the same parts.

    Args:
        parts: without line ends.

    Reference:
        RFC 9562 (version 5); DICOM PS3.5 B.2 (UIDs made from UUIDs).
    """
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(10).join(parts)).int}"


def _text(read: Dataset, keyword: str) -> str | None:
    """An element as text, "" where it is absent, None where it is not valid."""
    element = read.get(keyword)
    if element is None:
        return ""
    text = str(element).strip(" \0")
    try:
        validate_value(read[keyword].VR, text, config.RAISE)
    except ValueError:
        return None
    is_whole = read[keyword].VM <= 1 and "\ufffd" not in text and text.isprintable()
    return text if is_whole else None
