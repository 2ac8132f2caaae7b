"""The cluster as a manifest for Kubernetes, for teams that run the KubeRay operator.

The operator makes the token and hands it to every container; the manifest holds no secret.
"""

import importlib.metadata
import re
from dataclasses import dataclass
from typing import Any

import yaml

from orchestrator.errors import SpecError

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?")  # KubeRay appends to it
_QUANTITY = re.compile(r"[1-9][0-9]*(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?")
_MOUNT = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)+/?")  # neither `..` nor what YAML would read
_HEAD = {"cpu": "2", "memory": "8Gi"}


@dataclass(frozen=True)
class KubeCluster:
    """What a team says of its cluster.

    Args:
        name: of the RayCluster.
        image: container image with this package, best by its digest.
        workers: worker pods.
        cpus: CPUs of each.
        gpus: GPUs of each.
        memory: of each, as Kubernetes writes it, such as 32Gi.
        claim: persistent volume claim of the shared storage, ReadWriteMany.
        mount: where it is mounted in every pod; jobs run there.
    """

    name: str
    image: str
    workers: int
    cpus: int
    gpus: int
    memory: str
    claim: str
    mount: str


def render_manifest(cluster: KubeCluster) -> str:
    """Returns the manifest of a RayCluster, YAML, to be given to `kubectl apply`.

    Raises:
        SpecError: a name or a quantity that Kubernetes would refuse.
    """
    for flag, text in (("--name", cluster.name), ("--claim", cluster.claim)):
        if not _NAME.fullmatch(text):
            raise SpecError(
                f"{flag} {text!r} is not a valid Kubernetes name; write at most 50 "
                "lowercase letters, digits and dashes, a letter first"
            )
    if not _QUANTITY.fullmatch(cluster.memory):
        raise SpecError(f"--memory {cluster.memory!r} is not a quantity; write it like 32Gi")
    if not _MOUNT.fullmatch(cluster.mount):
        raise SpecError(
            f"--mount {cluster.mount!r} is not an absolute path of letters, digits, '.', '_' and "
            "'-'; write it like /mnt/xray"
        )
    if not re.fullmatch(r"\S+", cluster.image):
        raise SpecError(
            f"--image {cluster.image!r} is not an image name; write it like registry/xray:1"
        )
    worker = {"cpu": str(cluster.cpus), "memory": cluster.memory}
    if cluster.gpus:
        worker["nvidia.com/gpu"] = str(cluster.gpus)
    manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": cluster.name},
        "spec": {
            "rayVersion": importlib.metadata.version("ray"),
            "authOptions": {"mode": "token"},
            "headGroupSpec": {
                "serviceType": "ClusterIP",
                # The head runs no shards: it has to answer. Port-forwarding reaches localhost.
                "rayStartParams": {"num-cpus": "0", "dashboard-host": "127.0.0.1"},
                "template": {"spec": _pod(cluster, "ray-head", _HEAD)},
            },
            "workerGroupSpecs": [
                {
                    "groupName": "workers",
                    "replicas": cluster.workers,
                    "minReplicas": cluster.workers,
                    "maxReplicas": cluster.workers,
                    "rayStartParams": {},
                    "template": {"spec": _pod(cluster, "ray-worker", worker)},
                }
            ],
        },
    }
    return _explained(cluster) + yaml.safe_dump(manifest, sort_keys=False)


def _pod(cluster: KubeCluster, name: str, resources: dict[str, str]) -> dict[str, Any]:
    return {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": name,
                "image": cluster.image,
                "workingDir": cluster.mount,
                # With an operator that knows no authOptions, Ray then refuses to start: better
                # than an open port.
                "env": [
                    {"name": "RAY_AUTH_MODE", "value": "token"},
                    {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
                ],
                "resources": {"requests": dict(resources), "limits": dict(resources)},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "xray", "mountPath": cluster.mount}],
            }
        ],
        "volumes": [{"name": "xray", "persistentVolumeClaim": {"claimName": cluster.claim}}],
    }


def _explained(cluster: KubeCluster) -> str:
    secret = "jsonpath='{.data.auth_token}'"
    return f"""\
# For the KubeRay operator, 1.5.1 or newer, which makes the token. Then:
#   kubectl apply -f FILE
#   kubectl get secret {cluster.name} -o {secret} | base64 -d > ~/.ray/auth_token  (mode 0600)
#   kubectl port-forward service/{cluster.name}-head-svc 8265
#   RAY_ADDRESS=http://127.0.0.1:8265 orchestrator submit {cluster.mount}/jobs/score-nightly.yaml
"""
