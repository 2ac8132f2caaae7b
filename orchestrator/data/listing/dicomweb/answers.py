"""What an archive answers: attributes of an instance, the object in a message, what went wrong."""

import hashlib
import json
import re
from datetime import UTC, datetime
from email.message import Message
from typing import Any

import requests

STUDY, SERIES, INSTANCE, SOP_CLASS = "0020000D", "0020000E", "00080018", "00080016"

# What results of this program say that are stored in an archive; nothing else says it.
OWN_MANUFACTURER = "xray-orchestrator"
OWN_REPORT, OWN_HEATMAP = "AI result, research use only", "AI heat map, research use only"
_MANUFACTURER, _SERIES_DESCRIPTION = "00080070", "0008103E"

PASSING = frozenset({408, 425, 429})  # besides 5xx: the same request may be answered later
CREDENTIALS = frozenset({401, 407})
GATEWAY = frozenset({502, 503, 504})  # the archive itself was not reached

_MADE = (("00080012", "00080013"), ("00080020", "00080030"))  # the instance, the study
# What tells states of an instance apart, and says nothing of a patient: class, modality, number,
# frames, rows, columns, bits, and when it was made. A study's other attributes change where results
# are stored in it.
_STATE = (
    *(SOP_CLASS, "00080060", "00200013", "00280008", "00280010", "00280011", "00280100"),
    *("00080012", "00080013"),
)
# Structured reports, presentation states, documents, raw data.
_WITHOUT_PIXELS = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(?:88|11|104|66)(?:\..*)?")
_MOST_PAUSE_S = 60.0  # however long the archive asks for


def text_of(answer: dict[str, Any], tag: str) -> str:
    """Returns the first value of an attribute as text, empty where there is none."""
    try:
        return str(answer[tag]["Value"][0])
    except (KeyError, IndexError, TypeError):
        return ""


def is_own(answer: dict[str, Any]) -> bool:
    """Returns whether an instance is a result that this program has made of an image.

    It is told by its manufacturer, and where the archive does not give that, by its series.
    """
    if maker := text_of(answer, _MANUFACTURER):
        return maker == OWN_MANUFACTURER
    return text_of(answer, _SERIES_DESCRIPTION) in (OWN_REPORT, OWN_HEATMAP)


def has_pixels(answer: dict[str, Any]) -> bool:
    """Returns whether an instance's class lets it have pixels."""
    return _WITHOUT_PIXELS.fullmatch(text_of(answer, SOP_CLASS)) is None


def state_ns(answer: dict[str, Any]) -> int:
    """Returns when an instance was made, ns since the epoch; the part below 1 s is its state's."""
    state = json.dumps([text_of(answer, tag) for tag in _STATE]).encode()
    own = int.from_bytes(hashlib.blake2b(state, digest_size=8).digest(), "big") % 10**9
    for date, clock in _MADE:
        text = text_of(answer, date) + (text_of(answer, clock).partition(".")[0] or "000000")
        try:
            made = datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        except ValueError:
            continue
        if 1900 <= made.year < 2200:
            return int(made.timestamp()) * 10**9 + own
    return own


def only_part(data: bytes, content_type: str) -> bytes:
    """Returns the DICOM object in a message.

    Raises:
        ValueError: the message is of another kind, or cut short.
    """
    header = Message()
    header["Content-Type"] = content_type
    if header.get_content_type() == "application/dicom":  # as some archives send a single object
        return data
    boundary = header.get_boundary()
    if header.get_content_maintype() != "multipart" or boundary is None:
        raise ValueError("its answer is no DICOM object")
    delimiter = b"--" + boundary.encode()
    start = data.find(b"\r\n\r\n", data.find(delimiter)) + 4
    end = data.rfind(b"\r\n" + delimiter)
    if start < 4 or end < start:
        raise ValueError("its answer is cut short")
    return data[start:end]


def status_of(error: Exception) -> int | None:
    """Returns the HTTP status of an error that is an answer."""
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def is_network(error: Exception) -> bool:
    """Returns whether an error is the network's and no answer."""
    is_answer = status_of(error) is not None or isinstance(error, ValueError)
    return isinstance(error, requests.RequestException) and not is_answer


def may_pass(error: Exception) -> bool:
    """Returns whether the same request may have an answer a little later."""
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in PASSING
    return not isinstance(error, requests.exceptions.SSLError)


def wait_s(error: Exception, pause_s: float) -> float:
    """Returns how long to wait before the next attempt, s, where the archive says nothing of it."""
    response = getattr(error, "response", None)
    asked = "" if response is None else response.headers.get("Retry-After", "")
    return min(float(asked), _MOST_PAUSE_S) if asked.isdecimal() else pause_s


def reason_of(error: Exception) -> str:
    """Returns what went wrong, in words without an address or a header in them."""
    status = status_of(error)
    if status is not None and status >= 400:
        refused = "it refuses the credentials, " if status in CREDENTIALS else ""
        return f"{refused}HTTP status {status}"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted"
    if isinstance(error, requests.Timeout):
        return "it does not answer in time"
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return "its answer is no DICOM JSON"
    return "no connection to it" if is_network(error) else str(error)
