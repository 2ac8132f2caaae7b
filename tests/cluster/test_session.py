import json
import os
import re
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from orchestrator.cluster import session as sessions
from orchestrator.cluster.room import check_room, describe_room
from orchestrator.cluster.session import (
    absent_machines,
    connect,
    count_gpus,
    gives_gpus,
    node_resources,
    open_session,
    plan_this_process,
    possible_nodes,
)
from orchestrator.config.specs import Resources
from orchestrator.config.worker_counts import MAX_WORKERS
from orchestrator.config.workers import Session, plan_workers
from orchestrator.errors import ClusterError, SpecError
from tests.conftest import ROOT
from tests.processes import descendants, is_alive, title


def test_one_worker_takes_a_small_machine_whole() -> None:
    assert plan_workers(Resources(), [{"CPU": 2.0}]) == Session(
        1, 2.0, 0.0, max_workers=MAX_WORKERS
    )


def test_a_large_machine_is_shared_by_workers_of_at_most_eight_cpus() -> None:
    assert plan_workers(Resources(), [{"CPU": 20.0}]) == Session(
        3, 6.0, 0.0, max_workers=MAX_WORKERS
    )


def test_workers_asked_for_share_the_cpus() -> None:
    assert plan_workers(Resources(workers=2), [{"CPU": 2.0}]) == Session(2, 1.0, 0.0)
    assert plan_workers(Resources(workers=4), [{"CPU": 8.0}, {"CPU": 8.0}]) == Session(4, 4.0, 0.0)


def test_gpus_auto_is_one_where_there_are_any() -> None:
    nodes = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0}]
    assert plan_workers(Resources(), nodes) == Session(2, 8.0, 1.0, max_workers=MAX_WORKERS)


def test_gpus_auto_is_none_elsewhere() -> None:
    assert plan_workers(Resources(gpus_per_worker="auto"), [{"CPU": 4.0}]).gpus_per_worker == 0


@pytest.mark.parametrize(
    ("resources", "nodes", "message"),
    [
        (Resources(gpus_per_worker=1), [{"CPU": 4.0}], "asked for 1 GPU per worker"),
        (Resources(cpus_per_worker=8), [{"CPU": 4.0}], "1 worker of 8 CPU .* hold 0"),
        (Resources(workers=3), [{"CPU": 2.0}], "3 workers of 1 CPU .* hold 2"),
        (Resources(workers=3, cpus_per_worker=2), [{"CPU": 4.0}], "hold 2: lower --workers"),
        (Resources(cpus_per_worker=1e-320), [{"CPU": 4.0}], "--cpus-per-worker .* less than 0.000"),
        (Resources(gpus_per_worker=1e-320), [{"CPU": 4.0, "GPU": 1}], "--gpus-per-worker .* less"),
    ],
)
def test_what_the_cluster_can_never_give_is_an_error_at_once(
    resources: Resources, nodes: list[dict[str, float]], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        plan_workers(resources, nodes)


def test_this_process_is_enough_unless_a_cluster_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("RAY_ADDRESS", "ORCHESTRATOR_CLUSTER")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sessions, "count_cpus", lambda: 24)
    limits = {"shard_timeout": timedelta(seconds=9), "max_wait": timedelta(seconds=8)}
    plain = Resources(**limits)
    assert plan_this_process(plain) == Session(1, 24.0, 0.0, 8.0, 9.0)
    assert plan_this_process(plain.model_copy(update={"gpus_per_worker": 0})) is not None
    for asked in ({"workers": 1}, {"cpus_per_worker": 2.0}, {"gpus_per_worker": 1.0}):
        assert plan_this_process(Resources(**asked)) is None
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert plan_this_process(plain) is not None
    for name in names:
        monkeypatch.setenv(name, "somewhere")
        assert plan_this_process(plain) is None
        monkeypatch.delenv(name)


