"""Single calls in worker processes, for work that is not a stage over shards."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from orchestrator.cluster.room import LOOK_S, await_room, check_room
from orchestrator.config.workers import Session
from orchestrator.errors import ClusterError, OrchestratorError
from orchestrator.progress import Reporter

ResultT = TypeVar("ResultT")


def run_calls(
    function: Callable[..., ResultT],
    calls: Sequence[tuple[object, ...]],
    *,
    task: str,
    session: Session,
    reporter: Reporter,
) -> list[ResultT]:
    """Runs each call in a process of its own, many at once, and returns what they returned.

    Arguments and errors are those of `start_calls` and of what it returns.
    """
    return start_calls(function, calls, task=task, session=session, reporter=reporter)()


def start_calls(
    function: Callable[..., ResultT],
    calls: Sequence[tuple[object, ...]],
    *,
    task: str,
    session: Session | None,
    reporter: Reporter,
) -> Callable[[], list[ResultT]]:
    """Starts each call in a process of its own, once there is room for one.

    A process ends with its call, and with it the framework that it loaded and its memory. A call
    whose process dies is made once more.

    Args:
        function: pickled, as are its arguments and its result.
        calls: positional arguments of each call.
        task: what the calls do, for messages: "building the backbone".
        session: size of each process, and how long to wait for room for it; None for short calls
            of one thread each, which take no place of their own beside other work.
        reporter: told of that wait.

    Returns:
        A function that waits for the calls and returns their results, in their order. It raises
        the `OrchestratorError` that a call raised, as it was, and ClusterError where a call failed
        with anything else, its process died twice, or there is no room left for it.

    Raises:
        ClusterError: there is no room for a call.
    """
    import ray

    if session:
        await_room(session, 1, reporter.say)
        place: dict[str, Any] = {
            "num_cpus": session.cpus_per_worker,
            "num_gpus": session.gpus_per_worker,
        }
    else:
        place = {"num_cpus": 0, "scheduling_strategy": _beside_work()}
    remote = ray.remote(**place, max_retries=1, max_calls=1)(function)
    asked = [remote.remote(*arguments) for arguments in calls]

    def collect() -> list[ResultT]:
        try:
            waiting = asked
            while waiting:
                done, waiting = ray.wait(waiting, timeout=LOOK_S)
                if session and not done:  # one that lost its node would wait without end
                    check_room(session)
                ray.get(done)
            found: list[ResultT] = ray.get(asked)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, OrchestratorError):
                raise cause from None
            raise ClusterError(
                f"{task} failed: {str(error).strip().splitlines()[-1]}; run the same command again "
                "to continue"
            ) from error
        return found

    return collect


def _beside_work() -> Any:
    """Where what takes no place may go: Ray could choose a head that is to do no work."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    for node in reversed(ray.nodes()):
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1:
            return NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
    return "DEFAULT"
