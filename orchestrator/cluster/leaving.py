"""When a worker has to leave: its node is drained, it gets SIGTERM, or its group is to grow.

A node is drained by `ray drain-node`, by Ray's autoscaler, or by what watches for a cloud's notice
that a spot machine will be taken away.
"""

import signal
import threading
import time
from contextlib import suppress

from orchestrator.cluster.room import is_placed

_LOOK_S = 5.0
# A group that has just begun is left alone: nodes often join one after the other.
_SETTLED_S = 30.0
_MOST_PLACES = 16

_terminated = threading.Event()


def heed_sigterm() -> None:
    """Has SIGTERM noted, where it would end this worker; without effect outside the main thread."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: _terminated.set())


def is_terminated() -> bool:
    """Whether this worker got SIGTERM."""
    return _terminated.is_set()


def draining_nodes() -> set[str]:
    """Returns the ids of the nodes that are about to leave; they take no new work."""
    import ray

    return set(ray._private.state.state.get_draining_nodes())


def _own_node() -> str:
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    return node


class GroupNotice:
    """Whether a training group is to save what it has and leave; asked at every step.

    Places for more workers are asked for by placement groups, which wait until there is room that
    nobody else uses, and have the autoscaler start nodes. Ray keeps them until the driver ends,
    so that the driver gives them back (`give_back`) once the group is gone.

    Args:
        missing: workers that the group may grow by; 0 in all of its workers but one.
        size: resources of a worker, by Ray's names.
        name: of the group, another one for each.
    """

    def __init__(self, missing: int, size: dict[str, float], name: str) -> None:
        from ray.util.placement_group import placement_group

        self._places = [
            placement_group([size], name=f"{name}-{number}")
            for number in range(min(missing, _MOST_PLACES))
        ]
        self._settled_at = time.monotonic() + _SETTLED_S
        self._look_at = 0.0

    def __call__(self) -> bool:
        """Whether this worker knows a reason to leave; looks for one every few seconds."""
        if is_terminated():
            return True
        now = time.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + _LOOK_S
        if _own_node() in draining_nodes():
            return True
        return now >= self._settled_at and any(map(is_placed, self._places))


def give_back(name: str) -> None:
    """Removes the places that a group has asked for.

    Args:
        name: of the group, as its `GroupNotice` was given it.
    """
    from ray.util.placement_group import get_placement_group, remove_placement_group

    for number in range(_MOST_PLACES):
        with suppress(ValueError):  # there is none of that number
            remove_placement_group(get_placement_group(f"{name}-{number}"))
