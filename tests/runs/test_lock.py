"""One process at a time in a folder, whoever else tries, dies or lives on another machine."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from orchestrator.config.specs import Resources, ScoreSpec
from orchestrator.errors import ClusterError, LockedError
from orchestrator.runs import lock
from orchestrator.runs.atomic import atomic_folder, write_text
from orchestrator.runs.life_cycle import open_run
from orchestrator.runs.lock import Owner, find_owner, hold
from orchestrator.runs.machine import Process, this_process
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.wait import Wait
from tests.conftest import ROOT, Recorder

HOLD = """
import sys
from pathlib import Path
from orchestrator.runs.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a folder until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def plant(folder: Path, process: Process, number: int = 1) -> Path:
    """The lock of a process, as that process would have left it."""
    file = folder / "_lock" / f"{number:06d}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(Owner(process, "other", "2026-01-31T02:00:00+00:00"))))
    return file


def refusal(folder: Path, wait: Wait | None = None) -> str:
    """What a command is told that finds a folder held."""
    with pytest.raises(ClusterError) as caught, hold(folder, wait):
        pass
    assert caught.value.exit_code == 5
    return str(caught.value)


def elsewhere(**fields: str) -> Process:
    here = this_process()
    return replace(here, machine=replace(here.machine, **fields))


