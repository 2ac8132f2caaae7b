"""Local or remote Ray for the length of one command: connection and resources.

With `RAY_ADDRESS` set (or an address given) the command joins that cluster; otherwise it starts a
local one and ends it. `ORCHESTRATOR_CLUSTER` names the launcher file of the cluster, so that a job
may ask for nodes that are not up yet. Ray's own output goes to Ray's log
folder, never to the terminal.
"""

import contextlib
import functools
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.cluster.address import check_answers, find_address
from orchestrator.cluster.nodes import check_nodes
from orchestrator.cluster.token import ensure_private_token
from orchestrator.config.specs import Resources
from orchestrator.config.workers import Session, count_cpus, plan_workers
from orchestrator.errors import ClusterError
from orchestrator.launcher.file import Launcher, load_launcher

# Scoring and feature passes move file names and counts through Ray, not pixels.
LOCAL_OBJECT_STORE_BYTES = 256 * 2**20

# A socket's path has at most 107 bytes, and Ray's own part of it 68:
# `/ray/session_2026-01-31_02-00-00_123456_1234567/sockets/plasma_store`.
_MAX_FOLDER_BYTES = 107 - 68

# What the drivers of GPUs that Ray counts put there: NVIDIA's, that of Windows, AMD's and others'.
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/dri", "/dev/mxcd")


@contextlib.contextmanager
def open_session(
    resources: Resources,
    address: str | None = None,
    *,
    reads: Sequence[Path] = (),
    writes: Sequence[Path] = (),
) -> Iterator[Session]:
    """Connects to Ray, or starts a local one, and yields what the command may use.

    A Ray that this process is already connected to is used as it is and left running.

    Args:
        resources: what the job asks for.
        address: a cluster's address; `RAY_ADDRESS` otherwise, and a local Ray without either.
        reads: what workers read; every node of a cluster must see it.
        writes: folders that workers write to, present already.

    Yields:
        The session.

    Raises:
        ClusterError: the cluster does not answer, or a node has other code or other storage.
        SpecError: the request is more than the cluster can ever give.
    """
    import ray

    ours = not ray.is_initialized()
    address = find_address(address)
    if ours:
        connect(address)
    try:
        if address or len(node_resources()) > 1:
            check_nodes(reads, writes)
        yield plan_workers(resources, possible_nodes())
    finally:
        if ours:
            ray.shutdown()


def plan_this_process(resources: Resources) -> Session | None:
    """Returns this process as the one worker, with its CPUs; None where a cluster was asked for.

    Asked for is a cluster that `RAY_ADDRESS` or `ORCHESTRATOR_CLUSTER` names, or workers of some
    number or size, or GPUs.
    """
    sizes = (resources.workers, resources.cpus_per_worker)
    named = find_address() or os.environ.get("ORCHESTRATOR_CLUSTER")
    if sizes != (None, None) or resources.gpus_per_worker not in ("auto", 0) or named:
        return None
    alone = resources.model_copy(update={"workers": 1, "gpus_per_worker": 0.0})
    return plan_workers(alone, [{"CPU": float(count_cpus())}])


def possible_nodes() -> list[dict[str, float]]:
    """Returns the resources of all nodes that there can be, for the length of the command.

    An autoscaler starts its nodes only when work waits for them. Machines of one's own that are up
    count as they are, since they need not be what the launcher file says.
    """
    launcher = _find_launcher()
    declared = launcher.nodes() if launcher else None
    if launcher and declared and launcher.machines:
        return node_resources() + declared[-1:] * len(absent_machines())  # the head stands first
    return declared or node_resources()


def absent_machines() -> list[str]:
    """Returns the worker machines of the launcher file that are not in the connected cluster."""
    import ray

    launcher = _find_launcher()
    if launcher is None:
        return []
    present = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    return [name for name in launcher.machines if _look_up(name) not in present]


def declared_nodes() -> list[dict[str, float]] | None:
    """Returns the resources of the nodes that a cluster may grow to, None where none is declared.

    They are those of the launcher file that `ORCHESTRATOR_CLUSTER` names.
    """
    launcher = _find_launcher()
    return (launcher.nodes() or None) if launcher else None


def _find_launcher() -> Launcher | None:
    name = os.environ.get("ORCHESTRATOR_CLUSTER")
    return _load_launcher(Path(name)) if name else None


