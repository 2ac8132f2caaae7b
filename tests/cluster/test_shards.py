import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from ray import cloudpickle

from orchestrator.cluster import room, shards
from orchestrator.cluster.shards import run_shards
from orchestrator.config.workers import Session
from orchestrator.data.shard_files import check_parts, has_part, part_path, read_part, write_part
from orchestrator.data.shards import shard_limit_s
from orchestrator.errors import ClusterError, DataError
from tests.conftest import Recorder

# The workers cannot import this module, so its stages travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
SESSION = Session(num_workers=2, cpus_per_worker=1.0, gpus_per_worker=0.0)


class Square:
    """Squares the shard's number in one row more than that, and leaves a mark at each call."""

    def __init__(self, marks: Path) -> None:
        self.marks = marks

    def __call__(self, shard: int) -> pa.Table:
        (self.marks / f"{shard}-{time.time_ns()}").touch()
        return pa.table({"value": [shard * shard] * (shard + 1)})


class DiesOnce(Square):
    """Kills its process the first time it meets shard 2."""

    def __call__(self, shard: int) -> pa.Table:
        first = not list(self.marks.glob("2-*"))
        table = super().__call__(shard)
        if shard == 2 and first:
            os.kill(os.getpid(), signal.SIGKILL)
        return table


class Hangs(Square):
    """Does not come to an end with shard 2, the first time or ever."""

    def __init__(self, marks: Path, *, once: bool) -> None:
        super().__init__(marks)
        self.once = once

    def __call__(self, shard: int) -> pa.Table:
        first = not list(self.marks.glob("2-*"))
        table = super().__call__(shard)
        if shard == 2 and (first or not self.once):
            time.sleep(600)
        return table


class Leaves(Square):
    """Writes who computes; the worker of shard 0 gets SIGTERM meanwhile."""

    def __call__(self, shard: int) -> pa.Table:
        if shard == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        (self.marks / f"by-{os.getpid()}-{shard}").touch()
        return super().__call__(shard)


class AlwaysDies:
    def __call__(self, shard: int) -> pa.Table:
        os.kill(os.getpid(), signal.SIGKILL)
        raise SystemExit


class Refuses:
    def __call__(self, shard: int) -> pa.Table:
        raise DataError("received x; expected y; do z")


class Breaks:
    def __call__(self, shard: int) -> pa.Table:
        raise ZeroDivisionError("secret")


class Told(Recorder):
    """Keeps each advance by itself."""

    def advance(self, count: int) -> None:
        self.counts.append(count)


def run(
    stage: object, out: Path, numbers: range = range(5), session: Session = SESSION
) -> list[int]:
    told = Told()
    run_shards(lambda: stage, numbers, out, "this run", session, told, shard_limit_s(9, 64))
    return told.counts


