"""Run a stage over a manifest's shards on Ray, exactly once.

A stage is a plain callable: shard number in, Arrow table out. One shard is one call and one file,
written under a temporary name and renamed by the worker that computed it; a file under its final
name is that shard's result, whoever wrote it. That makes a retry, a second worker on the same
shard and a restart of the whole command all harmless, since a stage gives equal rows for equal
shards. Which rows a table must hold is the caller's to reconcile.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from orchestrator.cluster.nodes import check_code, code_versions
from orchestrator.cluster.session import possible_nodes
from orchestrator.config.workers import Session, count_fitting
from orchestrator.data.shard_files import part_path, read_part, write_part
from orchestrator.errors import ClusterError, OrchestratorError

_MAX_ATTEMPTS = 3
_STARTING = -1  # in place of a shard: the first call of a worker
_LOOK_S = 5.0  # how often a pool without a worker looks for nodes


class Stage(Protocol):
    """What a worker does with a shard."""

    def __call__(self, shard: int) -> pa.Table:
        """Returns the shard's whole result."""


@runtime_checkable
class LookingAhead(Protocol):
    """A stage that can begin with a shard while it ends the one before."""

    def expect(self, following: int | None) -> None:
        """Names the shard after the next one, None where it is not known."""


def run_shards(
    make_stage: Callable[[], Stage],
    shards: Iterable[int],
    out: Path,
    session: Session,
    on_rows: Callable[[int], None],
) -> None:
    """Computes every shard that has no committed file yet.

    Args:
        make_stage: builds the stage once in each worker; pickled, so it carries names and
            numbers, not models.
        shards: the shards to have when this returns.
        out: folder of the results, reachable by every worker under this path.
        session: workers to use.
        on_rows: called in this process with the number of rows of each shard: of those that are
            committed already first, then after each commit, in order of completion.

    Raises:
        OrchestratorError: what the stage raised, as it was.
        ClusterError: a shard's worker died three times, or the stage failed with anything else.
    """
    missing = []
    for shard in shards:
        path = part_path(out, shard)
        if path.exists():
            on_rows(read_part(path).num_rows)
        else:
            missing.append(shard)
    if missing:
        _Pool(make_stage, out, session).run(missing, on_rows)


class _Worker:
    """The process of a pool: builds the stage at its first shard and keeps it."""

    def __init__(self, make_stage: Callable[[], Stage], out: Path) -> None:
        self._make_stage = make_stage
        self._out = out
        self._stage: Stage | None = None

    def ready(self, code: dict[str, str]) -> int:
        """Answers once the worker has its place in the cluster, on a node with the same code."""
        import ray

        check_code(f"the node {ray.util.get_node_ip_address()}", code_versions(), code)
        return 0

    def run(self, shard: int, following: int | None) -> int:
        """Computes one shard, commits its file and returns its number of rows.

        Args:
            shard: its number.
            following: the shard that this worker gets next.
        """
        if self._stage is None:
            self._stage = self._make_stage()
        if isinstance(self._stage, LookingAhead):
            self._stage.expect(following)
        table = self._stage(shard)
        write_part(part_path(self._out, shard), table)
        return int(table.num_rows)


@dataclass
class _Member:
    """A worker, the shard it has in work and the one kept for it."""

    worker: Any = None
    shard: int = _STARTING
    following: int | None = None

    def take_shards(self) -> list[int]:
        """Takes away what it has in hand; returns the shards, the later one first."""
        taken = [shard for shard in (self.following, self.shard) if shard not in (None, _STARTING)]
        self.shard, self.following = _STARTING, None
        return taken


@dataclass
class _Pool:
    """Workers, and which shards each has in hand."""

    make_stage: Callable[[], Stage]
    out: Path
    session: Session
    attempts: dict[int, int] = field(default_factory=dict)

    def run(self, shards: list[int], on_rows: Callable[[int], None]) -> None:
        import ray

        waiting = deque(shards)
        code = code_versions()
        crew = [_Member() for _ in range(min(self.session.num_workers, len(waiting)))]
        missing = list(crew)
        idle: list[_Member] = []
        busy: dict[Any, _Member] = {}  # by Ray's reference to the result
        try:
            while True:
                for member in missing:
                    # It gets no shard before it has answered: after the loss of a node there may
                    # be no room for it until another node joins.
                    member.worker, member.shard = self._start(), _STARTING
                    busy[member.worker.ready.remote(code)] = member
                missing = []
                self._assign(idle, busy, waiting, len(crew))
                at_work = any(member.shard != _STARTING for member in busy.values())
                if not waiting and not at_work:
                    return
                done, _ = ray.wait(list(busy), num_returns=1, timeout=_LOOK_S)
                if not done and not at_work:
                    self._check_room()
                for reference in done:
                    member = busy.pop(reference)
                    num_rows = self._collect(reference, member.shard)
                    if num_rows is None:  # the process is gone: others take what it had
                        waiting.extendleft(member.take_shards())
                        self._check_room()
                        missing.append(member)
                        continue
                    idle.append(member)
                    if member.shard == _STARTING:
                        self.attempts.pop(_STARTING, None)
                    else:
                        on_rows(num_rows)
        finally:
            for member in crew:
                if member.worker is not None:
                    ray.kill(member.worker)

    def _assign(
        self, idle: list[_Member], busy: dict[Any, _Member], waiting: deque[int], num_workers: int
    ) -> None:
        """Sends shards to idle workers."""
        for member in list(idle):
            if member.following is None and not waiting:
                continue
            idle.remove(member)
            member.shard = waiting.popleft() if member.following is None else member.following
            # The last shards are kept for nobody: whoever is idle first takes them.
            member.following = waiting.popleft() if len(waiting) > num_workers else None
            busy[member.worker.run.remote(member.shard, member.following)] = member

    def _check_room(self) -> None:
        """Raises ClusterError where no node, up or yet to be started, holds a worker."""
        size = self.session.cpus_per_worker, self.session.gpus_per_worker
        if count_fitting(possible_nodes(), *size) == 0:
            raise ClusterError(
                "the cluster has lost its last node that could hold a worker; committed shards are "
                "kept: run the same command again to continue"
            )

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

    def _collect(self, reference: Any, shard: int) -> int | None:
        """Returns a shard's number of rows, or None where its worker died and may be replaced."""
        import ray

        try:
            num_rows: int = ray.get(reference)
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
            # With a node all the workers that were about to start there are lost at once.
            limit = _MAX_ATTEMPTS * (self.session.num_workers if shard == _STARTING else 1)
            if self.attempts[shard] >= limit:
                name = "a worker" if shard == _STARTING else f"the worker of shard {shard}"
                raise ClusterError(
                    f"{name} died {limit} times "
                    f"({str(error).strip().splitlines()[0]}); committed shards are kept: give the "
                    "workers more memory or fewer threads, and run the same command again"
                ) from error
            return None
        return num_rows
