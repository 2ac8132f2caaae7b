"""Sending to an archive: what of its answers counts, and what is recorded when."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import ClusterError, DataError, SpecError
from orchestrator.hospital import stow
from orchestrator.hospital.export import export_results
from tests.conftest import Recorder
from tests.hospital.make_run import make_run, write_xray

Answer = Callable[[str], tuple[int, dict[str, Any]]]  # from a UID to a status and a data set


def stored(uid: str) -> tuple[int, dict[str, Any]]:
    return 200, said("00081199", uid)


def failed(uid: str, reason: int) -> tuple[int, dict[str, Any]]:
    return 409, said("00081198", uid, {"00081197": {"vr": "US", "Value": [reason]}})


def said(sequence: str, uid: str, more: dict[str, Any] | None = None) -> dict[str, Any]:
    item = {"00081155": {"vr": "UI", "Value": [uid]}, **(more or {})}
    return {sequence: {"vr": "SQ", "Value": [item]}}


@contextmanager
def archive(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """Yields the address of a server that answers so, and the UIDs that it was sent."""
    sent: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            uid = body[body.index(b"2.25.") :].split(b"\0")[0][:64].decode()
            uid = "".join(c for c in uid[:44] if c in "0123456789.")
            sent.append(uid)
            status, data = answer(uid)
            content = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/dicom+json; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/dicom-web/", sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("NETRC", "/dev/null")
    monkeypatch.setattr(stow, "_PAUSES_S", (0.0, 0.0, 0.0))


def make(tmp_path: Path, count: int = 3) -> Path:
    for number in range(count):
        write_xray(tmp_path / "in" / f"{number}.dcm", number)
    return make_run(tmp_path / "run", tmp_path / "in", [0.4] * count).path


def test_what_the_archive_has_taken_is_recorded_and_not_sent_again(tmp_path: Path) -> None:
    run = make(tmp_path)
    with archive(stored) as (address, sent):
        first = export_results(run, None, address, Recorder())
        again = export_results(run, None, address, Recorder())
    assert (first.stored, first.stored_before, again.stored, again.stored_before) == (3, 0, 0, 3)
    assert len(sent) == len(set(sent)) == 3
    record = json.loads((run / "stored.json").read_text())[address.rstrip("/")]
    assert {uid: entry["rows"] for uid, entry in record.items()} == {
        uid: [row] for row, uid in enumerate(sent)
    }
    with archive(stored) as (other, sent_there):
        export_results(run, None, other, Recorder())
    assert sorted(sent_there) == sorted(sent)


def test_what_is_sent_again_is_read_again_and_nothing_else(tmp_path: Path) -> None:
    for number, study in enumerate((0, 0, 1, 2)):
        write_xray(tmp_path / "in" / f"{number}.dcm", number, study)
    run = make_run(tmp_path / "run", tmp_path / "in", [0.4] * 4, heatmaps=[1, 3]).path
    refused: list[str] = []

    def answer(uid: str) -> tuple[int, dict[str, Any]]:
        if len(sent) != 2:
            return stored(uid)
        refused.append(uid)
        return failed(uid, 0xA700)

    with archive(answer) as (address, sent):
        first = export_results(run, None, address, Recorder())
        assert first.refused == {refused[0]: "failure reason A700H"}  # the first study's heat map
        for number in (0, 2, 3):  # nothing is left to send of these
            (tmp_path / "in" / f"{number}.dcm").unlink()
        recorder = Recorder()
        again = export_results(run, None, address, recorder)
        assert sent[5:] == refused and recorder.bars[0] == ("reading originals", 1)
        last = export_results(run, None, address, recorder)
    assert recorder.bars[2] == ("reading originals", 0)
    shown = [
        (r.num_studies, r.num_pictures, r.stored, r.stored_before) for r in (first, again, last)
    ]
    assert shown == [(3, 2, 4, 0), (3, 2, 1, 4), (3, 2, 0, 5)]
    assert not again.left_out and not last.left_out


def test_an_image_found_after_its_study_was_stored_makes_no_second_report(tmp_path: Path) -> None:
    data = [write_xray(tmp_path / "in" / f"{n}.dcm", n, study=7) for n in range(2)]
    run = make_run(tmp_path / "run", tmp_path / "in", [0.2, 0.9]).path
    (tmp_path / "in" / "1.dcm").unlink()
    with archive(stored) as (address, sent):
        export_results(run, None, address, Recorder())
        (tmp_path / "in" / "1.dcm").write_bytes(data[1])
        done = CliRunner().invoke(app, ["export", str(run), "--stow", address])
        export_results(run, None, address, Recorder())
    assert len(sent) == 1
    assert isinstance(done.exception, DataError)
    assert "1 image without a result: found after the report of its study was made" in done.stdout
    with archive(stored) as (other, sent_there):  # the same object wherever it goes
        assert export_results(run, None, other, Recorder()).left_out == {"late": 1}
    assert sent_there == sent


def test_each_object_counts_by_what_is_said_of_it(tmp_path: Path) -> None:
    run = make(tmp_path)
    answers = iter([(200, {}), failed("", 0x0111), failed("", 0xA700)])

    def answer(uid: str) -> tuple[int, dict[str, Any]]:
        status, data = next(answers)
        text = json.dumps(data).replace('"Value": [""]', f'"Value": ["{uid}"]')
        return status, json.loads(text)

    with archive(answer) as (address, sent):
        result = export_results(run, None, address, Recorder())
    assert result.stored == 1  # there already, as after a kill before the record was written
    assert result.refused == {
        sent[0]: "it does not say that it has stored it",
        sent[2]: "failure reason A700H",
    }
    with archive(lambda uid: (400, {})) as (address, _):
        done = CliRunner().invoke(app, ["export", str(run), "--stow", address])
    assert isinstance(done.exception, DataError) and "3 results refused by" in str(done.exception)
    assert "3 results refused by the archive: HTTP status 400" in done.stdout


def test_an_archive_that_fails_midway_is_gone_on_with(tmp_path: Path) -> None:
    run = make(tmp_path)
    states = iter([200, 503, 200, 503, 503, 503, 503])

    def answer(uid: str) -> tuple[int, dict[str, Any]]:
        return (200, stored(uid)[1]) if next(states) == 200 else (503, {})

    with archive(answer) as (address, sent):
        with pytest.raises(ClusterError, match="takes no objects: HTTP status 503"):
            export_results(run, None, address, Recorder())
        assert len(sent) == 7
        states = iter([200])
        assert export_results(run, None, address, Recorder()).stored == 1
    with pytest.raises(ClusterError, match="takes no objects: no connection to it"):
        export_results(run, None, "http://127.0.0.1:9/", Recorder())


@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        (None, 401, "it refuses the credentials, HTTP status 401; .* set DICOMWEB_USERNAME"),
        (None, 403, "HTTP status 403; .* set DICOMWEB_USERNAME"),
        (None, 404, "nothing at .* stores objects"),
        ("s3://bucket/folder", 0, "is no DICOMweb service"),
        ("https://host/dicom-web?StudyDate=20260101", 0, "is no DICOMweb service"),
        ("https://user:canary@host/dicom-web", 0, r"https://\.\.\.@host/dicom-web holds cred"),
    ],
)
def test_what_cannot_be_sent_to_is_said(
    tmp_path: Path, address: str | None, status: int, message: str
) -> None:
    run = make(tmp_path, 1)
    with (
        archive(lambda uid: (status, {})) as (own, _),
        pytest.raises((SpecError, ClusterError), match=message) as caught,
    ):
        export_results(run, None, address or own, Recorder())
    assert "canary" not in str(caught.value)


def test_a_damaged_record_is_said(tmp_path: Path) -> None:
    run = make(tmp_path, 1)
    (run / "stored.json").write_text("[1]")
    with pytest.raises(DataError, match=r"stored.json is no record"):
        export_results(run, None, "http://127.0.0.1:9", Recorder())


def test_an_answer_about_another_object_is_none_about_this_one() -> None:
    answer = Dataset.from_json(json.dumps(said("00081199", "1.2.3")))
    assert stow._verify(answer, "1.2.3") is None
    assert stow._verify(answer, "1.2.30") == "it does not say that it has stored it"
