"""What the header of a DICOM file says of its image, besides the pixels: `DicomFacts`.

A header is full of names, numbers and dates of a person, and any text of it may hold them where it
should not. So each fact is a number, a word of a fixed list, a UID (hashed unless it is asked for
as it is), or the name of a device, which is dropped where it might say more than that. Name, id and
dates of the patient are read to make the facts, and never kept.

Reference: DICOM PS3.3 C.7.1 to C.8.11 (attributes), PS3.15 annex E (de-identification), PS3.16
CID 4010 (views) and annex L (body parts).
"""

import re
from dataclasses import dataclass, fields
from datetime import date

from orchestrator.data.decode import dicom_header as tags
from orchestrator.data.decode.dicom_header import Header
from orchestrator.data.pseudonym import keyed_hash

OTHER = "OTHER"  # in place of a word that is none of the list
# Older patients are so few that their age tells who they are (HIPAA, 45 CFR 164.514): it is 90.
MAX_AGE_YEARS = 90.0
_OLDEST_YEARS = 125  # ages beyond are mistakes

_LISTED = {
    "sex": "M,F,O",
    "view_position": "AP,PA,LL,RL,LLD,RLD,LLO,RLO,LAO,RAO,LPO,RPO,LATERAL,FRONTAL,OBLIQUE",
    # DR is not of the standard, and is written for DX
    "modality": "BMD,CR,CT,DG,DR,DX,ES,GM,IO,IVUS,MG,MR,NM,OCT,OP,OT,PT,PX,RF,RG,RTIMAGE,SC,SM,TG,"
    "US,XA,XC",
    "photometric_interpretation": "MONOCHROME1,MONOCHROME2,PALETTE COLOR,RGB,YBR_FULL,YBR_FULL_422,"
    "YBR_PARTIAL_420,YBR_ICT,YBR_RCT",
    "presentation_intent": "FOR PRESENTATION,FOR PROCESSING",
    "body_part": "ABDOMEN,ABDOMENPELVIS,ANKLE,ARM,BRAIN,BREAST,CHEST,CHESTABDOMEN,CHESTABDPELVIS,"
    "CLAVICLE,CSPINE,ELBOW,EXTREMITY,FEMUR,FINGER,FOOT,FOREARM,HAND,HEAD,HEADNECK,HEART,HIP,"
    "HUMERUS,JAW,KNEE,LEG,LSPINE,LUNG,NECK,NECKCHEST,PELVIS,RIB,SCAPULA,SHOULDER,SKULL,SPINE,"
    "SSPINE,STERNUM,THORAX,TLSPINE,TOE,TRUNK,TSPINE,UPPERARM,WHOLEBODY,WRIST",
    "burned_in_annotation": "YES,NO",
}
_WORDS = {name: frozenset(words.split(",")) for name, words in _LISTED.items()}
_WORD_TAGS = {
    "sex": tags.PATIENT_SEX,
    "view_position": tags.VIEW_POSITION,
    "modality": tags.MODALITY,
    "photometric_interpretation": tags.PHOTOMETRIC_INTERPRETATION,
    "presentation_intent": tags.PRESENTATION_INTENT,
    "body_part": tags.BODY_PART,
    "burned_in_annotation": tags.BURNED_IN_ANNOTATION,
}
_UID_TAGS = {
    "study_uid": tags.STUDY_UID,
    "series_uid": tags.SERIES_UID,
    "sop_uid": tags.SOP_UID,
}
_DEVICE_TAGS = {"manufacturer": tags.MANUFACTURER, "device_model": tags.DEVICE_MODEL}
# By SNOMED CT, and by its earlier codes (SRT).
_VIEW_CODES = {
    **dict.fromkeys(["399348003", "R-10206"], "AP"),
    **dict.fromkeys(["272479007", "R-40888", "R-10214"], "PA"),
    **dict.fromkeys(["399173006", "R-10236"], "LL"),
    **dict.fromkeys(["399198007", "R-10232"], "RL"),
    **dict.fromkeys(["399067008", "R-102CD"], "LATERAL"),
    **dict.fromkeys(["399033003", "R-10202"], "FRONTAL"),
    **dict.fromkeys(["399182000", "R-102C1"], "OBLIQUE"),
    **dict.fromkeys(["399135007", "R-10220"], "LAO"),
    **dict.fromkeys(["399356000", "R-40985"], "RAO"),
    **dict.fromkeys(["399006002", "R-10212"], "LPO"),
    **dict.fromkeys(["399038007", "R-10210"], "RPO"),
}
_UID = re.compile(r"[0-9.]{1,64}")
_SHOWN_UID = re.compile(r"hmac:[0-9a-f]{32}|[0-9.]{1,64}")
_DEVICE = re.compile(r"[A-Za-z0-9 ()\[\]./,;:&+*#@_'-]{1,64}")
# A date, or a number long enough to be a person's or a serial one.
_TELLING = re.compile(r"[0-9]{6}|[0-9]{1,4}[./-][0-9]{1,2}[./-][0-9]{1,4}")
_AGE = re.compile(r"([0-9]{1,3})([DWMY]?)")  # some writers leave out the unit of years
_UNITS_PER_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0, "": 1.0}
_DATE = re.compile(r"([0-9]{4})\.?([0-9]{2})\.?([0-9]{2})")  # with dots before 1993


