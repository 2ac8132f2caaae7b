"""Files that crash or hang their decoder, signals, and disks that are full or read-only."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.config.specs import Resources, ScoreSpec
from orchestrator.errors import ClusterError
from orchestrator.pipelines.score.score import score
from tests.conftest import Recorder
from tests.pipelines.command import DECODER, RAYLET, WORKER, start, under
from tests.processes import descendants, is_alive

pytestmark = pytest.mark.ray


def rows_of(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def copy_images(phantoms: Path, folder: Path, count: int) -> list[Path]:
    """Copies so many phantoms into a flat folder."""
    folder.mkdir()
    copies = []
    for path in sorted(phantoms.rglob("*.jpeg"))[:count]:
        copies.append(folder / path.name)
        copies[-1].write_bytes(path.read_bytes())
    return copies


def plant(folder: Path, good: Path) -> dict[str, str]:
    """Adds a file that crashes its decoder and one that hangs it; returns their codes."""
    (folder / "0-crash.jpeg").write_bytes(good.read_bytes() + b"CRASH!")
    (folder / "9-hang.jpeg").write_bytes(good.read_bytes() + b"HANG!!")
    return {"0-crash.jpeg": "decoder_crashed", "9-hang.jpeg": "decoder_hung"}


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not reached():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"it ended or stood still: {process.communicate()[1][-2000:]}")
        time.sleep(0.05)


def num_committed(run: Path) -> int:
    return len(list((run / "_shards").glob("part-*")))


@pytest.mark.slow
def test_files_that_crash_or_hang_cost_only_themselves(
    trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    copies = copy_images(phantoms, tmp_path / "in", 40)
    expected = plant(tmp_path / "in", copies[0])
    words = ["score", tmp_path / "in", "--model", trained.bundle, "--out", tmp_path / "run"]
    command = start(*words, "--shard-rows", 16, "--max-seconds", 1, "--json")
    output, said = command.communicate(timeout=250)
    assert command.returncode == 0, said
    counts = json.loads(output)["counts"]
    assert (counts["found"], counts["scored"], counts["rejected"]) == (42, 40, 2)
    rejected = rows_of(tmp_path / "run" / "rejected.parquet")
    assert {row["path"]: row["code"] for row in rejected} == expected
    scored = rows_of(tmp_path / "run" / "predictions")
    assert {row["path"] for row in scored} == {path.name for path in copies}


@pytest.mark.slow
@pytest.mark.parametrize("ending", [b"CRASH!", b"HANG!!"])
def test_with_usual_limits_such_a_file_is_rejected_in_time(
    phantoms: Path, tmp_path: Path, ending: bytes
) -> None:
    copies = copy_images(phantoms, tmp_path / "in", 20)
    (tmp_path / "in" / "bad.jpeg").write_bytes(copies[0].read_bytes() + ending)
    command = start("ingest", tmp_path / "in", tmp_path / "set", "--image-size", 64, "--json")
    wait_until(lambda: bool(under(command, WORKER)), command)
    began = time.monotonic()
    output, said = command.communicate(timeout=250)
    assert command.returncode == 0, said
    described = json.loads(output)
    assert (described["num_decoded"], described["num_rejected"]) == (20, 1)
    assert time.monotonic() - began < 75  # 60 s, and the start of the worker


@pytest.mark.usefixtures("in_process")  # its second half, which has no cluster to lose
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_stops_the_run_and_the_same_command_goes_on(
    trained: SimpleNamespace, phantoms: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    copy_images(phantoms, tmp_path / "in", 40)
    run = tmp_path / "run"
    words = ["score", tmp_path / "in", "--model", trained.bundle, "--out", run, "--shard-rows", 4]
    command = start(*words, decode_s=0.25)
    wait_until(lambda: num_committed(run) >= 2, command)
    family = descendants(command.pid)
    command.send_signal(number)
    _, said = command.communicate(timeout=100)
    assert command.returncode == status
    assert f"stopped; what is done is kept in {run}: --out {run} goes on" in said
    assert "Traceback" not in said
    stored = json.loads((run / "status.json").read_text())
    assert (stored["status"], stored["error"]) == ("STOPPED", "stopped by a signal")
    assert not (run / "_SUCCESS").exists()
    deadline = time.monotonic() + 60
    while any(map(is_alive, family)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [pid for pid in family if is_alive(pid)]
    kept = {path: path.stat().st_mtime_ns for path in (run / "_shards").iterdir()}
    assert 2 <= len(kept) < 10

    seen: list[bool] = []

    class Watcher(Recorder):
        def end(self) -> None:
            seen.extend(path.stat().st_mtime_ns == kept[path] for path in kept)

    spec = ScoreSpec(
        input=str(tmp_path / "in"), model=str(trained.bundle), out=str(run), shard_rows=4
    )
    score(spec, Resources(), Watcher())
    assert seen
    assert all(seen)
    assert len(rows_of(run / "predictions")) == 40


def test_a_signal_stops_a_run_without_a_cluster_and_its_decoders_at_once(
    trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    copy_images(phantoms, tmp_path / "in", 40)
    run = tmp_path / "run"
    words = ["score", tmp_path / "in", "--model", trained.bundle, "--out", run]
    command = start(*words, decode_s=0.5)
    wait_until(lambda: bool(under(command, DECODER)), command)
    decoders = under(command, DECODER)
    assert not under(command, RAYLET)
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=20)  # without the other images' ten seconds
    assert command.returncode == 130, said
    assert f"stopped; what is done is kept in {run}: --out {run} goes on" in said
    assert "Traceback" not in said
    assert not [pid for pid in decoders if is_alive(pid)]
    assert json.loads((run / "status.json").read_text())["status"] == "STOPPED"
    spec = ScoreSpec(input=str(tmp_path / "in"), model=str(trained.bundle), out=str(run))
    assert score(spec, Resources(), Recorder()).report["counts"]["scored"] == 40


@pytest.mark.slow
def test_a_lost_node_ends_the_run_and_the_same_command_goes_on(
    trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    copy_images(phantoms, tmp_path / "in", 160)
    run = tmp_path / "run"
    words = ["score", tmp_path / "in", "--model", trained.bundle, "--out", run, "--shard-rows", 4]
    command = start(*words, decode_s=1.0)
    wait_until(lambda: num_committed(run) >= 2, command)
    subprocess.run(["kill", "-9", *map(str, under(command, RAYLET))], check=True)
    _, said = command.communicate(timeout=200)
    assert command.returncode == 5, said
    assert "lost its last node" in said
    again = start(*words)
    assert again.wait(timeout=200) == 0
    assert len(rows_of(run / "predictions")) == 160


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 48 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)], capture_output=True
    )
    if made.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


@pytest.mark.usefixtures("in_process")
def test_a_full_disk_is_one_error_and_the_run_goes_on_with_space(
    trained: SimpleNamespace, phantoms: Path, small_disk: Path
) -> None:
    run = small_disk / "run"
    spec = ScoreSpec(input=str(phantoms), model=str(trained.bundle), out=str(run), shard_rows=20)
    with pytest.raises(ClusterError, match="No space left on device; free space or choose"):
        score(spec, Resources(), Recorder())
    assert not (run / "_SUCCESS").exists()
    assert all(not path.name.startswith("part-") or path.stat().st_size for path in run.rglob("*"))
    remount(small_disk, "size=16m")
    assert score(spec, Resources(), Recorder()).report["counts"]["scored"] == 160


def test_a_read_only_disk_is_one_error(
    trained: SimpleNamespace, phantoms: Path, small_disk: Path
) -> None:
    remount(small_disk, "ro")
    spec = ScoreSpec(input=str(phantoms), model=str(trained.bundle), out=str(small_disk / "run"))
    with pytest.raises(ClusterError, match="Read-only file system; free space or choose another"):
        score(spec, Resources(), Recorder())
