import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestrator.cluster.token import default_token_file, load_token
from orchestrator.errors import ClusterError, SpecError
from orchestrator.jobs.client import (
    LOCAL,
    Connection,
    Jobs,
    build_entrypoint,
    check_id,
    name_cluster,
)
from orchestrator.jobs.local_head import LocalHead, LocalHeadFiles, find_head
from orchestrator.runs.states import Status


@pytest.fixture(scope="module")
def jobs(local_head: LocalHead) -> Jobs:
    return Jobs(local_head.address)


def test_no_proxy_stands_before_the_local_head(
    local_head: LocalHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nothing listens
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.setenv("NO_PROXY", "")
    found = Connection(LOCAL, lambda line: None).get(start=False)
    assert found is not None
    assert found.look_up("unknown") is None
    assert os.environ["no_proxy"] == "example.org,127.0.0.1"


def wait_for(done: Callable[[], bool], seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < limit, "it does not come"
        time.sleep(0.1)


def ended(jobs: Jobs, submission_id: str) -> Status:
    def is_over() -> bool:
        info = jobs.look_up(submission_id)
        return info is not None and info.status not in (Status.PENDING, Status.RUNNING)

    wait_for(is_over)
    info = jobs.look_up(submission_id)
    assert info is not None
    return info.status


@pytest.fixture
def open_head() -> Iterator[str]:
    """The version endpoint of a dashboard that asks for no token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"version": "4", "ray_version": "2.60.0"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def code_of(url: str, method: str, token: str | None) -> int:
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    body = json.dumps({"entrypoint": "true"}).encode() if method == "POST" else None
    request = urllib.request.Request(url, data=body, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.ray
def test_job_endpoints_ask_for_the_token(local_head: LocalHead, jobs: Jobs) -> None:
    jobs.submit("token-1", "true", {})
    endpoints = [
        ("GET", "/api/jobs/"),
        ("POST", "/api/jobs/"),
        ("GET", "/api/jobs/token-1"),
        ("GET", "/api/jobs/token-1/logs"),
        ("POST", "/api/jobs/token-1/stop"),
        ("GET", "/api/version"),
    ]
    for method, path in endpoints:
        url = local_head.address + path
        codes = [code_of(url, method, token) for token in (None, "wrong", load_token())]
        assert codes == [401, 403, 200], (method, path)


@pytest.mark.ray
def test_the_head_listens_on_localhost_and_its_files_are_the_owners(local_head: LocalHead) -> None:
    assert local_head.address.startswith("http://127.0.0.1:")
    if not (os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")):
        assert default_token_file().stat().st_mode & 0o777 == 0o600
    record = LocalHeadFiles().record
    assert record.stat().st_mode & 0o777 == 0o600
    assert load_token() not in record.read_text()
    assert find_head() == local_head


@pytest.mark.ray
def test_an_id_is_taken_once_and_an_unknown_one_is_none(jobs: Jobs, tmp_path: Path) -> None:
    jobs.submit("once-1", f"echo ran >> {tmp_path}/ran; exit 7", {"run": "/x", "job": "once"})
    with pytest.raises(ClusterError, match="refused the request"):
        jobs.submit("once-1", f"echo ran >> {tmp_path}/ran", {})
    assert ended(jobs, "once-1") is Status.FAILED
    info = jobs.look_up("once-1")
    assert info is not None
    assert (info.exit_code, info.metadata["run"]) == (7, "/x")
    assert (tmp_path / "ran").read_text() == "ran\n"
    assert jobs.look_up("never-submitted") is None
    assert "once-1" in [found.submission_id for found in jobs.list_all()]


@pytest.mark.ray
def test_a_stop_ends_the_driver_and_its_workers(jobs: Jobs, tmp_path: Path) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import os, pathlib, time\n"
        "import ray\n"
        "@ray.remote\n"
        "class Worker:\n"
        "    def pid(self): return os.getpid()\n"
        "ray.init(log_to_driver=False)\n"
        "worker = Worker.remote()\n"
        "pids = f'{os.getpid()} {ray.get(worker.pid.remote())}'\n"
        f"pathlib.Path({str(tmp_path / 'pids')!r}).write_text(pids)\n"
        "time.sleep(600)\n"
    )
    jobs.submit("stopped-1", f"exec {sys.executable} {driver}", {})
    wait_for(lambda: len(_words(tmp_path / "pids")) == 2, 120)
    jobs.stop("stopped-1")
    assert ended(jobs, "stopped-1") is Status.STOPPED
    for pid in _words(tmp_path / "pids"):
        wait_for(lambda pid=pid: not _runs(int(pid)))  # type: ignore[misc]


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def _runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.ray
def test_output_is_followed_as_it_comes(jobs: Jobs) -> None:
    jobs.submit("followed-1", "echo first; sleep 1; echo last", {})
    parts: list[str] = []
    jobs.follow("followed-1", parts.append)
    lines = "".join(parts).splitlines()  # the command that Ray shows first holds both words
    assert lines.index("first") < lines.index("last")
    assert {"first", "last"} <= set(jobs.logs("followed-1").splitlines())


def test_a_head_that_answers_without_a_token_is_refused(open_head: str) -> None:
    with pytest.raises(ClusterError, match="answers without a token"):
        Jobs(open_head)


def test_insecure_allows_it_and_sends_no_token(open_head: str) -> None:
    code = (
        "import os, sys\n"
        "os.environ['RAY_AUTH_MODE'] = 'disabled'\n"
        "from orchestrator.jobs.client import Jobs\n"
        "jobs = Jobs(sys.argv[1])\n"
        "sys.exit(bool(jobs._client._headers))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, open_head],
        env=os.environ | {"RAY_AUTH_TOKEN": "a" * 64},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_cluster_that_is_not_there_is_one_clear_line() -> None:
    with pytest.raises(ClusterError, match="cannot be reached") as caught:
        Jobs("http://127.0.0.1:9")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", ["", "a/b", "../x", "a b", "é", "a" * 101, "x\n", "a?b", "a#b"])
def test_ids_that_ray_would_leave_pending_are_refused(bad: str) -> None:
    with pytest.raises(SpecError, match="is not a valid job id"):
        check_id(bad)


def test_an_address_that_is_given_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "http://other:8265")
    assert name_cluster("http://mine:8265") == "http://mine:8265"
    assert name_cluster(None) == "http://other:8265"
    monkeypatch.delenv("RAY_ADDRESS")
    assert name_cluster(None) == LOCAL


def test_paths_are_quoted_for_the_shell(tmp_path: Path) -> None:
    folder = tmp_path / "it's a; $(folder)"
    folder.mkdir()
    shown = tmp_path / "python"
    shown.write_text("#!/bin/sh\npwd\nprintf '%s\\n' \"$@\"\n")
    shown.chmod(0o755)
    (folder / "job.yaml").touch()
    made = build_entrypoint(folder / "job.yaml", folder, "http://x")
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", made], capture_output=True, text=True, env={"PATH": path})
    assert done.stdout.splitlines()[0] == str(folder)
    assert str(folder / "job.yaml") in done.stdout.splitlines()


def test_a_working_folder_that_is_away_is_worth_another_try(tmp_path: Path) -> None:
    gone = tmp_path / "it's gone"  # on a share that is not mounted on the head
    for cwd in (gone, tmp_path):
        made = build_entrypoint(gone / "job.yaml", cwd, "http://x")
        done = subprocess.run(["sh", "-c", made], capture_output=True, text=True)
        assert done.returncode == 5
        unseen = f"error: the cluster does not see {cwd} and {gone}/job.yaml; submit from a folder"
        assert done.stdout.startswith(unseen)


def test_a_job_on_an_open_head_joins_it_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    made = build_entrypoint(Path("/r/job.yaml"), Path("/"), "http://x")
    assert "exit 5; }; RAY_AUTH_MODE=disabled exec python -m orchestrator " in made
    assert sys.executable in build_entrypoint(Path("/r/job.yaml"), Path("/"), LOCAL)
