"""Lists an archive's instances by QIDO-RS and reads them by WADO-RS.

An instance is a file to the tables: its path is `study/series/instance`, each a UID. It has no
size, and its time is that at which it was made, to the second: the nanoseconds stand for its
metadata, so that an instance whose metadata change is another state of the file.
"""

import hashlib
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests

from orchestrator.data.limits import Limits, rejection
from orchestrator.data.listing.dicomweb.answers import (
    CREDENTIALS,
    GATEWAY,
    INSTANCE,
    PASSING,
    SERIES,
    STUDY,
    has_pixels,
    is_network,
    is_own,
    may_pass,
    only_part,
    reason_of,
    state_ns,
    status_of,
    text_of,
    wait_s,
)
from orchestrator.data.listing.dicomweb.login import PASSWORD, TOKEN_COMMAND, USERNAME, find_login
from orchestrator.data.listing.dicomweb.query import Query, read_query
from orchestrator.data.listing.ignored import OUTPUTS, Ignoring
from orchestrator.data.listing.listing import Found
from orchestrator.errors import ClusterError, DataError, SpecError

NO_PIXELS = "DICOM objects without pixels"

_FIELDS = [
    *("InstanceCreationDate", "InstanceCreationTime", "Manufacturer", "SeriesDescription"),
]
_PAGE = 1000  # instances asked for at a time
_AT_ONCE = 4  # images asked for at a time by one process: an archive serves clinicians first
_PAUSES_S = (1.0, 2.0, 4.0, 8.0)  # between attempts
_TIMEOUT_S = (10.0, 60.0)  # to connect, between two packets
_ENVELOPE_BYTES = 1 << 16  # of an answer beside the object in it
_BLOCK_BYTES = 1 << 20

_UID = r"(?=[0-9.]{1,64}(?:/|$))[0-9]+(?:\.[0-9]+)*"
_UIDS = re.compile(f"{_UID}/{_UID}/{_UID}")
_ERRORS = (requests.RequestException, ValueError)  # ValueError: an answer out of form

_Answer = TypeVar("_Answer")


