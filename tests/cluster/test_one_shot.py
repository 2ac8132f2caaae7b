import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle

from orchestrator.cluster import one_shot
from orchestrator.config.workers import Session
from orchestrator.errors import ClusterError, DataError
from tests.conftest import Recorder

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def run_calls(function: Any, calls: list[tuple[object, ...]]) -> list[Any]:
    session = Session(num_workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0)
    return one_shot.run_calls(
        function, calls, task="squaring", session=session, reporter=Recorder()
    )


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def refuse() -> None:
    raise DataError("received x; expected y; do z")


def break_down() -> None:
    raise ZeroDivisionError("no number")


def call_beside(number: int) -> int:
    """Waits for a call beside this one, which has every CPU."""
    collect = one_shot.start_calls(
        square, [(number,)], task="squaring", session=None, reporter=Recorder()
    )
    return collect()[0][0]


def die_once(mark: Path) -> str:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def test_each_call_has_a_process_of_its_own_which_ends_with_it() -> None:
    found = run_calls(square, [(2,), (3,), (4,)])
    assert [value for value, _ in found] == [4, 9, 16]
    assert len({pid for _, pid in found}) == 3


def test_an_error_of_a_call_arrives_as_it_was() -> None:
    with pytest.raises(DataError) as caught:
        run_calls(refuse, [()])
    assert type(caught.value) is DataError
    assert str(caught.value) == "received x; expected y; do z"


def test_a_fault_of_a_call_names_the_task_and_what_to_do() -> None:
    message = "squaring failed: ZeroDivisionError: no number; run the same command again"
    with pytest.raises(ClusterError, match=message):
        run_calls(break_down, [()])


def test_a_call_whose_process_dies_is_made_again(tmp_path: Path) -> None:
    assert run_calls(die_once, [(tmp_path / "mark",)]) == ["done"]


def test_a_call_without_a_place_runs_beside_what_has_every_cpu() -> None:
    cpus = ray.cluster_resources()["CPU"]
    session = Session(num_workers=1, cpus_per_worker=cpus, gpus_per_worker=0.0)
    found = one_shot.run_calls(
        call_beside, [(5,)], task="squaring", session=session, reporter=Recorder()
    )
    assert found == [25]


def test_a_call_without_a_place_keeps_off_a_head_that_does_no_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, head, gone = "a" * 56, "b" * 56, "c" * 56
    nodes = [
        {"NodeID": worker, "Alive": True, "Resources": {"CPU": 4.0}},
        {"NodeID": gone, "Alive": False, "Resources": {"CPU": 4.0}},
        {"NodeID": head, "Alive": True, "Resources": {"memory": 1e9}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert one_shot._beside_work().node_id == worker