def test_a_folder_is_held_by_one_and_clean_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with hold(tmp_path):
            assert f"held by process {os.getpid()} on " in refusal(tmp_path)
            assert find_owner(tmp_path) is not None
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), hold(tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_says_who_holds_the_folder_and_since_when(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        (file,) = (tmp_path / "_lock").glob("*.json")
        since = json.loads(file.read_text())["since"]
        host = this_process().machine.host
        assert refusal(tmp_path) == (
            f"{tmp_path} is held by process {process.pid} on {host}, since {since}; wait until it "
            "has ended, or add --wait-for-lock"
        )
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet buried
        with hold(tmp_path):
            assert find_owner(tmp_path).process == this_process()  # type: ignore[union-attr]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("process", "gone"),
    [
        (elsewhere(boot_id="another start"), True),
        (replace(this_process(), started="1"), True),
        (replace(this_process(), pid=2**22 + 1), True),
        (replace(this_process(), pid=os.getppid(), started=""), False),
        (this_process(), True),  # of an earlier holding that could not remove its file
        (elsewhere(host="node-b"), False),
        (elsewhere(host="node-b", boot_id="another"), False),
        (replace(this_process(), namespace="pid:[1]", pid=2**22 + 1), False),
    ],
)
def test_only_who_is_gone_for_certain_is_replaced(
    process: Process, gone: bool, tmp_path: Path
) -> None:
    file = plant(tmp_path, process)
    if gone:
        assert find_owner(tmp_path) is None
        with hold(tmp_path):
            assert max(path.name for path in file.parent.iterdir()) == "000002.json"
        assert list(tmp_path.iterdir()) == []
        return
    assert "since 2026-01-31T02:00:00" in refusal(tmp_path)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_of_another_machine_a_person_is_told_which_file_to_remove(tmp_path: Path) -> None:
    file = plant(tmp_path, elsewhere(host="node-b"))
    said = refusal(tmp_path)
    assert said.endswith(f", or remove {file} if that process is gone for good")
    assert "on node-b" in said
    file.unlink()
    with hold(tmp_path):
        pass


def test_a_record_that_cannot_be_read_counts_as_held(tmp_path: Path) -> None:
    plant(tmp_path, this_process()).write_text("{")
    said = refusal(tmp_path)
    assert "held by an unknown process; wait" in said
    assert "or remove" in said


def test_a_number_that_another_has_taken_anew_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner let go and ended, and another one took the folder, since the first look."""
    plant(tmp_path, replace(this_process(), pid=2**22 + 1))
    judge = Owner.is_gone

    def judge_late(owner: Owner) -> bool:
        gone = judge(owner)
        if gone:
            plant(tmp_path, elsewhere(host="node-b"))
        return gone

    monkeypatch.setattr(Owner, "is_gone", judge_late)
    assert "on node-b" in refusal(tmp_path)
    assert [path.name for path in (tmp_path / "_lock").iterdir()] == ["000001.json"]


def test_a_lock_folder_that_goes_while_it_is_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last owner lets go between the answer that it is there and a look at it."""
    make, calls = os.mkdir, []

    def make_late(path: Path, *mode: int) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        make(path, *mode)

    monkeypatch.setattr(os, "mkdir", make_late)
    with hold(tmp_path):
        assert len(calls) == 2
    (tmp_path / "_lock").touch()
    assert "cannot lock" in refusal(tmp_path)


def attempt(
    folder: Path, start: threading.Barrier, done: threading.Barrier, outcomes: list[str]
) -> None:
    start.wait()
    try:
        with hold(folder):
            outcomes.append("held")
            done.wait()
    except LockedError:
        outcomes.append("refused")
        done.wait()


@pytest.mark.parametrize("dead", [False, True])
def test_of_many_that_try_at_once_one_holds(dead: bool, tmp_path: Path) -> None:
    for round_ in range(20):
        folder = tmp_path / str(round_)
        if dead:
            plant(folder, replace(this_process(), started="1"), number=7)
        start, done = threading.Barrier(8), threading.Barrier(8)
        outcomes: list[str] = []
        several = (folder, start, done, outcomes)
        threads = [threading.Thread(target=attempt, args=several) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["held"] + ["refused"] * 7
        assert list(folder.iterdir()) == []


def test_who_has_lost_a_folder_writes_nothing_more(tmp_path: Path) -> None:
    table = tmp_path / "run" / "deep" / "table"
    with hold(tmp_path / "run"):
        write_text(table, "first")
        refusal(tmp_path / "run")  # another try within this process changes nothing
        plant(tmp_path / "run", elsewhere(host="node-b"), number=2)
        with pytest.raises(LockedError, match=r"no longer held .*process .* on node-b, since"):
            write_text(table, "second")
        with pytest.raises(LockedError), atomic_folder(table.parent / "folder"):
            pass
        write_text(tmp_path / "elsewhere", "still allowed")
    assert sorted(path.name for path in table.parent.iterdir()) == ["table"]
    assert table.read_text() == "first"
    assert find_owner(tmp_path / "run") is not None  # another's lock is left alone


def test_without_hard_links_a_file_is_made_by_its_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with hold(tmp_path), pytest.raises(LockedError, match=f"process {os.getpid()}"), hold(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert ": Not a directory; free space or choose another" in refusal(tmp_path / "file" / "run")


def test_a_wait_tells_who_is_waited_for_and_gets_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(lock, "_LOOK_S", 0.01)
    monkeypatch.setattr("orchestrator.runs.wait._SAY_EVERY_S", 0.02)
    with holder(tmp_path) as process:

        def hear(line: str) -> None:
            said.append(line)
            process.kill()

        with hold(tmp_path, Wait(60, hear)):
            assert find_owner(tmp_path).process == this_process()  # type: ignore[union-attr]
        assert said[0].startswith(f"waiting for {tmp_path}, which is held by process {process.pid}")


def test_a_wait_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_LOOK_S", 0.01)
    plant(tmp_path, elsewhere(host="node-b"))
    said = refusal(tmp_path, Wait(0.05, print))
    assert said.startswith(f"waited 0 s for {tmp_path}, which is held by process ")
    assert said.endswith("; run the same command again later, or allow more with --max-wait")


def test_a_run_that_another_process_holds_is_neither_touched_nor_to_be_resumed(
    tmp_path: Path,
) -> None:
    spec, folder = ScoreSpec(input=("x",), overwrite=True), tmp_path / "run"
    with pytest.raises(ClusterError), open_run("score", folder, spec, Resources()):
        raise ClusterError("later")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with holder(folder):
        with pytest.raises(LockedError) as caught, open_run("score", folder, spec, Resources()):
            raise AssertionError
        assert not getattr(caught.value, "__notes__", [])
        assert "resume" not in str(caught.value)
        kept = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        assert kept == before


def test_a_run_that_is_lost_on_the_way_is_neither_finished_nor_to_be_resumed(
    tmp_path: Path,
) -> None:
    spec, run = ScoreSpec(input=("x",)), RunDir(tmp_path / "run")
    with pytest.raises(LockedError) as caught, open_run("score", run.path, spec, Resources()):
        plant(run.path, elsewhere(host="node-b"), number=2)
    assert not getattr(caught.value, "__notes__", [])
    assert run.load_status()["status"] == "RUNNING"
    assert not run.success.exists()


def test_that_a_command_waits_is_asked_for_anew_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_LOOK_S", 0.01)
    monkeypatch.setattr("orchestrator.runs.wait._SAY_EVERY_S", 0.02)
    spec, run, recorder = ScoreSpec(input=("x",)), RunDir(tmp_path / "run"), Recorder()
    with holder(run.path) as process:
        threading.Timer(0.1, process.kill).start()
        resources = Resources(wait_for_lock=True)
        with open_run("score", run.path, spec, resources, reporter=recorder):
            assert "wait_for_lock: false" in run.spec.read_text()
    assert recorder.lines[0].startswith("waiting for ")


def test_a_run_keeps_its_id_until_it_is_replaced(tmp_path: Path) -> None:
    spec, run = ScoreSpec(input=("x",)), RunDir(tmp_path)
    uuids = []
    for _ in range(2):
        with pytest.raises(ClusterError), open_run("score", run.path, spec, Resources()):
            uuids.append(run.load_uuid())
            raise ClusterError("later")
    again = spec.model_copy(update={"overwrite": True, "seed": 1})
    with open_run("score", run.path, again, Resources()):
        uuids.append(run.load_uuid())
    assert uuids[0] == uuids[1] != uuids[2]
    assert len(uuids[0]) == 32
