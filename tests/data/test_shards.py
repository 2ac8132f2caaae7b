import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from orchestrator.config.workers import Session
from orchestrator.data import shards
from orchestrator.data.shard_files import has_part, part_path, read_part, write_part
from orchestrator.data.shards import Stage, run_shards_here, shard_limit_s
from orchestrator.errors import ClusterError, DataError
from orchestrator.runs import wait as waits
from tests.conftest import Recorder

SESSION = Session(num_workers=1, cpus_per_worker=2.0, gpus_per_worker=0.0)


class Square:
    """Squares the shard's number in one row more than that, and notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int | None]] = []
        self.num_closed = 0
        self.ended = threading.Event()

    def expect(self, following: int | None) -> None:
        self.following = following

    def __call__(self, shard: int) -> pa.Table:
        self.asked.append((shard, self.following))
        return pa.table({"value": [shard * shard] * (shard + 1)})

    def close(self) -> None:
        self.num_closed += 1
        self.ended.set()


class Stalls(Square):
    """Waits for work that ends when it is closed."""

    def __call__(self, shard: int) -> pa.Table:
        self.ended.wait(30)
        raise InterruptedError


class Slow(Square):
    def __call__(self, shard: int) -> pa.Table:
        time.sleep(1)
        return super().__call__(shard)


class Refuses(Square):
    def __call__(self, shard: int) -> pa.Table:
        raise DataError("received x; expected y; do z")


class Breaks(Square):
    def __call__(self, shard: int) -> pa.Table:
        raise ZeroDivisionError("secret")


def run(
    make_stage: Callable[[], Stage],
    out: Path,
    session: Session = SESSION,
    numbers: range = range(3),
) -> Recorder:
    told = Recorder()
    told.begin("", 0, "")
    run_shards_here(make_stage, numbers, out, "this run", session, told, shard_limit_s(9, 64))
    return told


def test_missing_shards_are_computed_by_one_stage_that_is_closed(tmp_path: Path) -> None:
    stage = Square()
    write_part(part_path(tmp_path, 0), pa.table({"value": [-1]}), "this run")
    write_part(part_path(tmp_path, 1), pa.table({"value": [-1]}), "another")
    assert run(lambda: stage, tmp_path).counts == [1 + 2 + 3]
    assert stage.asked == [(1, 2), (2, None)]
    assert stage.num_closed == 1
    values = [read_part(part_path(tmp_path, shard))["value"][0].as_py() for shard in range(3)]
    assert values == [-1, 1, 4]
    assert all(has_part(part_path(tmp_path, shard), "this run") for shard in range(3))


def test_nothing_is_built_where_nothing_is_missing(tmp_path: Path) -> None:
    run(Square, tmp_path)
    assert run(lambda: pytest.fail("built"), tmp_path).counts == [6]


def test_an_error_of_the_stage_arrives_as_it_was_and_closes_it(tmp_path: Path) -> None:
    stage = Refuses()
    with pytest.raises(DataError) as caught:
        run(lambda: stage, tmp_path)
    assert str(caught.value) == "received x; expected y; do z"
    assert caught.value.__cause__ is None  # not itself: a circle
    assert stage.num_closed == 1


def test_a_fault_of_the_stage_or_of_its_making_names_its_kind_alone(tmp_path: Path) -> None:
    for make in (Breaks, lambda: 1 / 0):
        with pytest.raises(ClusterError, match="shard 0 failed with ZeroDivisionError; ") as caught:
            run(make, tmp_path)  # type: ignore[arg-type]
        assert "secret" not in str(caught.value)


def test_a_shard_that_takes_too_long_ends_the_run_and_its_stage(tmp_path: Path) -> None:
    stage = Stalls()
    message = r"shard 0 ran into its time limit \(0 s\); .* allow more with --shard-timeout, and"
    began = time.monotonic()
    with pytest.raises(ClusterError, match=message):
        run(lambda: stage, tmp_path, replace(SESSION, shard_timeout_s=0.1))
    assert stage.num_closed == 1
    assert not list(tmp_path.iterdir())
    assert time.monotonic() - began < shards._END_S


def test_a_shard_that_takes_long_is_spoken_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, seconds in (
        (shards, "SILENT_S", 0.1),
        (shards, "_LOOK_S", 0.05),
        (waits, "_SAY_EVERY_S", 0.1),
    ):
        monkeypatch.setattr(module, name, seconds)
    told = run(Slow, tmp_path, replace(SESSION, shard_timeout_s=60.0), range(1))
    assert told.lines[0].startswith("waiting for shard 0, which is given 60 s: ")


def test_a_signal_ends_the_stage_even_while_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Square()

    def make() -> Square:
        time.sleep(0.2)  # as a network that is compiled
        return stage

    def interrupted(futures: list[object], limit_s: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(make, tmp_path)
    assert stage.num_closed == 1


def test_the_time_limit_of_a_shard_is_generous() -> None:
    assert shard_limit_s(256, 150) > 3600  # of some 5 s
    assert shard_limit_s(256, 456) > 100 * 256 / 5.7
    assert shard_limit_s(4 * 256, 456) > 100 * 4 * 256 / 5.7
