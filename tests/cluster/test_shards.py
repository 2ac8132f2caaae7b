import os
import signal
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from ray import cloudpickle

from orchestrator.cluster.shards import run_shards
from orchestrator.config.workers import Session
from orchestrator.data.shard_files import part_path, read_part
from orchestrator.errors import ClusterError, DataError

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


def run(stage: object, out: Path, shards: range = range(5)) -> list[int]:
    told: list[int] = []
    run_shards(lambda: stage, shards, out, SESSION, told.append)
    return told


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


def test_a_shard_whose_worker_dies_is_computed_by_another(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    assert sorted(run(DiesOnce(marks), tmp_path / "out")) == [1, 2, 3, 4, 5]
    assert len(list(marks.glob("2-*"))) == 2


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