class Archive:
    """The instances that an address means.

    Args:
        query: what the address says.
        address: as the user wrote it, for messages.

    Raises:
        SpecError: a package is missing, or the environment's credentials are half there.
    """

    def __init__(self, query: Query, address: str) -> None:
        try:
            from dicomweb_client.web import DICOMwebClient
        except ImportError as error:
            raise SpecError(
                f"reading from an archive needs {error.name}, which is not installed: pip install "
                "'xray-orchestrator[dicom]'"
            ) from error
        self._query = query
        self._address = address
        self._session = requests.Session()
        self._session.auth = find_login()
        self._client = DICOMwebClient(query.service, self._session, timeout=_TIMEOUT_S)
        self._client.host = urlsplit(query.service).netloc  # of the Host header: with its port
        self._client.set_http_retry_params(retry=False)  # `_patiently` knows more of an answer
        self._turn = threading.BoundedSemaphore(_AT_ONCE)

    def walk(self, ignoring: Ignoring | None = None) -> Iterator[Found]:
        """Yields every instance that the archive finds, once, page by page.

        Args:
            ignoring: counts the objects that are left out: results of this program, and what holds
                no pixels.

        Raises:
            DataError: the archive does not take the query, or answers it in another form.
            ClusterError: the archive does not answer, or refuses the credentials.
        """
        seen: set[bytes] = set()
        for filters in self._query.searches():
            for answer in self._search_all(filters):
                path = "/".join(text_of(answer, tag) for tag in (STUDY, SERIES, INSTANCE))
                if not _UIDS.fullmatch(path):
                    raise DataError(
                        f"{self._address} lists an instance without the UIDs of its study, its "
                        "series and itself; have the archive repaired, or narrow the query"
                    )
                key = hashlib.blake2b(path.encode(), digest_size=16).digest()
                if key in seen:  # pages shift where instances come in meanwhile
                    continue
                seen.add(key)
                left_out = OUTPUTS if is_own(answer) else None if has_pixels(answer) else NO_PIXELS
                if left_out is None:
                    yield Found(path.encode(), None, state_ns(answer))
                elif ignoring is not None:
                    ignoring.counts[left_out] += 1

    def read(self, path: bytes, limits: Limits) -> bytes:
        """Returns the bytes of an instance, in the transfer syntax in which it is stored.

        Args:
            path: of `walk`.
            limits: `max_bytes` is checked while they arrive.

        Raises:
            ImageError: the archive does not have this instance, refuses it, or it is too large.
            ClusterError: the archive does not answer; the instance may be good.
        """
        uids = path.decode("ascii", "replace")
        if not _UIDS.fullmatch(uids):
            raise rejection("missing_file", "The path names no instance of an archive")
        study, series, instance = uids.split("/")
        url = f"{self._query.service}/studies/{study}/series/{series}/instances/{instance}"
        with self._turn:
            try:
                data = self._patiently(lambda: self._retrieve(url, limits))
            except _ERRORS as error:
                if status_of(error) in (404, 410):
                    raise rejection("missing_file", "The archive has no such instance") from None
                if self._is_of_instance(error):
                    found = f"The archive did not give it ({reason_of(error)})"
                    raise rejection("unreadable", found) from None
                raise self._failed(f"{self._address} does not give its images", error) from None
        limits.check_bytes(len(data))
        if not data:
            raise rejection("empty_file", "The archive gave no bytes")
        return data

    def _search_all(self, filters: dict[str, str]) -> Iterator[dict[str, Any]]:
        """Yields the answers of one search, whatever the archive makes of limit and offset."""
        offset = 0
        before: list[str] = []
        while page := self._search(filters, _PAGE, offset):
            these = [text_of(answer, INSTANCE) for answer in page]
            if these == before and len(page) < _PAGE:  # all there is, twice
                return
            if these == before:
                raise DataError(
                    f"{self._address} gives the same {_PAGE:,} instances again and again; narrow "
                    "the query, for instance to one day"
                )
            yield from page
            if len(page) > _PAGE:  # the limit is passed over: these are all
                return
            offset, before = offset + len(page), these

    def _search(self, filters: dict[str, str], limit: int, offset: int) -> list[dict[str, Any]]:
        """Returns the answers of one page of a search."""

        def search() -> Any:
            return self._client.search_for_instances(
                search_filters=filters,
                limit=limit,
                offset=offset,
                fields=_FIELDS,
            )

        try:
            page = self._patiently(search)
        except _ERRORS as error:
            status = status_of(error) or 500
            if status < 500 and status not in PASSING | CREDENTIALS | {403}:
                raise DataError(
                    f"{self._address} does not take the query ({reason_of(error)}); check the "
                    "address and its filters"
                ) from None
            raise self._failed(f"cannot list {self._address}", error) from None
        if not isinstance(page, list) or not all(isinstance(answer, dict) for answer in page):
            raise DataError(f"{self._address} answers in another form than DICOM JSON")
        return page

    def _retrieve(self, url: str, limits: Limits) -> bytes:
        """Returns an instance as it is stored.

        dicomweb-client would parse it, and what it writes again is not the file that was stored.
        """
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        headers = {"Accept": accept, "Accept-Encoding": "identity"}  # pixels do not shrink
        with self._session.get(url, headers=headers, timeout=_TIMEOUT_S, stream=True) as response:
            response.raise_for_status()
            data = bytearray()
            for block in response.iter_content(_BLOCK_BYTES):
                data += block
                limits.check_bytes(len(data) - _ENVELOPE_BYTES)
            return only_part(bytes(data), response.headers.get("Content-Type", ""))

    def _patiently(self, ask: Callable[[], _Answer]) -> _Answer:
        """Returns an answer, asked for again where the next attempt may bring one."""
        for pause_s in _PAUSES_S:
            try:
                return ask()
            except _ERRORS as error:
                if not may_pass(error):
                    raise
                time.sleep(wait_s(error, pause_s * random.uniform(0.75, 1.25)))
        return ask()

    def _is_of_instance(self, error: Exception) -> bool:
        """Whether an error is about one instance: the archive answers, and still does."""
        status = status_of(error)
        if status is not None and status < 500:
            return status not in PASSING | CREDENTIALS
        if status in GATEWAY or is_network(error):
            return False
        try:
            self._search(next(self._query.searches()), 1, 0)
        except (ClusterError, DataError):
            return False
        return True

    def _failed(self, what: str, error: Exception) -> ClusterError:
        advice = "check the address, the archive and the network"
        if status_of(error) in CREDENTIALS | {403}:
            advice = f"check {USERNAME} and {PASSWORD}, {TOKEN_COMMAND} or ~/.netrc"
        return ClusterError(
            f"{what}: {reason_of(error)}; {advice}, then run the same command again to continue"
        )


@lru_cache(maxsize=64)
def open_archive(address: str) -> Archive:
    """Returns the archive behind an address; nothing is asked of it yet.

    Raises:
        SpecError: the address or its filters are wrong, a package is missing, or the environment's
            credentials are half there.
    """
    return Archive(read_query(address), address)