@contextmanager
def occupied() -> Iterator[None]:
    """Another's process on every CPU of the cluster."""
    import ray

    class Other:
        def ready(self) -> None: ...

    other = ray.remote(Other).options(num_cpus=2).remote()
    ray.get(other.ready.remote())
    yield
    ray.kill(other)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks often, and a minute is half a second."""
    for module in (room, shards):
        monkeypatch.setattr(module, "LOOK_S", 0.2)
    monkeypatch.setattr("orchestrator.runs.wait._SAY_EVERY_S", 0.5)
    monkeypatch.setattr(shards, "SILENT_S", 0.5)


def test_every_shard_is_computed_once_and_told_once(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    assert sorted(run(Square(marks), tmp_path / "out")) == [1, 2, 3, 4, 5]
    assert sorted(m.name.split("-")[0] for m in marks.iterdir()) == list("01234")
    values = [read_part(part_path(tmp_path / "out", s))["value"][0].as_py() for s in range(5)]
    assert values == [0, 1, 4, 9, 16]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        f"part-{s:05d}.arrow" for s in range(5)
    ]


def test_committed_shards_are_told_first_and_not_computed_again(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    run(Square(marks), tmp_path / "out")
    part_path(tmp_path / "out", 3).unlink()
    assert run(Square(marks), tmp_path / "out") == [1, 2, 3, 5, 4]
    assert len(list(marks.glob("3-*"))) == 2
    assert len(list(marks.iterdir())) == 6


def test_a_file_of_another_run_is_computed_anew(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for shard, owner in enumerate(("this run", "another", "")):
        write_part(part_path(out, shard), pa.table({"value": [-1]}), owner)
    with pytest.raises(ClusterError, match=r"part-00001.arrow is not of this run: another writer"):
        check_parts(out, 3, "this run")
    (tmp_path / "marks").mkdir()
    assert sorted(run(Square(tmp_path / "marks"), out, range(3))) == [1, 2, 3]
    values = [read_part(part_path(out, shard))["value"][0].as_py() for shard in range(3)]
    assert values == [-1, 1, 4]
    check_parts(out, 3, "this run")
    with pytest.raises(ClusterError, match=r"part-00003.arrow is not"):
        check_parts(out, 4, "this run")
    write_part(part_path(out, 4), pa.table({"value": [1]}))  # before files named their run
    assert has_part(part_path(out, 4), "")


@pytest.mark.usefixtures("impatient")
def test_a_shard_that_takes_too_long_is_given_to_another_worker(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    session = replace(SESSION, shard_timeout_s=3.0)
    assert sorted(run(Hangs(marks, once=True), tmp_path / "out", session=session)) == [
        1,
        2,
        3,
        4,
        5,
    ]
    assert len(list(marks.glob("2-*"))) >= 2  # a busy machine may be late once more


@pytest.mark.usefixtures("impatient")
def test_a_shard_that_always_takes_too_long_ends_the_run(tmp_path: Path) -> None:
    session = replace(SESSION, num_workers=1, shard_timeout_s=1.5)
    message = (
        r"shard 2 ran into its time limit 3 times \(2 s\);.* allow more with --shard-timeout, and"
    )
    told, stage, out = Told(), Hangs(tmp_path, once=False), tmp_path / "out"
    with pytest.raises(ClusterError, match=message):
        run_shards(lambda: stage, [2], out, "this run", session, told, 60.0)
    slow = [line for line in told.lines if not line.startswith("waiting for room")]
    assert slow == ["waiting for shard 2, which is given 2 s: 1 s so far"] * len(slow) != []


@pytest.mark.usefixtures("impatient")
def test_a_pool_says_that_it_waits_for_room_and_gives_up(tmp_path: Path) -> None:
    told, session = Told(), replace(SESSION, max_wait_s=1.5)
    with occupied(), pytest.raises(ClusterError) as caught:
        run_shards(lambda: Square(tmp_path), [0], tmp_path, "this run", session, told, 60.0)
    room_for = "room in the cluster for a worker of 1 CPU"
    assert str(caught.value).startswith(f"waited 2 s for {room_for}; run the same command again")
    assert told.lines[0].startswith(f"waiting for {room_for}: ")
    assert len(told.lines) == 2


@pytest.mark.usefixtures("impatient")
def test_a_single_wait_for_room_ends_with_it_or_gives_up() -> None:
    said: list[str] = []
    with occupied(), pytest.raises(ClusterError, match="waited 1 s for room in the cluster for a"):
        room.await_room(replace(SESSION, max_wait_s=1.0), 1, said.append)
    assert said
    room.await_room(SESSION, 2, said.append)
    with pytest.raises(ClusterError, match="has lost its last node that could hold a worker"):
        room.await_room(replace(SESSION, cpus_per_worker=99.0), 1, said.append)


def test_a_shard_whose_worker_dies_is_computed_by_another(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    assert sorted(run(DiesOnce(marks), tmp_path / "out")) == [1, 2, 3, 4, 5]
    assert len(list(marks.glob("2-*"))) == 2


@pytest.mark.usefixtures("impatient")
def test_a_pool_grows_and_a_worker_that_got_sigterm_leaves_after_its_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    monkeypatch.setattr(shards, "possible_nodes", lambda: [{"CPU": 2.0}])  # one CPU was planned
    session = replace(SESSION, num_workers=1, max_workers=2)
    numbers = range(40)
    assert sorted(run(Leaves(marks), tmp_path / "out", numbers, session)) == [
        n + 1 for n in numbers
    ]
    assert len([m for m in marks.iterdir() if m.name[0] != "b"]) == len(numbers)  # each once
    by = [name.name.split("-")[1:] for name in marks.glob("by-*")]
    (first,) = (pid for pid, shard in by if shard == "0")
    assert [shard for pid, shard in by if pid == first] == ["0"]
    assert len({pid for pid, _ in by}) == 3  # it, the one in its place and the one that joined


@pytest.mark.usefixtures("impatient")
def test_a_worker_whose_node_is_drained_is_replaced_after_its_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    marks = tmp_path / "marks"
    marks.mkdir()
    answers = iter([{"another"}, {ray.get_runtime_context().get_node_id()}])
    monkeypatch.setattr(shards, "draining_nodes", lambda: next(answers, set()))
    session = replace(SESSION, num_workers=1)
    stage = Leaves(marks)
    assert run(stage, tmp_path / "out", range(1, 5), session) == [2, 3, 4, 5]
    by = sorted(name.name.split("-")[::-1][:2] for name in marks.glob("by-*"))
    pids = [pid for _, pid in by]
    assert pids[0] != pids[1] == pids[2] == pids[3]
    assert len([m for m in marks.iterdir() if m.name[0] != "b"]) == 4


def test_a_worker_that_always_dies_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"died 3 times.*run the same command again"):
        run(AlwaysDies(), tmp_path / "out", range(1))


def test_an_error_of_the_stage_arrives_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        run(Refuses(), tmp_path / "out")
    assert type(caught.value) is DataError
    assert str(caught.value) == "received x; expected y; do z"


def test_a_fault_of_the_stage_names_its_kind_alone(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="ZeroDivisionError") as caught:
        run(Breaks(), tmp_path / "out")
    assert "secret" not in str(caught.value)
