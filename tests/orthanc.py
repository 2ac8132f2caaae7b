"""A real Orthanc on the loopback, with DICOMweb, for tests; they skip where it is not installed."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

USER, PASSWORD = "reader", "canary-3f9a-password"

_PROGRAM = shutil.which("Orthanc")
_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_START_S = 60.0


class Orthanc:
    """One server; `start` and `stop` keep what it stores.

    Args:
        folder: for its configuration, storage and log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        config = {
            "Name": "tests",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [str(_PLUGIN)],
            "HttpPort": self.port,
            "HttpServerEnabled": True,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "storage").mkdir()
        (folder / "orthanc.json").write_text(json.dumps(config))

    @property
    def dicomweb(self) -> str:
        """Its DICOMweb service, `http://...`."""
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        with (self._folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(_PROGRAM), str(self._folder / "orthanc.json")],
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        until = time.monotonic() + _START_S
        while True:
            try:
                self.ask("/system")
                return
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() > until or self._process.poll() is not None:
                    raise
                time.sleep(0.1)

    def stop(self) -> None:
        """Ends it; nothing where it does not run."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def ask(self, path: str, body: bytes | None = None) -> Any:
        """Returns the answer of its own REST interface, as from JSON; with a body by POST."""
        return json.loads(self.fetch(path, body))

    def fetch(self, path: str, body: bytes | None = None, method: str | None = None) -> bytes:
        """Returns the bytes of such an answer.

        Args:
            path: of the resource.
            body: sent by POST where the method is not named.
            method: of HTTP.
        """
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, body, method=method)
        manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        manager.add_password(None, request.full_url, USER, PASSWORD)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPBasicAuthHandler(manager)
        )
        with opener.open(request, timeout=60) as answer:
            data: bytes = answer.read()
        return data

    def store(self, dicom: bytes) -> str:
        """Stores one DICOM object and returns Orthanc's id of it."""
        return str(self.ask("/instances", dicom)["ID"])


@contextmanager
def run_orthanc(folder: Path) -> Iterator[Orthanc]:
    """Yields an empty Orthanc that has been started; skips the test where it is not installed.

    Args:
        folder: an empty folder for what it writes.
    """
    if _PROGRAM is None or not _PLUGIN.exists():
        pytest.skip("needs Orthanc (Debian's packages orthanc and orthanc-dicomweb)")
    orthanc = Orthanc(folder)
    try:
        orthanc.start()
        yield orthanc
    finally:
        orthanc.stop()
