"""What is wrong with the machines of a launcher file: kinds, counts, resources, jobs to hold.

Ray hands the insides of a node type on unread, so that a misspelt resource is one more resource,
which no job ever asks for.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from orchestrator.config.load import load_job
from orchestrator.config.workers import plan_workers
from orchestrator.errors import SpecError
from orchestrator.launcher.file import PROVIDERS, Finding, Launcher, unknown_keys, whole

_LOCAL_KEYS = ("type", "head_ip", "worker_ips", "coordinator_address", "use_internal_ips")
_RESOURCES = ("CPU", "GPU", "TPU", "memory", "object_store_memory")
_METADATA = ("shared_storage", "head", "worker")
# Arguments of EC2's RunInstances, which a node_config is handed to.
_EC2_KEYS = frozenset(
    [
        "BlockDeviceMappings",
        "CapacityReservationSpecification",
        "CpuOptions",
        "CreditSpecification",
        "DisableApiStop",
        "DisableApiTermination",
        "EbsOptimized",
        "EnclaveOptions",
        "HibernationOptions",
        "IamInstanceProfile",
        "ImageId",
        "InstanceInitiatedShutdownBehavior",
        "InstanceMarketOptions",
        "InstanceType",
        "Ipv6AddressCount",
        "Ipv6Addresses",
        "KernelId",
        "KeyName",
        "LaunchTemplate",
        "LicenseSpecifications",
        "MaintenanceOptions",
        "MetadataOptions",
        "Monitoring",
        "NetworkInterfaces",
        "Placement",
        "PrivateDnsNameOptions",
        "PrivateIpAddress",
        "RamdiskId",
        "SecurityGroupIds",
        "SecurityGroups",
        "SubnetId",
        "SubnetIds",
        "TagSpecifications",
        "UserData",
    ]
)


def _provider(launcher: Launcher) -> Iterator[Finding]:
    provider = launcher.section("provider")
    if launcher.provider not in PROVIDERS:
        yield Finding(
            "provider.type",
            f"{launcher.provider!r} is no provider of Ray",
            f"write one of {', '.join(PROVIDERS)}",
        )
    if launcher.provider != "local":
        return
    unknown = sorted(set(provider) - set(_LOCAL_KEYS))
    if unknown:
        yield unknown_keys("provider", unknown, _LOCAL_KEYS)
    for name in ("available_node_types", "head_node_type"):
        if launcher.given.get(name):
            yield Finding(
                name,
                "not taken for machines of one's own",
                "remove it and say under metadata.worker what a machine has",
            )
    if "coordinator_address" in provider:
        return
    head, workers = provider.get("head_ip"), provider.get("worker_ips")
    if not head or not isinstance(workers, list) or not workers:
        yield Finding(
            "provider", "head_ip or worker_ips is missing", "name the head and at least one worker"
        )
        return
    twice = sorted({str(ip) for ip in [head, *workers] if [head, *workers].count(ip) > 1})
    if twice:
        yield Finding("provider", f"{', '.join(twice)} stands twice", "name each machine once")


def _sizes(launcher: Launcher) -> Iterator[Finding]:
    """Counts of machines that contradict each other."""
    limit = whole(launcher.config.get("max_workers"), 0)
    if launcher.provider == "local":
        machines = launcher.section("provider").get("worker_ips")
        num = len(machines) if isinstance(machines, list) else 0
        limit = whole(launcher.config.get("max_workers"), num)
        if limit < num:
            yield Finding(
                "max_workers",
                f"{limit} of the {num} machines in worker_ips would join",
                "leave max_workers out",
            )
        if whole(launcher.config.get("min_workers"), 0) > limit:
            yield Finding("min_workers", f"over max_workers {limit}", "leave both out")
        return
    least = 0
    for name, body in _types(launcher):
        low, high = whole(body.get("min_workers"), 0), whole(body.get("max_workers"), limit)
        least += low
        if low > high:
            yield Finding(
                f"available_node_types.{name}",
                f"min_workers {low} is over max_workers {high}",
                "lower one or raise the other",
            )
    if least > limit:
        yield Finding(
            "max_workers",
            f"{limit}, under the sum {least} of all min_workers",
            f"write at least {least}",
        )


def _types(launcher: Launcher) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, body in launcher.section("available_node_types").items():
        if isinstance(body, dict):
            yield str(name), body


def _node_types(launcher: Launcher) -> Iterator[Finding]:
    """Names inside node types, which Ray hands on unread."""
    types = dict(_types(launcher))
    if launcher.provider == "local":
        types = {}
    elif launcher.head not in types:
        yield Finding(
            "head_node_type",
            f"{launcher.config.get('head_node_type')!r} is none of available_node_types",
            f"write one of {', '.join(types) or '(there are none)'}",
        )
    for name, body in types.items():
        where = f"available_node_types.{name}"
        yield from _resource_names(f"{where}.resources", body.get("resources"))
        config = body.get("node_config")
        if launcher.provider != "aws" or not isinstance(config, dict):
            continue
        unknown = sorted(set(map(str, config)) - set(_EC2_KEYS))
        if unknown:
            yield unknown_keys(f"{where}.node_config", unknown, _EC2_KEYS)
        kind = str(config.get("InstanceType", ""))
        resources = body.get("resources")
        gpus = resources.get("GPU") if isinstance(resources, dict) else None
        if not kind:
            yield Finding(f"{where}.node_config", "no InstanceType", "name one, such as g5.4xlarge")
        elif gpus and not re.match(r"(g\d|p\d)", kind):
            yield Finding(
                f"{where}.resources", f"GPU {gpus}, but {kind} has none", "name a g or p type"
            )


def _metadata(launcher: Launcher) -> Iterator[Finding]:
    metadata = launcher.section("metadata")
    unknown = sorted(set(map(str, metadata)) - set(_METADATA))
    if unknown:
        yield unknown_keys("metadata", unknown, _METADATA)
    for name in ("head", "worker"):
        yield from _resource_names(f"metadata.{name}", metadata.get(name))


def _resource_names(where: str, resources: Any) -> Iterator[Finding]:
    """Resources that no job will ever ask for, since they are misspelt."""
    for name in map(str, resources if isinstance(resources, dict) else {}):
        if name in _RESOURCES:
            continue
        folded = {known.lower(): known for known in _RESOURCES}
        near = get_close_matches(name.lower(), folded, 1, 0.7)
        if near:
            yield Finding(where, f"unknown resource {name}", f"write {folded[near[0]]}")


def _devices(launcher: Launcher) -> Iterator[Finding]:
    """Set-up that does not go with the devices of the workers."""
    commands = launcher.setup_commands()
    for kind in launcher.node_types():
        text = " ".join(commands.get(kind.name, []))
        if kind.name == launcher.head or kind.resources is None:
            continue
        where = f"setup_commands ({kind.name})"
        if not kind.resources.get("GPU"):
            if re.search(r"\bnvidia-smi\b", text):
                yield Finding(
                    where,
                    "nvidia-smi, which fails on every machine: they are said to have no GPU",
                    "remove it, or write their GPUs where their CPUs stand",
                )
        elif re.search(r"(?<![\w-])requirements\.lock\b", text):
            yield Finding(
                where,
                "requirements.lock has no CUDA libraries, so the GPUs would not be used",
                "install from requirements-cluster.lock",
            )


def check_jobs(launcher: Launcher, folder: Path | None) -> Iterator[Finding]:
    """Jobs that the cluster could never run."""
    if folder is None:
        return
    nodes = launcher.nodes()
    if nodes is None:
        key = "metadata.worker" if launcher.provider == "local" else "available_node_types"
        yield Finding(
            key,
            "does not say what a worker has, so jobs cannot be held against it",
            "write its resources, such as {CPU: 16, GPU: 1}",
        )
        return
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml")):
        try:
            plan_workers(load_job(path).resources, nodes)
        except SpecError as error:
            yield Finding(
                str(path), str(error), "or add machines to the cluster, or GPUs to its workers"
            )


MACHINE_CHECKS = (_provider, _sizes, _node_types, _metadata, _devices)
