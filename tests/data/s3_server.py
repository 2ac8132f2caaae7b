"""A small S3 server in this process: what Arrow's client asks for, from a dictionary of objects.

Path-style addresses, no signatures checked. `failing` makes it answer 503 to every request, and
`refused` 403 for some keys.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_XML = '<?xml version="1.0" encoding="UTF-8"?>'
_PAGE = 5  # small, so that the client must ask for more
_DATE = "Mon, 01 Jan 2024 00:00:00 GMT"


@dataclass
class Bucket:
    """Objects by key, and how the server behaves.

    Args:
        port: where it listens on localhost.
    """

    port: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    failing: bool = False
    puts: list[str] = field(default_factory=list)  # keys, as they became visible
    requests: list[str] = field(default_factory=list)
    _parts: dict[str, dict[int, bytes]] = field(default_factory=dict)

    def address(self, prefix: str) -> str:
        """Returns the address of a folder of the bucket."""
        server = f"endpoint_override=http://127.0.0.1:{self.port}"
        return f"s3://xrays/{prefix}?{server}&region=us-east-1&allow_bucket_creation=false"


@contextmanager
def serve_s3() -> Iterator[Bucket]:
    """Yields an empty bucket `xrays` that is served until the block ends."""
    bucket = Bucket()
    handler = type("Handler", (_Handler,), {"bucket": bucket})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    bucket.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    bucket: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stays silent."""

    def _key(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        self.bucket.requests.append(f"{self.command} {self.path}")
        key = unquote(parts.path).removeprefix("/xrays").lstrip("/")
        return key, parse_qs(parts.query, keep_blank_values=True)

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        body = f"{_XML}<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self._answer(status, body, Content_Type="application/xml")

    def _unusable(self, key: str) -> bool:
        if self.bucket.failing:
            self._error(503, "ServiceUnavailable")
        elif key in self.bucket.refused:
            self._error(403, "AccessDenied")
        else:
            return False
        return True

    def do_HEAD(self) -> None:
        key, _ = self._key()
        if self._unusable(key):
            return
        data = self.bucket.objects.get(key) if key else b""
        if data is None:
            self._answer(404)
        else:
            self._answer(200, Content_Length=str(len(data)), Last_Modified=_DATE, ETag='"e"')

    def do_GET(self) -> None:
        key, query = self._key()
        if self._unusable(key):
            return
        if "list-type" in query:
            self._answer(200, self._list(query), Content_Type="application/xml")
            return
        data = self.bucket.objects.get(key)
        if data is None:
            self._error(404, "NoSuchKey")
            return
        status, span = 200, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if span:
            status, data = 206, data[int(span[1]) : int(span[2]) + 1]
        self._answer(status, data, Last_Modified=_DATE, ETag='"e"')

    def _list(self, query: dict[str, list[str]]) -> bytes:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        after = query.get("continuation-token", [""])[0]
        most = min(
            int(query.get("max-keys", ["1000"])[0]), 5
        )  # small pages: the client must ask on
        found: list[str] = []
        for key in sorted(self.bucket.objects):
            if key.startswith(prefix):
                rest = key[len(prefix) :]
                cut = rest.find(delimiter) if delimiter else -1
                found.append(key if cut < 0 else prefix + rest[: cut + 1])
        names = [name for name in sorted(set(found)) if name > after]
        shown, more = names[:most], len(names) > most
        body = "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            if name.endswith("/") and name not in self.bucket.objects
            else f"<Contents><Key>{escape(name)}</Key><LastModified>2024-01-01T00:00:00.000Z"
            f"</LastModified><ETag>e</ETag><Size>{len(self.bucket.objects[name])}</Size></Contents>"
            for name in shown
        )
        token = (
            f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more else ""
        )
        return (
            f"{_XML}<ListBucketResult><Name>xrays</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(shown)}</KeyCount><MaxKeys>{most}</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{body}</ListBucketResult>"
        ).encode()

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", "") and (
            "aws-chunked" not in self.headers.get("Content-Encoding", "")
        ):
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raw = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                raw += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return raw
        data = b""  # chunks within: size;chunk-signature=...\r\n bytes \r\n
        while raw:
            head, _, raw = raw.partition(b"\r\n")
            size = int(head.split(b";")[0], 16)
            if not size:
                break
            data, raw = data + raw[:size], raw[size + 2 :]
        return data

    def do_PUT(self) -> None:
        key, query = self._key()
        data = self._body()
        if self._unusable(key):
            return
        if "partNumber" in query:
            self.bucket._parts.setdefault(key, {})[int(query["partNumber"][0])] = data
        else:
            self._store(key, data)
        self._answer(200, ETag='"e"')

    def do_POST(self) -> None:
        key, query = self._key()
        data = self._body()
        if self._unusable(key):
            return
        if "uploads" in query:
            name = "InitiateMultipartUploadResult"
            body = f"<{name}><UploadId>u</UploadId></{name}>"
        elif "delete" in query:
            for found in re.findall(r"<Key>(.*?)</Key>", data.decode()):
                self.bucket.objects.pop(found, None)
            body = "<DeleteResult></DeleteResult>"
        else:
            parts = self.bucket._parts.pop(key, {})
            self._store(key, b"".join(parts[number] for number in sorted(parts)))
            body = "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
        self._answer(200, (_XML + body).encode(), Content_Type="application/xml")

    def do_DELETE(self) -> None:
        key, _ = self._key()
        if not self._unusable(key):
            self.bucket.objects.pop(key, None)
            self._answer(204)

    def _store(self, key: str, data: bytes) -> None:
        self.bucket.objects[key] = data
        self.bucket.puts.append(key)
