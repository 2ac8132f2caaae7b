"""Whether the cluster has, or can have, room for a worker, and the wait for it."""

import time
from collections.abc import Callable
from typing import Any

from orchestrator.cluster.session import absent_machines, node_resources, possible_nodes
from orchestrator.config.workers import Session, count_fitting
from orchestrator.errors import ClusterError
from orchestrator.runs.wait import Wait

LOOK_S = 5.0  # how often a wait looks for room
_PLACED_S = 10.0  # a group that has just ended gives its places back seconds later


def describe_room(session: Session) -> str:
    """Returns what a worker needs and which machines are yet to join, for messages."""
    gpus = f" and {session.gpus_per_worker:g} GPU" if session.gpus_per_worker else ""
    absent = absent_machines()
    joining = f" (yet to join: {', '.join(absent)})" if absent else ""
    return f"room in the cluster for a worker of {session.cpus_per_worker:g} CPU{gpus}{joining}"


def check_room(session: Session) -> None:
    """Raises ClusterError where no node, up or yet to be started, holds a worker."""
    size = session.cpus_per_worker, session.gpus_per_worker
    if count_fitting(possible_nodes(), *size) == 0:
        raise ClusterError(
            "the cluster has lost its last node that could hold a worker; what is done is kept: "
            "run the same command again to continue"
        )


def await_room(
    session: Session, num_workers: int, say: Callable[[str], None], most: int = 0
) -> int:
    """Returns once there is room for some workers at once: for how many.

    What starts right after it finds its place; Ray itself would wait for one without end and
    without a word.

    Args:
        session: size of a worker, and how long to wait.
        num_workers: how many, at least.
        say: told every minute.
        most: how many there may be, where there is room for more.

    Raises:
        ClusterError: no node can hold a worker, or the wait was too long.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    groups = [placement_group([session.size] * num_workers)]
    wait = Wait(session.max_wait_s, say)
    try:
        while not groups[0].wait(LOOK_S):
            check_room(session)
            wait.go_on(describe_room(session))
        each = session.cpus_per_worker, session.gpus_per_worker
        more = min(most, count_fitting(node_resources(), *each)) - num_workers
        if more > 0:
            groups += [placement_group([session.size]) for _ in range(more)]
            until = time.monotonic() + _PLACED_S
            while not all(map(is_placed, groups[1:])) and time.monotonic() < until:
                time.sleep(0.5)
        return num_workers + sum(map(is_placed, groups[1:]))
    finally:
        for group in groups:
            remove_placement_group(group)


def is_placed(group: Any) -> bool:
    """Whether a placement group has its place; does not wait."""
    from ray.util import placement_group_table

    return bool(placement_group_table(group)["state"] == "CREATED")
