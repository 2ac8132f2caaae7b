"""The local head: a Ray of one machine that outlives the command which needed it.

Without a cluster, `orchestrator submit` and the scheduler start one for themselves. A keeper
process watches over it and ends it after an idle time. Both the keeper and `ray start` hold a lock
for as long as they live, so a process id that was reused is never taken for the head's. Files and
record name the machine: a home folder may be shared by several, each with a head of its own.

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
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from orchestrator.cluster.token import ensure_token, load_token
from orchestrator.errors import ClusterError
from orchestrator.runs.machine import Machine, this_machine
from orchestrator.runs.state import state_folder

IDLE_S = 1800.0
START_LIMIT_S = 180.0
STOP_LIMIT_S = 40.0
_KEPT_SESSIONS = 5  # folders of Ray's logs


@dataclass(frozen=True)
class LocalHead:
    """A local head that has answered.

    Args:
        address: of its dashboard and job endpoints, `http://127.0.0.1:PORT`.
        pid: of `ray start`; to be trusted only while the lock is held.
    """

    address: str
    pid: int


class LocalHeadFiles:
    """The head's files of this user on this machine."""

    def __init__(self) -> None:
        state = state_folder()
        self.machine = this_machine()
        name = f"head-{self.machine.host}"
        self.record = state / f"{name}.json"
        self.lock = state / f"{name}.lock"  # held by whoever lives
        self.starting = state / f"{name}-start.lock"  # one starter at a time
        self.log = state / f"{name}.log"
        # Ray's sockets lie in it, and their paths must be short; so not in the state folder.
        mark = hashlib.sha256(str(state).encode()).hexdigest()[:8]
        self.temporary = Path("/tmp") / f"orchestrator-{os.getuid()}-{mark}"


def find_head() -> LocalHead | None:
    """Returns the local head, None where none is running on this machine."""
    found = _load_record(LocalHeadFiles())
    return found[0] if found and found[1] == this_machine() else None


def _load_record(files: LocalHeadFiles) -> tuple[LocalHead, Machine] | None:
    """Returns the head that holds the lock and its machine; None where none does, or not yet."""
    if not _is_held(files.lock):
        return None
    try:
        found = json.loads(files.record.read_text())
        head = LocalHead(str(found["address"]), int(found["pid"]))
        return head, Machine(str(found["host"]), str(found["boot_id"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a keeper is starting and its head has not answered yet


def ensure_head(say: Callable[[str], None], idle_s: float = IDLE_S) -> LocalHead:
    """Returns the local head, started where none is running.

    Args:
        say: told where one is started.
        idle_s: a new one ends after so long without a job, s.

    Raises:
        ClusterError: it does not start.
    """
    files = LocalHeadFiles()
    with _locked(files.starting):
        found = _load_record(files)
        if found is not None and found[1] != files.machine:
            raise ClusterError(
                f"another machine named {found[1].host} has its local head in {files.lock.parent}; "
                "set XDG_STATE_HOME to a folder of this machine"
            )
        if found is not None:
            return found[0]
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
    files = LocalHeadFiles()
    with _locked(files.starting):
        head = find_head()
        if head is None:
            return False
        _stop_jobs(head.address)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(head.pid, number)
            if wait_until(lambda: not _is_held(files.lock), STOP_LIMIT_S):
                return True
    raise ClusterError(f"the local head (process {head.pid}) did not stop; stop it by hand")


def find_log(submission_id: str) -> Path | None:
    """Returns the log of a job of a local head that may be gone."""
    found = LocalHeadFiles().temporary.glob(f"session_2*/logs/job-driver-{submission_id}.log")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _start(files: LocalHeadFiles, idle_s: float) -> LocalHead:
    """Starts the keeper and waits until its head answers."""
    files.record.unlink(missing_ok=True)
    _make_temporary(files.temporary)
    with files.log.open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.jobs.local_head_supervisor", str(idle_s)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C at the terminal is not for it
        )
    wait_until(lambda: files.record.exists() or keeper.poll() is not None, START_LIMIT_S)
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


# --- asking it ----------------------------------------------------------------------------------


def ask(address: str) -> list[dict[str, Any]] | None:
    """Returns what a head's job endpoint lists, None where it does not answer as one does."""
    found = _request(f"{address}/api/jobs/", "GET")
    return found if isinstance(found, list) else None


def _stop_jobs(address: str) -> None:
    """Stops all jobs, so that each stores its state; Ray itself would wait for them in vain."""
    for found in find_busy(ask(address)):
        _request(f"{address}/api/jobs/{found.get('submission_id')}/stop", "POST")
    wait_until(lambda: not find_busy(ask(address)), STOP_LIMIT_S)


def find_busy(jobs: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Returns the jobs that have not ended."""
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


# --- locks, waiting -------------------------------------------------------------------------------


def try_lock(file: IO[str]) -> bool:
    """Takes a lock that nobody holds; it is held until the file is closed in every process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_held(path: Path) -> bool:
    try:
        with path.open("a") as file:
            return not try_lock(file)
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise _not_ours(error) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except PermissionError as error:
        raise _not_ours(error) from error


def _not_ours(error: PermissionError) -> ClusterError:
    return ClusterError(
        f"cannot use {error.filename}: {error.strerror}; set XDG_STATE_HOME to a folder of yours"
    )


def wait_until(done: Callable[[], bool], seconds: float) -> bool:
    """Waits for a condition; False where it does not come in time."""
    limit = time.monotonic() + seconds
    while not done():
        if time.monotonic() > limit:
            return False
        time.sleep(0.1)
    return True
