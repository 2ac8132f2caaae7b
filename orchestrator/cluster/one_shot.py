"""Single calls in worker processes, for work that is not a stage over shards."""

from collections.abc import Callable, Sequence
from typing import TypeVar

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

    A process ends with its call, and with it the framework that it loaded and its memory. A call
    whose process dies is made once more.

    Args:
        function: pickled, as are its arguments and its result.
        calls: positional arguments of each call.
        task: what the calls do, for messages: "building the backbone".
        session: size of each process, and how long to wait for room for it.
        reporter: told of that wait.

    Returns:
        The results, in the order of the calls.

    Raises:
        OrchestratorError: what a call raised, as it was.
        ClusterError: a call failed with anything else, its process died twice, or there is no room
            for it.
    """
    import ray

    await_room(session, 1, reporter.say)
    remote = ray.remote(
        num_cpus=session.cpus_per_worker,
        num_gpus=session.gpus_per_worker,
        max_retries=1,
        max_calls=1,
    )(function)
    asked = [remote.remote(*arguments) for arguments in calls]
    try:
        waiting = asked
        while waiting:
            done, waiting = ray.wait(waiting, timeout=LOOK_S)
            if not done:
                check_room(session)  # a call that lost its node would wait for another without end
            ray.get(done)
        found: list[ResultT] = ray.get(asked)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, OrchestratorError):
            raise cause from None
        raise ClusterError(
            f"{task} failed: {str(error).strip().splitlines()[-1]}; run the same command again to "
            "continue"
        ) from error
    return found
