"""A small DICOMweb server in this process, which misbehaves as archives do; for quick tests.

What a real one does is tested against Orthanc.
"""

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

DX = "1.2.840.10008.5.1.4.1.1.1.1"
SR = "1.2.840.10008.5.1.4.1.1.88.33"


@dataclass
class SmallArchive:
    """What the server holds and how it behaves.

    Args:
        port: where it listens on localhost.
        instances: answers to a search, as DICOM JSON.
        content: bytes of the instances by `study/series/instance`.
        page: most answers at a time; None where it passes over the limit.
        offsets: it takes offsets.
        statuses: answers to requests of an instance, one after the other, before the instance.
        login: the Authorization header that it takes, None for any.
        whole: a single object comes as it is, not as a part of a message.
    """

    port: int = 0
    instances: list[dict[str, Any]] = field(default_factory=list)
    content: dict[str, bytes] = field(default_factory=dict)
    page: int | None = 1000
    offsets: bool = True
    statuses: list[int] = field(default_factory=list)
    search_status: int = 200
    login: str | None = None
    whole: bool = False
    cut: bool = False
    asked: list[str] = field(default_factory=list)
    logins: list[str | None] = field(default_factory=list)

    def address(self, query: str = "Modality=DX") -> str:
        """Returns the address of a query."""
        return f"dicomweb+http://127.0.0.1:{self.port}/dicom-web?{query}"

    def add(self, number: int, data: bytes = b"x", sop_class: str = DX, **more: str) -> str:
        """Adds an instance and returns its path."""
        uids = f"1.{number}", f"2.{number}", f"3.{number}"
        tags = {
            "0020000D": uids[0],
            "0020000E": uids[1],
            "00080018": uids[2],
            "00080016": sop_class,
        }
        tags |= {"00080060": "DX", "00080012": "20260105", "00080013": "101112.5"} | more
        self.instances.append({tag: {"vr": "LO", "Value": [text]} for tag, text in tags.items()})
        self.content["/".join(uids)] = data
        return "/".join(uids)


@contextmanager
def serve_archive() -> Iterator[SmallArchive]:
    """Yields an empty archive that is served until the block ends."""
    archive = SmallArchive()
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (_Handler,), {"archive": archive})
    )
    archive.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield archive
    finally:
        server.shutdown()
        server.server_close()


def basic(user: str, password: str) -> str:
    """Returns the header of HTTP's basic scheme."""
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


class _Handler(BaseHTTPRequestHandler):
    archive: SmallArchive
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stays silent."""

    def _answer(self, status: int, body: bytes = b"", kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        archive, parts = self.archive, urlsplit(self.path)
        archive.asked.append(self.path)
        archive.logins.append(self.headers.get("Authorization"))
        if archive.login is not None and archive.logins[-1] != archive.login:
            self._answer(401)
        elif parts.path == "/dicom-web/instances":
            self._search(parse_qs(parts.query))
        elif archive.statuses:
            self._answer(archive.statuses.pop(0))
        else:
            names = parts.path.split("/")
            data = archive.content.get("/".join(names[3::2]))
            if data is None:
                self._answer(404)
            elif archive.whole:
                self._answer(200, data, "application/dicom")
            else:
                end = b"" if archive.cut else b"\r\n--b--\r\n"
                body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + data + end
                self._answer(200, body, 'multipart/related; type="application/dicom"; boundary="b"')

    def _search(self, query: dict[str, list[str]]) -> None:
        archive = self.archive
        if archive.search_status != 200:
            self._answer(archive.search_status)
            return
        start = int(query["offset"][0]) if archive.offsets else 0
        most = min(int(query["limit"][0]), archive.page) if archive.page else None
        found = [i for i in archive.instances if i["00080060"]["Value"][0] == query["Modality"][0]]
        page = found[start:][:most]
        self._answer(200, json.dumps(page).encode(), "application/dicom+json")
