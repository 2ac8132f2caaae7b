"""Puts results into an archive by DICOMweb (STOW-RS), and keeps which of them it has taken.

Imports dicomweb-client, of the extra `dicom`.

Reference: DICOM PS3.18 section 10.5 (store transaction), table I.1-1 (its answer).
"""

import contextlib
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset

from orchestrator.config.addresses import refuse_secrets
from orchestrator.data.listing.dicomweb.answers import CREDENTIALS, may_pass, reason_of, wait_s
from orchestrator.data.listing.dicomweb.login import PASSWORD, TOKEN_COMMAND, USERNAME, find_login
from orchestrator.errors import ClusterError, DataError, SpecError
from orchestrator.runs.atomic import write_json
from orchestrator.runs.run_dir import RunDir

_EXAMPLE = "https://host/dicom-web"
_TIMEOUT_S = (10.0, 120.0)  # to connect, and to answer
_PAUSES_S = (1.0, 2.0, 4.0)  # before the further attempts
_UNSAID = "it does not say that it has stored it"
_THERE_ALREADY = 0x0111  # duplicate SOP instance
_SAVED_EACH_S = 2.0  # what a kill may cost: the archive is sent that much again, and takes it once


class ResultStore:
    """An archive as it takes results, and what it has taken of a run; a context.

    Attributes:
        taken: of each object that it has taken, by UID: its `modality`, `rows` of the run that it
            is of, and `at`, when it was stored.

    Args:
        address: of its DICOMweb service, `http://...` or `https://...`.
        run: held by this process.

    Raises:
        SpecError: the address or the credentials are no such.
        DataError: the record of what was stored is damaged.
    """

    def __init__(self, address: str, run: RunDir) -> None:
        self._address = _check(address)
        self._file = run.stored
        self._all = _load(run)
        self.taken = self._all.setdefault(self._address, {})
        self._is_saved, self._saved_s = True, time.monotonic()
        self._session = requests.Session()
        self._session.auth = find_login()
        # A retry of the client's own would send a large object's later attempts without content.
        self._client = DICOMwebClient(
            self._address,
            self._session,
            callback=_bare_type,
            chunk_size=2**31,
            timeout=_TIMEOUT_S,
        )
        self._client.host = urlsplit(self._address).netloc  # of the Host header: with its port
        self._client.set_http_retry_params(retry=False)

    def __enter__(self) -> "ResultStore":
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Saves what was stored, and ends the connection."""
        self._session.close()
        self._save()

    def rows_of(self, uid: str) -> set[int] | None:
        """Returns the rows of which an object was made that any archive has; None without one."""
        made = (taken[uid]["rows"] for taken in self._all.values() if uid in taken)
        return set(rows) if (rows := next(made, None)) is not None else None

    def store(self, result: Dataset, rows: Sequence[int]) -> str | None:
        """Sends an object; returns None once the archive says that it has it, or why it has not.

        Args:
            result: the object.
            rows: of the run that it is of.

        Raises:
            SpecError: the address is none of an archive.
            ClusterError: it does not answer, or refuses the credentials.
        """
        uid = str(result.SOPInstanceUID)
        problem = self._send(result)
        if problem is None:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self.taken[uid] = {"modality": result.Modality, "rows": list(rows), "at": now}
            self._is_saved = False
            if time.monotonic() - self._saved_s > _SAVED_EACH_S:
                self._save()
        return problem

    def _save(self) -> None:
        if not self._is_saved:
            write_json(self._file, self._all)
        self._is_saved, self._saved_s = True, time.monotonic()

    def _send(self, result: Dataset) -> str | None:
        """Returns what was wrong with an object, None where the archive has it."""
        uid = str(result.SOPInstanceUID)
        pauses_s = iter(_PAUSES_S)
        while True:
            try:
                return _verify(self._client.store_instances([result]), uid)
            except requests.RequestException as error:
                pause_s = next(pauses_s, None) if may_pass(error) else None
                if pause_s is not None:
                    time.sleep(wait_s(error, pause_s))
                elif error.response is None or may_pass(error):
                    raise self._failed(error, "bring it back") from None
                else:
                    return self._refusal(error.response, error, uid)
            except (ParseError, ValueError, KeyError, TypeError):
                return _UNSAID  # in a form that nothing can be read from

    def _refusal(self, response: requests.Response, error: Exception, uid: str) -> str | None:
        """Returns what an archive has against an object.

        Raises:
            SpecError: the address is none of an archive.
            ClusterError: the archive refuses the credentials.
        """
        status = response.status_code
        if status in CREDENTIALS | {HTTPStatus.FORBIDDEN}:
            advice = f"set {USERNAME} and {PASSWORD}, {TOKEN_COMMAND} or ~/.netrc"
            raise self._failed(error, f"{advice} for a user who may store objects") from None
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
            raise SpecError(
                f"nothing at {self._address} stores objects (HTTP status {status}); expected the "
                f"address of a DICOMweb service, such as {_EXAMPLE}"
            ) from None
        with contextlib.suppress(ValueError, TypeError, KeyError):
            if said := Dataset.from_json(response.json()):
                return _verify(said, uid)
        return f"HTTP status {status}"

    def _failed(self, error: Exception, advice: str) -> ClusterError:
        return ClusterError(
            f"the archive {self._address} takes no objects: {reason_of(error)}; what it took is "
            f"recorded: {advice}, then run the same command again to continue"
        )


def _verify(answer: Dataset, uid: str) -> str | None:
    """Returns what an answer says against an object, None where it says that it is stored."""
    for item in answer.get("ReferencedSOPSequence") or ():
        if item.get("ReferencedSOPInstanceUID") == uid:
            return None
    for item in answer.get("FailedSOPSequence") or ():
        if item.get("ReferencedSOPInstanceUID") == uid:
            code = int(item.get("FailureReason") or 0)
            return None if code == _THERE_ALREADY else f"failure reason {code:04X}H"
    return _UNSAID


def _bare_type(response: requests.Response, *_: Any, **__: Any) -> requests.Response:
    """Leaves the parameters of a content type out, which the client does not know."""
    kind = response.headers.get("Content-Type", "")
    response.headers["Content-Type"] = kind.partition(";")[0].strip()
    return response


def _check(address: str) -> str:
    """Returns an address as the client takes it."""
    try:
        refuse_secrets(address)
        parts = urlsplit(address.removeprefix("dicomweb+"))
        is_service = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError as error:
        raise SpecError(str(error)) from error
    if not is_service or parts.query or parts.fragment:
        raise SpecError(
            f"--stow {address} is no DICOMweb service; expected an address such as {_EXAMPLE}"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _load(run: RunDir) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns when each archive has taken which object, and of which rows, by address and UID."""
    try:
        stored: dict[str, dict[str, dict[str, Any]]]
        stored = json.loads(run.stored.read_text(encoding="utf-8"))
        entries = [entry for taken in stored.values() for entry in taken.values()]
        if all(entry["modality"] in ("SR", "OT") and set(entry["rows"]) for entry in entries):
            return stored
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, KeyError, TypeError):
        pass
    raise DataError(
        f"{run.stored} is no record of what archives have taken; remove it, and all results are "
        "sent again"
    )
