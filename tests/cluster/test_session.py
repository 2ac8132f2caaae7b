import json
from pathlib import Path

import pytest
import yaml

from orchestrator.cluster.session import open_session
from orchestrator.config.specs import Resources
from orchestrator.config.workers import Session, plan_workers
from orchestrator.errors import SpecError
from tests.conftest import ROOT


def test_one_worker_takes_a_small_machine_whole() -> None:
    assert plan_workers(Resources(), [{"CPU": 2.0}]) == Session(1, 2.0, 0.0)


def test_a_large_machine_is_shared_by_workers_of_at_most_eight_cpus() -> None:
    assert plan_workers(Resources(), [{"CPU": 20.0}]) == Session(3, 6.0, 0.0)


def test_workers_asked_for_share_the_cpus() -> None:
    assert plan_workers(Resources(workers=2), [{"CPU": 2.0}]) == Session(2, 1.0, 0.0)
    assert plan_workers(Resources(workers=4), [{"CPU": 8.0}, {"CPU": 8.0}]) == Session(4, 4.0, 0.0)


def test_gpus_auto_is_one_where_there_are_any() -> None:
    nodes = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0}]
    assert plan_workers(Resources(), nodes) == Session(2, 8.0, 1.0)


def test_gpus_auto_is_none_elsewhere() -> None:
    assert plan_workers(Resources(gpus_per_worker="auto"), [{"CPU": 4.0}]).gpus_per_worker == 0


@pytest.mark.parametrize(
    ("resources", "nodes", "message"),
    [
        (Resources(gpus_per_worker=1), [{"CPU": 4.0}], "asked for 1 GPU per worker"),
        (Resources(cpus_per_worker=8), [{"CPU": 4.0}], r"1 worker\(s\) of 8 CPU .* hold 0"),
        (Resources(workers=3), [{"CPU": 2.0}], r"3 worker\(s\) of 1 CPU .* hold 2"),
        (Resources(workers=3, cpus_per_worker=2), [{"CPU": 4.0}], "hold 2: lower --workers"),
    ],
)
def test_what_the_cluster_can_never_give_is_an_error_at_once(
    resources: Resources, nodes: list[dict[str, float]], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        plan_workers(resources, nodes)


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
    with open_session(asked) as session:
        assert session == Session(4, 8.0, 1.0)