@dataclass(frozen=True)
class DicomFacts:
    """What a DICOM header says; each None where it says nothing that may be kept.

    Attributes:
        study_uid: Study Instance UID, "hmac:" and 32 hexadecimal digits unless kept as it is.
        series_uid: Series Instance UID, likewise.
        sop_uid: SOP Instance UID, likewise.
        age_years: age when the image was made, 0 to `MAX_AGE_YEARS`, which stands for all above.
        sex: "M", "F" or "O".
        view_position: such as "PA" or "LL"; `OTHER` for what is no known word, here and below.
        modality: such as "CR" or "DX".
        photometric_interpretation: such as "MONOCHROME2".
        presentation_intent: "FOR PRESENTATION" or "FOR PROCESSING".
        body_part: such as "CHEST".
        manufacturer: of the device.
        device_model: the manufacturer's name of it.
        burned_in_annotation: "YES" or "NO".

    Raises:
        ValueError: a value that `read_facts` never gives.
    """

    study_uid: str | None = None
    series_uid: str | None = None
    sop_uid: str | None = None
    age_years: float | None = None
    sex: str | None = None
    view_position: str | None = None
    modality: str | None = None
    photometric_interpretation: str | None = None
    presentation_intent: str | None = None
    body_part: str | None = None
    manufacturer: str | None = None
    device_model: str | None = None
    burned_in_annotation: str | None = None

    def __post_init__(self) -> None:
        held = {name: value for name, value in vars(self).items() if value is not None}
        age = held.pop("age_years", 0.0)
        is_sound = 0 <= age <= MAX_AGE_YEARS and all(
            _SHOWN_UID.fullmatch(value)
            if name in _UID_TAGS
            else value == OTHER or value in _WORDS[name]
            if name in _WORDS
            else _is_device(value)
            for name, value in held.items()
        )
        if not is_sound:
            raise ValueError("a fact out of its form")

    def pack(self) -> bytes:
        """Returns the facts as bytes, at most `MAX_PACKED` of them."""
        return "\t".join("" if v is None else str(v) for v in vars(self).values()).encode()


FACT_NAMES = tuple(each.name for each in fields(DicomFacts))
MAX_PACKED = 64 * len(FACT_NAMES)


def unpack_facts(raw: bytes) -> DicomFacts:
    """Returns facts from what `DicomFacts.pack` gave.

    Raises:
        ValueError: it is nothing that it gives.
    """
    given = dict(zip(FACT_NAMES, raw.decode("ascii").split("\t"), strict=True))
    age = given.pop("age_years")
    texts = {name: text or None for name, text in given.items()}
    return DicomFacts(**texts, age_years=float(age) if age else None)


def read_facts(header: Header, key: bytes | None, *, keep_uids: bool = False) -> DicomFacts:
    """Returns what a header says of its image.

    Args:
        header: from `read_header`.
        key: of the hash under which UIDs are kept; without it none is, unless as it is.
        keep_uids: keep UIDs as they are.
    """
    words: dict[str, str | None] = {}
    for name, tag in _WORD_TAGS.items():
        word = header.code(tag).upper()
        words[name] = (word if word in _WORDS[name] else OTHER) if word else None
    if words["view_position"] is None and tags.VIEW_CODES in header.items:
        code = header.items[tags.VIEW_CODES].code(tags.CODE_VALUE)
        words["view_position"] = _VIEW_CODES.get(code, OTHER)
    uids: dict[str, str | None] = {}
    for name, tag in _UID_TAGS.items():
        uid = header.code(tag)
        kept = uid if keep_uids else keyed_hash(key, uid) if key else None
        uids[name] = kept if _UID.fullmatch(uid) else None
    personal = _personal_words(header)
    devices = {name: _read_device(header.code(tag), personal) for name, tag in _DEVICE_TAGS.items()}
    return DicomFacts(**uids, **words, **devices, age_years=_read_age(header))


def hash_patient(header: Header, key: bytes) -> str | None:
    """Returns the keyed hash of the patient's id and its issuer, from their bytes as stored."""
    patient = header.values.get(tags.PATIENT_ID, b"").strip(b" \0")
    issuer = header.values.get(tags.ISSUER_OF_PATIENT_ID, b"").strip(b" \0")
    if not patient:
        return None
    return keyed_hash(key, patient + (b"\0" + issuer if issuer else b""))


def _read_age(header: Header) -> float | None:
    """Returns the age that is stated, or else that between the dates of birth and of the study.

    The latter in whole years, below two in whole months, so that it tells no day of birth.
    """
    stated = _AGE.fullmatch(header.code(tags.PATIENT_AGE).upper())
    if stated:
        years = int(stated[1]) / _UNITS_PER_YEAR[stated[2]]
    else:
        born, seen = (_read_date(header, tag) for tag in (tags.BIRTH_DATE, tags.STUDY_DATE))
        if born is None or seen is None:
            return None
        months = 12 * (seen.year - born.year) + seen.month - born.month - (seen.day < born.day)
        years = months // 12 if months >= 24 else months / 12
    return min(float(years), MAX_AGE_YEARS) if 0 <= years <= _OLDEST_YEARS else None


def _read_date(header: Header, tag: int) -> date | None:
    found = _DATE.fullmatch(header.code(tag))
    try:
        return date(*map(int, found.groups())) if found else None
    except ValueError:
        return None


def _personal_words(header: Header) -> list[str]:
    """Returns words that stand for the patient: of the name and of the id."""
    name = header.values.get(tags.PATIENT_NAME, b"").decode("ascii", "replace").upper()
    patient = header.values.get(tags.PATIENT_ID, b"").decode("ascii", "replace").upper()
    return re.findall("[A-Z]{3,}", name) + re.findall("[A-Z0-9]{4,}", patient)


def _read_device(text: str, personal: list[str]) -> str | None:
    """Returns a device's name, None where it is none or holds what may stand for a person."""
    text = " ".join(text.split())
    is_personal = any(word in text.upper() for word in personal)
    return text if _is_device(text) and not is_personal else None


def _is_device(text: str) -> bool:
    return bool(_DEVICE.fullmatch(text)) and not _TELLING.search(text)
