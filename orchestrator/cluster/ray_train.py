"""One Ray Train run of our own training loop: its groups of workers, one after the other."""

import json
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2._internal.execution.failure_handling.default import _is_preemption_failure
from ray.train.v2.api.exceptions import TrainingFailedError

from orchestrator.cluster.leaving import GroupNotice, give_back
from orchestrator.cluster.room import await_room
from orchestrator.cluster.trainer import build_trainer
from orchestrator.cluster.worker_context import Leave, WorkerContext
from orchestrator.config.workers import Session
from orchestrator.errors import ClusterError, OrchestratorError, counted
from orchestrator.runs.atomic import sha256_file, write_errors, write_json

_MAX_WORKER_FAILURES = 3
_POLL_S = 0.5
_SUMS = "sums.json"  # in a checkpoint: SHA-256 of each of its files


def run_training(
    loop: Callable[..., Any],
    arguments: tuple[Any, ...],
    storage: Path,
    group: tuple[int, int],
    session: Session,
    on_poll: Callable[[], None],
    say: Callable[[str], None],
) -> Any:
    """Runs a training loop on Ray Train workers and returns what rank 0 returned.

    When a worker dies, at most three times, or when the group leaves, another group of as many
    workers as there is room for goes on from the last checkpoint. A run whose driver died goes on
    from its last checkpoint when called again with the same storage.

    Ray Train's own elastic scaling is not used: it counts CPUs that others use and nodes that are
    drained, and grows by ending the group in the middle of an epoch, whose steps are lost.

    Args:
        loop: runs in every worker: called with its `WorkerContext`, then `arguments`.
        arguments: pickled.
        storage: folder of the checkpoints, reachable by every worker.
        group: fewest and most workers.
        session: their size.
        on_poll: called in this process about twice a second while the run lasts.
        say: told of a wait for room for the workers.

    Raises:
        OrchestratorError: what the loop raised, as it was.
        ClusterError: the run failed with anything else, or there is no room for the workers.
    """
    _forget_torn(storage)
    fewest, most = group
    failures, is_first = 0, True
    while True:
        num_workers = await_room(session, fewest, say, most)
        if not is_first:
            say(f"going on with {counted(num_workers, 'training worker')}")
        is_first = False
        name = uuid.uuid4().hex  # another for each group: Ray removes places some time later
        run = partial(_run_loop, loop, arguments, session.size, fewest, most, name)
        try:
            with _polled(on_poll):
                returned = build_trainer(run, storage, num_workers, session).fit().return_value
        except TrainingFailedError as error:
            if (raised := _raised_by_worker(error)) is not None:
                raise raised from None
            failures += not _is_preemption_failure(error)  # also one that came without a notice
            if failures > _MAX_WORKER_FAILURES:
                raise ClusterError(
                    f"training failed in a worker: {_last_line(error)}; run the same command again "
                    "to continue from the last epoch"
                ) from error
            continue
        finally:
            if most > fewest:
                give_back(name)
        if not isinstance(returned, Leave):
            return returned


def _forget_torn(storage: Path) -> None:
    """Removes the checkpoints where a power cut has left a part of Ray's list of them.

    Ray writes the list in place, and refuses one that it cannot read: the loop starts over.
    """
    try:
        listed = json.loads((storage / CHECKPOINT_MANAGER_SNAPSHOT_FILENAME).read_bytes())
        names = [result["checkpoint_dir_name"] for result in listed["checkpoint_results"]]
        is_whole = all((storage / name).is_dir() for name in names)
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        with write_errors(storage):
            shutil.rmtree(storage)


@contextmanager
def _polled(on_poll: Callable[[], None]) -> Iterator[None]:
    """Calls `on_poll` from a thread until the block ends, and once more after it."""
    stop = threading.Event()

    def loop() -> None:
        with suppress(OrchestratorError):  # the last call raises it, unless it is over by then
            while not stop.wait(_POLL_S):
                on_poll()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        on_poll()


def _run_loop(
    loop: Callable[..., Any],
    arguments: tuple[Any, ...],
    size: dict[str, float],
    fewest: int,
    most: int,
    name: str,
) -> Any:
    """Runs in a worker: the loop, in the context that Ray Train gives it."""
    import ray.train

    context, last = ray.train.get_context(), ray.train.get_checkpoint()
    rank = context.get_world_rank()
    with last.as_directory() if last else nullcontext() as folder:
        worker = WorkerContext(
            rank=rank,
            size=context.get_world_size(),
            checkpoint=Path(folder) if folder and _is_whole(Path(folder)) else None,
            report=_report,
            num_shares=most if most > fewest else 0,
            leaving=GroupNotice(0 if rank else most - context.get_world_size(), size, name),
        )
        try:
            return loop(worker, *arguments)
        except Leave as leave:
            return leave


def _report(row: Mapping[str, float], checkpoint: Path | None = None) -> None:
    """Reports an epoch to Ray Train."""
    import ray.train

    if checkpoint is None:
        ray.train.report(dict(row))
        return
    sums = {path.name: sha256_file(path) for path in checkpoint.iterdir()}
    write_json(checkpoint / _SUMS, sums)
    storage = ray.train.get_context().get_storage().experiment_fs_path
    with write_errors(Path(storage)):
        ray.train.report(dict(row), checkpoint=ray.train.Checkpoint.from_directory(checkpoint))


def _is_whole(checkpoint: Path) -> bool:
    """Whether a power cut has spared a checkpoint; without it, training starts over."""
    try:
        sums = json.loads((checkpoint / _SUMS).read_bytes())
        return all(sha256_file(checkpoint / name) == known for name, known in sums.items())
    except FileNotFoundError:
        return not (checkpoint / _SUMS).exists()  # of an earlier version, which kept no sums
    except ValueError:
        return False


def _raised_by_worker(error: TrainingFailedError) -> OrchestratorError | None:
    """The error of ours that a worker raised, out of Ray's wrapping, or None."""
    for failure in getattr(error, "worker_failures", {}).values():
        for cause in (failure, getattr(failure, "_base_exc", None), failure.__cause__):
            if isinstance(cause, OrchestratorError):
                return cause
    return None


def _last_line(error: BaseException) -> str:
    """The line of a worker's traceback that names the fault."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