# A wait for machines asks every few seconds: the file and each name are read once.
_load_launcher = functools.cache(load_launcher)
_resolve = functools.cache(socket.gethostbyname)  # what fails is asked again


def _look_up(machine: str) -> str:
    """Returns the address of a machine, by which Ray knows it; its name where it is unknown."""
    try:
        return _resolve(machine)
    except OSError:
        return machine


def node_resources() -> list[dict[str, float]]:
    """Returns the resources of each live node of the connected cluster."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def query_nodes(address: str) -> list[dict[str, float]]:
    """Returns the resources of each live node of a cluster that is joined for this question alone.

    Raises:
        ClusterError: the cluster does not answer.
    """
    import ray

    ours = not ray.is_initialized()
    if ours:
        connect(address)
    try:
        return node_resources()
    finally:
        if ours:
            ray.shutdown()


def gives_gpus(resources: Resources) -> bool:
    """Returns whether the workers of a session to come will have GPUs; no Ray is started for it.

    Raises:
        ClusterError: the cluster does not answer.
    """
    if resources.gpus_per_worker != "auto":
        return resources.gpus_per_worker > 0
    address = find_address()
    nodes = declared_nodes()
    if nodes is None:
        nodes = query_nodes(address) if address else [{"GPU": float(count_gpus())}]
    return any(node.get("GPU", 0) >= 1 for node in nodes)


def count_gpus() -> int:
    """Returns how many GPUs a Ray that is started here counts."""
    if not any(Path(device).exists() for device in _GPU_DEVICES):
        return 0  # without Ray, which takes a second to import
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    found: int = manager.get_current_node_num_accelerators()
    visible = manager.get_current_process_visible_accelerator_ids()
    return found if visible is None else min(found, len(visible))


def connect(
    address: str | None,
    num_cpus: int | None = None,
    object_store_bytes: int = LOCAL_OBJECT_STORE_BYTES,
) -> None:
    """Joins a cluster, or starts a local one that ends with `ray.shutdown()`.

    Args:
        address: a cluster's address; None for a local one.
        num_cpus: CPUs that a local one counts; None for those that this process may use.
        object_store_bytes: memory of a local one's object store.

    Raises:
        SpecError: not an address that can be joined.
        ClusterError: the cluster does not answer, or none could be started.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        folder = _temporary_folder()
        ensure_private_token()
        options |= {
            "address": "local",
            "num_cpus": num_cpus or count_cpus(),
            "include_dashboard": False,
            "object_store_memory": object_store_bytes,
            "_temp_dir": str(folder / "ray"),
        }
    else:
        check_answers(address)
        options["address"] = address
    import ray

    # Ray prints messages about its workers to standard output even with `log_to_driver` off, and
    # has no public switch for it; they would break `--json` and the progress bar.
    ray._private.worker._worker_logs_enabled = False
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises that very class where a process of it does not start
        what = f"join the Ray cluster at {address}" if address else "start a local Ray"
        advice = (
            "check RAY_ADDRESS and the token, or unset RAY_ADDRESS to run on this machine"
            if address
            else f"its logs are in {folder / 'ray'}/session_latest/logs"
        )
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClusterError(f"cannot {what}: {reason}; {advice}") from error
    finally:
        # Ray sets a handler of its own, which exits with status 15 instead of 143.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)


def _temporary_folder() -> Path:
    """Returns the folder in which a local Ray keeps its logs and sockets.

    Raises:
        ClusterError: the folder that the environment names cannot be written to, or its path is too
            long for a socket.
    """
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    folder = Path(os.environ[name] if name else "/tmp").absolute()
    shown = f"{name}={folder}" if name else str(folder)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ClusterError(
            f"{shown} cannot hold the files of a local Ray ({error.strerror}); set TMPDIR to a "
            "folder that can be written to"
        ) from error
    length = len(os.fsencode(folder))
    if length > _MAX_FOLDER_BYTES:
        raise ClusterError(
            f"{shown} has {length} bytes, and the sockets of a local Ray need a folder of at most "
            f"{_MAX_FOLDER_BYTES}; set {name or 'TMPDIR'} to a shorter path, such as /tmp"
        )
    return folder
