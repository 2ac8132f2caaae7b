"""The local head: a Ray of one machine that outlives the command which needed it.

Without a cluster, `orchestrator submit` and the scheduler start one for themselves. A keeper
process watches over it and ends it after an idle time. Both the keeper and `ray start` hold a lock
for as long as they live, so a process id that was given anew is never taken for the head's.

It always asks for a token, listens with its dashboard on localhost alone, and takes free ports and
a temporary folder of its own, so it stands beside any other Ray.
"""

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from orchestrator.cluster.session import LOCAL_OBJECT_STORE_BYTES, ensure_token, load_token
from orchestrator.errors import ClusterError
from orchestrator.state import state_folder

IDLE_S = 1800.0
_START_LIMIT_S = 180.0
_STOP_LIMIT_S = 40.0
_KEPT_SESSIONS = 5  # folders of Ray's logs


@dataclass(frozen=True)
class Head:
    """A local head that has answered.

    Args:
        address: of its dashboard and job endpoints, `http://127.0.0.1:PORT`.
        pid: of `ray start`; to be trusted only while the lock is held.
    """

    address: str
    pid: int


class _Files:
    """The head's files of this user."""

    def __init__(self) -> None:
        state = state_folder()
        self.record = state / "head.json"
        self.lock = state / "head.lock"  # held by whoever lives
        self.starting = state / "head-start.lock"  # one starter at a time
        self.log = state / "head.log"
        # Ray's sockets lie in it, and their paths must be short; so not in the state folder.
        mark = hashlib.sha256(str(state).encode()).hexdigest()[:8]
        self.temporary = Path("/tmp") / f"orchestrator-{os.getuid()}-{mark}"


def find_head() -> Head | None:
    """Returns the local head, None where none is running."""
    files = _Files()
    if not _is_held(files.lock):
        return None
    try:
        found = json.loads(files.record.read_text())
        return Head(str(found["address"]), int(found["pid"]))
    except (OSError, ValueError, KeyError):
        return None  # a keeper is starting and its head has not answered yet


def ensure_head(say: Callable[[str], None], idle_s: float = IDLE_S) -> Head:
    """Returns the local head, started where none is running.

    Args:
        say: told where one is started.
        idle_s: a new one ends after so long without a job, s.

    Raises:
        ClusterError: it does not start.
    """
    files = _Files()
    with _locked(files.starting):
        head = find_head()
        if head is not None:
            return head
        say("no cluster is named (RAY_ADDRESS, --address): starting a local Ray head")
        ensure_token()
        head = _start(files, idle_s)
        say(
            f"local head: {head.address}; it ends after {idle_s / 60:.3g} min without a job, or "
            "by `orchestrator cluster stop`"
        )
        return head


def stop_head() -> bool:
    """Ends the local head and all its jobs; False where none was running.

    Raises:
        ClusterError: it does not end.
    """
    files = _Files()
    with _locked(files.starting):
        head = find_head()
        if head is None:
            return False
        _stop_jobs(head.address)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(head.pid, number)
            if _wait(lambda: not _is_held(files.lock), _STOP_LIMIT_S):
                return True
    raise ClusterError(f"the local head (process {head.pid}) does not end; end it by hand")


def find_log(submission_id: str) -> Path | None:
    """Returns the log of a job of a local head that may be gone."""
    found = _Files().temporary.glob(f"session_2*/logs/job-driver-{submission_id}.log")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _start(files: _Files, idle_s: float) -> Head:
    """Starts the keeper and waits until its head answers."""
    files.record.unlink(missing_ok=True)
    _make_temporary(files.temporary)
    with files.log.open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cluster.head", str(idle_s)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C at the terminal is not for it
        )
    _wait(lambda: files.record.exists() or keeper.poll() is not None, _START_LIMIT_S)
    head = find_head()
    if head is None:
        keeper.kill()
        raise ClusterError(
            f"the local Ray head did not start; {files.log} says why. Or name a cluster with "
            "RAY_ADDRESS"
        )
    return head


