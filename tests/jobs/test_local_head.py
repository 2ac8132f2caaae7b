import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from orchestrator.errors import ClusterError
from orchestrator.jobs import local_head as module
from orchestrator.jobs.client import Jobs
from orchestrator.jobs.local_head import (
    LocalHeadFiles,
    ask,
    ensure_head,
    find_head,
    find_log,
    stop_head,
    try_lock,
)
from orchestrator.runs.machine import Machine, this_machine


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder of its own, whose head, if any, is ended."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield tmp_path / "orchestrator"
    stop_head()
    shutil.rmtree(LocalHeadFiles().temporary, ignore_errors=True)


def wait_for(done: Callable[[], bool], seconds: float = 90.0) -> None:
    limit = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < limit, "it does not come"
        time.sleep(0.2)


def test_without_a_head_there_is_nothing_to_find_or_to_stop(state: Path) -> None:
    assert find_head() is None
    assert stop_head() is False
    assert find_log("some-1") is None


def leave_record(machine: Machine, pid: int) -> LocalHeadFiles:
    """Writes what the head of a machine leaves, and returns this machine's files."""
    files = LocalHeadFiles()
    files.record.parent.mkdir(parents=True, exist_ok=True)
    body = {"address": "http://127.0.0.1:9", "pid": pid} | asdict(machine)
    files.record.write_text(json.dumps(body))
    files.lock.touch()
    return files


def test_a_record_without_a_living_head_is_not_believed(state: Path) -> None:
    leave_record(this_machine(), os.getpid())
    assert find_head() is None
    assert stop_head() is False  # and this process lives on


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of this machine that has the id of another machine's head."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("field", ["host", "boot_id"])
def test_a_head_of_another_machine_with_the_same_home_is_left_alone(
    state: Path, victim: "subprocess.Popen[bytes]", field: str
) -> None:
    other = replace(this_machine(), **{field: "another"})
    files = leave_record(other, victim.pid)
    with files.lock.open("a") as held:  # by that machine, as the shared file system shows
        assert try_lock(held)
        assert find_head() is None
        assert stop_head() is False
        with pytest.raises(ClusterError, match=f"another machine named {other.host} has its"):
            ensure_head(lambda line: None)
        assert victim.poll() is None
        leave_record(this_machine(), victim.pid)
        found = find_head()
        assert found is not None
        assert found.pid == victim.pid
        files.record.unlink()


def test_machines_that_share_a_home_have_heads_of_their_own(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = LocalHeadFiles()
    monkeypatch.setattr("socket.gethostname", lambda: "other-host")
    other = LocalHeadFiles()
    for name in ("record", "lock", "starting", "log"):
        assert getattr(mine, name) != getattr(other, name)
        assert getattr(mine, name).parent == getattr(other, name).parent


def test_a_head_that_does_not_start_is_one_clear_line(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(ClusterError, match=r"did not start; .*head-.*\.log says why"):
        ensure_head(lambda line: None)


def test_a_folder_of_somebody_else_is_not_used(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ClusterError, match="belongs to somebody else"):
        module._make_temporary(tmp_path / "link")


def test_what_does_not_answer_as_a_head_is_none() -> None:
    assert ask("http://127.0.0.1:9") is None


@pytest.mark.slow
def test_commands_that_start_at_once_share_one_head_and_it_ends_when_idle(state: Path) -> None:
    said: list[str] = []
    heads: list[object] = []
    starters = [
        threading.Thread(target=lambda: heads.append(ensure_head(said.append, idle_s=8)))
        for _ in range(3)
    ]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert len(heads) == 3
    assert len(set(heads)) == 1
    assert [line for line in said if "starting a local Ray head" in line] == said[:1]
    head = find_head()
    assert head is not None
    Jobs(head.address).submit("busy-1", "sleep 20", {})
    time.sleep(16)
    assert find_head() == head  # a job keeps it
    wait_for(lambda: find_head() is None)
    assert "the head ends" in LocalHeadFiles().log.read_text()
    assert find_log("busy-1") is not None  # its log stays


@pytest.mark.slow
def test_a_head_whose_keeper_was_killed_is_found_and_stopped(state: Path) -> None:
    head = ensure_head(lambda line: None)
    keeper = int(Path(f"/proc/{head.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(keeper, signal.SIGKILL)
    time.sleep(1)
    assert find_head() == head
    assert stop_head() is True
    assert find_head() is None
    wait_for(lambda: ask(head.address) is None)
    second = ensure_head(lambda line: None)
    assert second.pid != head.pid
