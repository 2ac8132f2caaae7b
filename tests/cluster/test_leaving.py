"""Groups of training workers, one after the other; what Ray does is put in by hand."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.train.v2.api.exceptions import PreemptionError, WorkerGroupError
from ray.train.v2.api.preemption import PreemptionInfo

from orchestrator.cluster import leaving, ray_train
from orchestrator.cluster.leaving import GroupNotice, give_back
from orchestrator.cluster.ray_train import run_training
from orchestrator.cluster.worker_context import Leave
from orchestrator.config.workers import Session
from orchestrator.errors import ClusterError, DataError

SESSION = Session(2, 1.0, 0.0, min_workers=1, max_workers=4)
INFO = PreemptionInfo(None, {"node": [0]})


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Any, list[str]]]:
    """Returns how to run a training whose groups end in given ways, each in so much room."""

    def run(*ends: tuple[int, Any]) -> tuple[Any, list[str]]:
        rooms, results = [room for room, _ in ends], [end for _, end in ends]
        said: list[str] = []
        given_back: list[str] = []

        def await_room(session: Session, fewest: int, say: Any, most: int) -> int:
            assert (session, fewest, most) == (SESSION, 1, 4)
            return rooms.pop(0)

        def fit() -> Any:
            if isinstance(result := results.pop(0), Exception) and not isinstance(result, Leave):
                raise result
            return SimpleNamespace(return_value=result)

        monkeypatch.setattr(ray_train, "give_back", given_back.append)
        monkeypatch.setattr(ray_train, "await_room", await_room)
        monkeypatch.setattr(ray_train, "build_trainer", lambda *_: SimpleNamespace(fit=fit))
        found = run_training(
            lambda: None, (), tmp_path, SESSION.group, SESSION, lambda: None, said.append
        )
        assert not results
        assert len(set(given_back)) == len(ends)
        return found, said

    return run


def died() -> WorkerGroupError:
    return WorkerGroupError("a worker died", {0: RuntimeError("signal 9")})


def test_a_group_that_left_is_followed_by_one_of_as_many_as_find_room(
    train: Callable[..., tuple[Any, list[str]]],
) -> None:
    lost = PreemptionError(INFO, True)
    gone = RayActorError(preempted=True)  # its node was taken without a notice
    taken = WorkerGroupError("", {0: gone})
    ends = [(2, Leave()), (3, died()), *[(1, lost), (1, taken)] * 4, (4, {"auroc": 1})]
    found, said = train(*ends)
    assert found == {"auroc": 1}
    assert said[:2] == ["going on with 3 training workers", "going on with 1 training worker"]
    assert said[-1] == "going on with 4 training workers"


def test_a_group_that_fails_four_times_ends_the_training(
    train: Callable[..., tuple[Any, list[str]]],
) -> None:
    with pytest.raises(ClusterError, match="training failed in a worker: a worker died; run the"):
        train(*[(2, died())] * 4)
    with pytest.raises(DataError, match="do z"):
        train((2, WorkerGroupError("", {1: DataError("received x; expected y; do z")})))


@pytest.mark.usefixtures("ray_cluster")
def test_places_that_a_group_has_asked_for_end_with_it_and_not_before() -> None:
    from ray.util import placement_group_table

    def states() -> set[str]:
        found = placement_group_table().values()
        return {each["state"] for each in found if each["name"].startswith("some group-")}

    GroupNotice(2, {"CPU": 1000.0}, "some group")
    assert states() == {"PENDING"}
    give_back("some group")
    assert states() == {"REMOVED"}


def test_a_worker_leaves_when_its_node_does_or_its_group_can_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, float]] = []
    placed: list[Any] = []
    draining: set[str] = set()
    now = [100.0]
    placements = sys.modules["ray.util.placement_group"]  # a function hides it

    def place(sizes: list[dict[str, float]], name: str) -> int:
        assert name.startswith("group-")
        asked.extend(sizes)
        return len(asked)

    monkeypatch.setattr(placements, "placement_group", place)
    monkeypatch.setattr(leaving, "is_placed", lambda place: place in placed)
    monkeypatch.setattr(leaving, "draining_nodes", lambda: draining)
    monkeypatch.setattr(leaving, "_own_node", lambda: "ours")
    monkeypatch.setattr(leaving, "time", SimpleNamespace(monotonic=lambda: now[0]))
    first = GroupNotice(2, {"CPU": 1.0}, "group")
    other = GroupNotice(0, {"CPU": 1.0}, "group")
    assert asked == [{"CPU": 1.0}] * 2
    placed.append(2)
    assert not first()  # a group that has just begun is left alone
    now[0] += 30
    assert first()
    placed.clear()
    now[0] += 5
    draining.add("theirs")
    assert not first()
    assert not other()
    draining.add("ours")
    assert not other()  # it looks every few seconds
    now[0] += 5
    assert first()
    assert other()
    draining.clear()
    leaving._terminated.set()
    try:
        assert other()
    finally:
        leaving._terminated.clear()


@pytest.mark.usefixtures("ray_cluster")
def test_a_node_of_the_cluster_is_known_by_the_name_that_a_drain_has() -> None:
    import ray

    assert leaving._own_node() in {node["NodeID"] for node in ray.nodes()}
    assert leaving._own_node() not in leaving.draining_nodes()
