import re
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import SpecError
from tests.conftest import ROOT


def printed(*arguments: str) -> str:
    needed = ["--image", "registry/xray@sha256:0f", "--claim", "xray-data"]
    done = CliRunner().invoke(app, ["cluster", "kuberay", *needed, *arguments])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_manifest_is_a_ray_cluster_with_token_and_shared_storage() -> None:
    import ray

    manifest = yaml.safe_load(printed("--workers", "3", "--gpus", "2", "--mount", "/data"))
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayCluster")
    assert manifest["metadata"] == {"name": "xray"}
    spec = manifest["spec"]
    assert spec["rayVersion"] == ray.__version__
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"
    (workers,) = spec["workerGroupSpecs"]
    assert {workers[key] for key in ("replicas", "minReplicas", "maxReplicas")} == {3}
    for pod in pods(spec):
        (container,) = pod["containers"]
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
        assert not [e for e in container["env"] if e["name"] == "RAY_AUTH_TOKEN"]
        assert container["volumeMounts"] == [{"name": "xray", "mountPath": "/data"}]
        assert container["workingDir"] == "/data"
        assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "xray-data"}
    head, worker = (pod["containers"][0]["resources"] for pod in pods(spec))
    assert "nvidia.com/gpu" not in head["limits"]
    assert worker["limits"]["nvidia.com/gpu"] == "2"
    assert worker["limits"] == worker["requests"]


def test_rays_start_parameters_are_texts() -> None:
    spec = yaml.safe_load(printed())["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_no_gpu_is_asked_for_where_there_are_none() -> None:
    assert "nvidia.com/gpu" not in printed("--gpus", "0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "X ray"], "--name 'X ray' is not a valid Kubernetes name"),
        (["--name", "x" * 51], "at most 50"),
        (["--claim", "a\nb: c"], "--claim .* is not a valid Kubernetes name"),
        (["--memory", "lots"], "--memory 'lots' is not a quantity"),
        (["--memory", "32Gi\n"], "--memory .* is not a quantity"),
        (["--mount", "data"], "--mount 'data' is not an absolute path"),
        (["--mount", "/mnt/x\nkind: Secret"], r"--mount '/mnt/x\\nkind: Secret' is not an"),
        (["--mount", "/mnt/x\n"], "not an absolute path"),
        (["--mount", "/mnt/x\u2028y"], "not an absolute path"),
        (["--mount", "/mnt/../etc"], "not an absolute path"),
        (["--mount", "/mnt/x:y"], "not an absolute path"),
        (["--mount", "/"], "not an absolute path"),
        (["--image", "a b"], "--image 'a b' is not an image name"),
    ],
)
def test_what_kubernetes_would_refuse_is_an_error(arguments: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        printed(*arguments)


def test_the_image_names_its_base_by_its_sum() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    bases = [line for line in lines if line.startswith("FROM ")]
    assert len(bases) == 1
    assert re.fullmatch(r"FROM python:3\.11-slim@sha256:[0-9a-f]{64}", bases[0])
