"""Single calls in worker processes, for work that is not a stage over shards."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from orchestrator.errors import ClusterError, OrchestratorError

ResultT = TypeVar("ResultT")


def run_calls(
    function: Callable[..., ResultT],
    calls: Sequence[tuple[object, ...]],
    *,
    task: str,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
) -> list[ResultT]:
    """Runs each call in a process of its own, all at once, and returns what they returned.

    A process ends with its call, and with it the framework that it loaded and its memory. A call
    whose process dies is made once more.

    Args:
        function: pickled, as are its arguments and its result.
        calls: positional arguments of each call.
        task: what the calls do, for messages: "building the backbone".
        num_cpus: CPUs of each process, as Ray counts them.
        num_gpus: GPUs of each process.

    Returns:
        The results, in the order of the calls.

    Raises:
        OrchestratorError: what a call raised, as it was.
        ClusterError: a call failed with anything else, or its process died twice.
    """
    import ray

    remote = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=1, max_calls=1)(function)
    waiting = [remote.remote(*arguments) for arguments in calls]
    try:
        found: list[ResultT] = ray.get(waiting)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, OrchestratorError):
            raise cause from None
        raise ClusterError(
            f"{task} failed: {str(error).strip().splitlines()[-1]}; run the same command again to "
            "continue"
        ) from error
    return found
