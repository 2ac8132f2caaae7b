"""Local or remote Ray for the length of one command: connection, resources, authentication.

With `RAY_ADDRESS` set (or an address given) the command joins that cluster; otherwise it starts a
local one and ends it. `ORCHESTRATOR_CLUSTER` names the launcher file of a cluster that grows with
its work, so that a job may ask for nodes that are not up yet. Ray's own output goes to Ray's log
folder, never to the terminal.
"""

import contextlib
import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.cluster.nodes import check_nodes
from orchestrator.config.specs import Resources
from orchestrator.config.workers import (
    Session,
    plan_workers,
)
from orchestrator.errors import ClusterError
from orchestrator.launcher.file import load_launcher

# Scoring and feature passes move file names and counts through Ray, not pixels.
LOCAL_OBJECT_STORE_BYTES = 256 * 2**20


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
    address = address or os.environ.get("RAY_ADDRESS")
    if ours:
        connect(address)
    try:
        if address or len(node_resources()) > 1:
            check_nodes(reads, writes)
        yield plan_workers(resources, possible_nodes())
    finally:
        if ours:
            ray.shutdown()


def possible_nodes() -> list[dict[str, float]]:
    """Returns the resources of all nodes that there can be, for the length of the command.

    An autoscaler starts its nodes only when work waits for them.
    """
    launcher = os.environ.get("ORCHESTRATOR_CLUSTER")
    declared = load_launcher(Path(launcher)).nodes() if launcher else None
    return declared or node_resources()


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

    connect(address)
    try:
        return node_resources()
    finally:
        ray.shutdown()


def connect(
    address: str | None,
    num_cpus: int | None = None,
    object_store_bytes: int = LOCAL_OBJECT_STORE_BYTES,
) -> None:
    """Joins a cluster, or starts a local one that ends with `ray.shutdown()`.

    Args:
        address: a cluster's address; None for a local one.
        num_cpus: CPUs that a local one counts; None for those of the machine.
        object_store_bytes: memory of a local one's object store.

    Raises:
        ClusterError: the cluster does not answer, or none could be started.
    """
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        ensure_token()
        options |= {
            "address": "local",
            "num_cpus": num_cpus,
            "include_dashboard": False,
            "object_store_memory": object_store_bytes,
        }
    else:
        options["address"] = address
    # Ray prints messages about its workers to standard output even with `log_to_driver` off, and
    # has no public switch for it; they would break `--json` and the progress bar.
    ray._private.worker._worker_logs_enabled = False
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"the Ray cluster at {address}" if address else "a local Ray"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClusterError(
            f"cannot reach {where}: {reason}; check RAY_ADDRESS and the token, or unset "
            "RAY_ADDRESS to run locally"
        ) from error
    finally:
        # Ray sets a handler of its own, which exits with status 15 instead of 143.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)


def ensure_token() -> None:
    """Makes the authentication token where there is none, readable to its owner alone.

    Ray would make it readable to all; the rights of an existing default file are fixed too.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    token = default_token_file()
    try:
        token.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            handle = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(32))
        token.chmod(0o600)
    except OSError as error:
        raise ClusterError(
            f"cannot write Ray's token file {token}: {error.strerror}; set RAY_AUTH_TOKEN_PATH to "
            "a file that holds a token"
        ) from error


def default_token_file() -> Path:
    """Returns where Ray looks for the token unless its environment variables say otherwise."""
    return Path.home() / ".ray" / "auth_token"


def load_token() -> str:
    """Returns the authentication token of this user, as Ray finds it; empty where there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        return (Path(named) if named else default_token_file()).read_text().strip()
    except OSError:
        return ""