def _make_temporary(folder: Path) -> None:
    """Makes Ray's folder, for its owner alone: it holds logs, and `/tmp` is everybody's."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ClusterError(f"{folder} belongs to somebody else; remove it")
    folder.chmod(0o700)
    sessions = sorted(folder.glob("session_2*"), key=lambda path: path.stat().st_mtime)
    for old in sessions[:-_KEPT_SESSIONS]:
        shutil.rmtree(old, ignore_errors=True)


# --- the keeper ---------------------------------------------------------------------------------


def keep(idle_s: float) -> int:
    """Runs a head until it ends, is stopped or has been idle; returns the exit code."""
    files = _Files()
    lock = files.lock.open("a")
    if not _wait(lambda: _try_lock(lock), 5.0):
        return 1
    port, client_port = _free_ports(2)
    address = f"http://127.0.0.1:{port}"
    # It inherits the lock: should the keeper be killed, the head is still known and can be stopped.
    ray = subprocess.Popen(
        _start_command(files.temporary, port, client_port),
        stdin=subprocess.DEVNULL,
        pass_fds=[lock.fileno()],
        env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_JOB_STOP_WAIT_TIME_S": "20"},
    )
    signal.signal(signal.SIGTERM, lambda *_: ray.terminate())
    began = time.monotonic()
    while ray.poll() is None and ask(address) is None:
        if time.monotonic() - began > _START_LIMIT_S:
            ray.terminate()
        time.sleep(0.2)
    if ray.poll() is None:
        _write_record(files.record, Head(address, ray.pid))
        _end_when_idle(ray, address, idle_s)
    files.record.unlink(missing_ok=True)
    return ray.wait()


def _start_command(temporary: Path, port: int, client_port: int) -> list[str]:
    options = {
        "port": 0,
        "node-ip-address": "127.0.0.1",
        "include-dashboard": "true",
        "dashboard-host": "127.0.0.1",
        "dashboard-port": port,
        "dashboard-agent-listen-port": 0,
        "ray-client-server-port": client_port,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "object-store-memory": LOCAL_OBJECT_STORE_BYTES,
        "temp-dir": temporary,
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    return [*start, "--disable-usage-stats", *flags]


def _end_when_idle(ray: "subprocess.Popen[bytes]", address: str, idle_s: float) -> None:
    """Waits for the head's end; ends it where no job was seen for `idle_s`."""
    pause = min(idle_s / 4, 20.0)
    last_busy = time.monotonic()
    while ray.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            ray.wait(pause)
        jobs = ask(address)
        # A head too busy to answer is not idle.
        if jobs is None or _busy(jobs):
            last_busy = time.monotonic()
        if time.monotonic() - last_busy > idle_s:
            sys.stderr.write(f"idle for {idle_s:g} s: the head ends\n")
            ray.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                ray.wait(_STOP_LIMIT_S)
            ray.kill()


def ask(address: str) -> list[dict[str, Any]] | None:
    """Returns what a head's job endpoint lists, None where it does not answer as one does."""
    found = _request(f"{address}/api/jobs/", "GET")
    return found if isinstance(found, list) else None


def _stop_jobs(address: str) -> None:
    """Stops all jobs, so that each stores its state; Ray itself would wait for them in vain."""
    for found in _busy(ask(address)):
        _request(f"{address}/api/jobs/{found.get('submission_id')}/stop", "POST")
    _wait(lambda: not _busy(ask(address)), _STOP_LIMIT_S)


def _busy(jobs: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    return [job for job in jobs or [] if job.get("status") in ("PENDING", "RUNNING")]


def _request(url: str, method: str) -> Any:
    """Returns the answer of a head, JSON; None where there is none."""
    headers = {"Authorization": f"Bearer {load_token()}"}
    request = urllib.request.Request(url, headers=headers, method=method)
    # Straight to this machine: a proxy of the environment has no part in it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return json.load(answer)
    except (OSError, ValueError, http.client.HTTPException):
        return None


def _write_record(path: Path, head: Head) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(asdict(head), file)
    temporary.replace(path)


# --- locks, ports, waiting ------------------------------------------------------------------------


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_held(path: Path) -> bool:
    try:
        with path.open("a") as file:
            return not _try_lock(file)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except PermissionError as error:
        raise ClusterError(
            f"cannot use {error.filename}: {error.strerror}; set XDG_STATE_HOME to a folder of "
            "yours"
        ) from error


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [int(found.getsockname()[1]) for found in sockets]


def _wait(done: Callable[[], bool], seconds: float) -> bool:
    limit = time.monotonic() + seconds
    while not done():
        if time.monotonic() > limit:
            return False
        time.sleep(0.1)
    return True


if __name__ == "__main__":
    sys.exit(keep(float(sys.argv[1])))