@pytest.mark.ray
def test_a_job_may_ask_for_nodes_that_the_autoscaler_has_yet_to_start(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.autoscaler._private.util import prepare_config

    prepared = prepare_config(yaml.safe_load((ROOT / "deploy" / "cluster-aws.yaml").read_text()))
    launcher = tmp_path / "ray_bootstrap_config.yaml"
    launcher.write_text(json.dumps(prepared))  # as Ray leaves it on the head
    asked = Resources(workers=4, cpus_per_worker=8, gpus_per_worker="auto")
    with pytest.raises(SpecError, match="hold 0"), open_session(asked):
        pass
    monkeypatch.setenv("ORCHESTRATOR_CLUSTER", str(launcher))
    assert gives_gpus(Resources())
    with open_session(asked) as session:
        assert session == Session(4, 8.0, 1.0)


def declare(folder: Path, monkeypatch: pytest.MonkeyPatch, *workers: str) -> None:
    """Names a launcher file of machines of one's own, as Ray leaves it on the head."""
    from ray.autoscaler._private.util import prepare_config

    given = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    given["provider"]["worker_ips"] = list(workers)
    launcher = folder / "ray_bootstrap_config.yaml"
    launcher.write_text(json.dumps(prepare_config(given)))
    monkeypatch.setenv("ORCHESTRATOR_CLUSTER", str(launcher))


def show(monkeypatch: pytest.MonkeyPatch, *live: tuple[str, dict[str, float]]) -> None:
    """Has Ray tell of these live nodes."""
    import ray

    nodes = [{"NodeManagerAddress": a, "Alive": True, "Resources": has} for a, has in live]
    nodes.append({"NodeManagerAddress": "10.1.2.12", "Alive": False, "Resources": {}})
    monkeypatch.setattr(ray, "nodes", lambda: nodes)


def test_a_job_waits_for_machines_that_have_not_joined_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, up = ("192.0.2.10", {"memory": 1.0}), ("10.1.2.11", {"CPU": 2.0})
    declare(tmp_path, monkeypatch, "10.1.2.11", "10.1.2.12")
    show(monkeypatch, head)  # right after `ray up`
    assert possible_nodes() == [head[1], *[{"CPU": 16.0, "GPU": 2.0}] * 2]
    session = Session(1, 8.0, 1.0)
    check_room(session)
    yet = r"a worker of 8 CPU and 1 GPU \(yet to join: 10.1.2.11, 10.1.2.12\)"
    assert re.fullmatch(f"room in the cluster for {yet}", describe_room(session))
    (tmp_path / "ray_bootstrap_config.yaml").unlink()  # a wait of hours reads it once
    # What is up counts as it is, whatever the file says of it.
    show(monkeypatch, head, up)
    assert possible_nodes() == [head[1], up[1], {"CPU": 16.0, "GPU": 2.0}]
    assert "(yet to join: 10.1.2.12)" in describe_room(session)
    show(monkeypatch, head, up, ("10.1.2.12", {"CPU": 2.0}))
    assert possible_nodes() == [head[1], up[1], up[1]]
    assert "join" not in describe_room(session)
    with pytest.raises(ClusterError, match="lost its last node that could hold a worker"):
        check_room(session)


def test_machines_are_known_by_their_names_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(tmp_path, monkeypatch, "localhost", "nowhere.invalid")
    show(monkeypatch, ("127.0.0.1", {"CPU": 2.0}))
    assert absent_machines() == ["nowhere.invalid"]
    asked = sessions._resolve.cache_info().misses
    assert absent_machines() == ["nowhere.invalid"]
    assert sessions._resolve.cache_info().misses == asked + 1  # what was not found


def test_whether_workers_get_gpus_is_known_before_a_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RAY_ADDRESS", "ORCHESTRATOR_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    assert gives_gpus(Resources(gpus_per_worker=0.5))
    assert not gives_gpus(Resources(gpus_per_worker=0))
    for found in (0, 2):
        monkeypatch.setattr(sessions, "count_gpus", lambda found=found: found)
        assert gives_gpus(Resources()) == bool(found)
    nodes = {"head:6379": [{"CPU": 4.0}, {"CPU": 4.0, "GPU": 1.0}], "other:6379": [{"CPU": 4.0}]}
    monkeypatch.setattr(sessions, "query_nodes", nodes.__getitem__)
    for address, expected in (("head:6379", True), ("other:6379", False)):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert gives_gpus(Resources()) == expected


@pytest.mark.ray
def test_gpus_are_counted_as_ray_counts_them(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert count_gpus() == node_resources()[0].get("GPU", 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert count_gpus() == 0


def test_limits_of_waits_come_from_the_request() -> None:
    asked = Resources(shard_timeout="3h", max_wait="10m")  # type: ignore[arg-type]
    session = plan_workers(asked, [{"CPU": 2.0}])
    assert (session.shard_timeout_s, session.max_wait_s) == (10800.0, 600.0)
    plain = Session(1, 1.0, 0.0, max_workers=MAX_WORKERS)
    assert plain == plan_workers(Resources(), [{"CPU": 1.0}])


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TMPDIR": "{}/" + "long" * 20}, r"TMPDIR=/.*long has \d+ bytes, .* at most 39"),
        ({"TMPDIR": "{}/missing"}, r"TMPDIR=/.*/missing cannot hold .*No such file.*set TMPDIR"),
        ({"TMPDIR": "/proc"}, "TMPDIR=/proc cannot hold the files of a local Ray"),
        ({"RAY_TMPDIR": "/proc", "TMPDIR": "/tmp"}, "RAY_TMPDIR=/proc cannot hold"),
    ],
)
def test_a_temporary_folder_that_ray_cannot_use_is_named(
    variables: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ("long" * 20)).mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    with pytest.raises(ClusterError, match=message):
        connect(None)


@pytest.mark.ray
def test_a_private_ray_needs_no_home_counts_its_own_cpu_and_ends_with_a_killed_command(
    tmp_path: Path,
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "PYTHONPATH": str(ROOT),
        "HOME": "/proc/nowhere",
        "TMPDIR": "",
        "RAY_ADDRESS": "",
    }
    one_cpu = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    command = subprocess.Popen(
        [*one_cpu, sys.executable, "-m", "tests.cluster.private_ray"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert command.stdout is not None
    found = json.loads(command.stdout.readline())
    assert (found["cpus"], found["each"]) == (1.0, 1.0)
    assert found["folder"].startswith("/tmp/ray/session_")
    assert not list(tmp_path.iterdir())
    # Without two idle agents of Ray's, which wait a minute for its store where that ended first; a
    # command that ends by itself, or by a signal that it can hear, waits for them.
    family = [pid for pid in descendants(command.pid) if not re.match(r"ray::\w+Agent", title(pid))]
    assert len(family) > 3
    command.kill()
    command.wait()
    killed = time.monotonic()
    while any(map(is_alive, family)) and time.monotonic() - killed < 10:
        time.sleep(0.1)
    assert [pid for pid in family if is_alive(pid)] == []
