"""Run a stage over a manifest's shards on Ray, exactly once.

A stage is a plain callable: shard number in, Arrow table out. One shard is one call and one file,
written under a temporary name and renamed by the worker that computed it; a file under its final
name is that shard's result, whoever wrote it. That makes a retry, a second worker on the same
shard and a restart of the whole command all harmless, since a stage gives equal rows for equal
shards. Which rows a table must hold is the caller's to reconcile.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from orchestrator.cluster.nodes import check_code, code_versions
from orchestrator.cluster.session import Session
from orchestrator.data.parts import part_path, write_part
from orchestrator.errors import ClusterError, OrchestratorError

_MAX_ATTEMPTS = 3
_STARTING = -1  # in place of a shard: the first call of a worker


class Stage(Protocol):
    """What a worker does with a shard."""

    def __call__(self, shard: int) -> pa.Table:
        """Returns the shard's whole result."""


@dataclass(frozen=True)
class ShardDone:
    """One committed shard.

    Args:
        shard: its number.
        num_rows: rows in its file.
        num_rejected: rows whose `code` is set.
        seconds: time the stage took.
    """

    shard: int
    num_rows: int
    num_rejected: int
    seconds: float


def run_shards(
    make_stage: Callable[[], Stage],
    shards: Iterable[int],
    out: Path,
    session: Session,
    on_done: Callable[[ShardDone], None],
) -> None:
    """Computes every shard that has no committed file yet.

    Args:
        make_stage: builds the stage once in each worker; pickled, so it carries names and
            numbers, not models.
        shards: the shards to have when this returns.
        out: folder of the results, reachable by every worker under this path.
        session: workers to use.
        on_done: called in this process after each commit, in order of completion.

    Raises:
        OrchestratorError: what the stage raised, as it was.
        ClusterError: a shard's worker died three times, or the stage failed with anything else.
    """
    missing = [shard for shard in shards if not part_path(out, shard).exists()]
    if missing:
        _Pool(make_stage, out, session).run(missing, on_done)


class _Worker:
    """The process of a pool: builds the stage at its first shard and keeps it."""

    def __init__(self, make_stage: Callable[[], Stage], out: Path) -> None:
        self._make_stage = make_stage
        self._out = out
        self._stage: Stage | None = None

    def ready(self, code: dict[str, str]) -> ShardDone:
        """Answers once the worker has its place in the cluster, on a node with the same code."""
        import ray

        check_code(f"the node {ray.util.get_node_ip_address()}", code_versions(), code)
        return ShardDone(_STARTING, 0, 0, 0.0)

    def run(self, shard: int) -> ShardDone:
        """Computes one shard and commits its file."""
        started = time.perf_counter()
        if self._stage is None:
            self._stage = self._make_stage()
        table = self._stage(shard)
        write_part(part_path(self._out, shard), table)
        rejected = 0
        if "code" in table.column_names:
            rejected = table.num_rows - table.column("code").null_count
        return ShardDone(shard, table.num_rows, rejected, time.perf_counter() - started)


@dataclass
class _Pool:
    """Workers, and which shard each has in hand."""

    make_stage: Callable[[], Stage]
    out: Path
    session: Session
    attempts: dict[int, int] = field(default_factory=dict)

    def run(self, shards: list[int], on_done: Callable[[ShardDone], None]) -> None:
        import ray

        waiting = deque(shards)
        busy: dict[Any, tuple[Any, int]] = {}
        starting: dict[Any, Any] = {}
        workers: set[Any] = set()
        idle: list[Any] = []
        wanted = min(self.session.num_workers, len(waiting))
        code = ray.put(code_versions())
        try:
            while waiting or busy:
                while len(workers) < wanted:
                    worker = self._start()
                    workers.add(worker)
                    starting[worker.ready.remote(code)] = worker
                while waiting and idle:
                    worker, shard = idle.pop(), waiting.popleft()
                    busy[worker.run.remote(shard)] = (worker, shard)
                done, _ = ray.wait([*busy, *starting], num_returns=1)
                for reference in done:
                    # A shard is given to no worker that has not answered: after the loss of a node
                    # there may be no room for it until another node joins.
                    if reference in starting:
                        worker, shard = starting.pop(reference), _STARTING
                    else:
                        worker, shard = busy.pop(reference)
                    result = self._collect(reference, shard)
                    if result is None:  # the process is gone: another one takes the shard
                        workers.discard(worker)
                        waiting.extendleft([] if shard == _STARTING else [shard])
                        continue
                    idle.append(worker)
                    if shard == _STARTING:
                        self.attempts.pop(_STARTING, None)
                    else:
                        on_done(result)
        finally:
            for worker in workers:
                ray.kill(worker)

    def _start(self) -> Any:
        import ray

        # Ray's own restarts and retries stay off: this loop counts attempts per shard.
        options = {
            "num_cpus": self.session.cpus_per_worker,
            "num_gpus": self.session.gpus_per_worker,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        return ray.remote(_Worker).options(**options).remote(self.make_stage, self.out)

    def _collect(self, reference: Any, shard: int) -> ShardDone | None:
        """Returns a shard's result, or None where its worker died and may be replaced."""
        import ray

        try:
            result: ShardDone = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, OrchestratorError):
                raise cause from None
            raise ClusterError(
                f"shard {shard} failed with {type(cause).__name__}; committed shards are kept: "
                "run the same command again to continue"
            ) from error
        except ray.exceptions.RayError as error:
            self.attempts[shard] = self.attempts.get(shard, 0) + 1
            if self.attempts[shard] >= _MAX_ATTEMPTS:
                name = "a worker" if shard == _STARTING else f"the worker of shard {shard}"
                raise ClusterError(
                    f"{name} died {_MAX_ATTEMPTS} times "
                    f"({str(error).strip().splitlines()[0]}); committed shards are kept: give the "
                    "workers more memory or fewer threads, and run the same command again"
                ) from error
            return None
        return result
