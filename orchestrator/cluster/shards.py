"""Run a stage over a manifest's shards on Ray, exactly once.

What a stage is, and what makes a second worker on the same shard harmless, is in
`orchestrator.data.shards`.

A worker that takes too long for its shard is ended and counts as one that died. One that gets
SIGTERM, or whose node is drained, finishes its shard and is replaced elsewhere. The pool grows as
nodes join.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from orchestrator.cluster.leaving import draining_nodes, heed_sigterm, is_terminated
from orchestrator.cluster.nodes import check_code, code_versions
from orchestrator.cluster.room import LOOK_S, check_room, describe_room
from orchestrator.cluster.session import possible_nodes
from orchestrator.config.workers import Session, count_fitting
from orchestrator.data.shards import (
    LATE_ADVICE,
    SILENT_S,
    ShardWorker,
    Stage,
    describe_failure,
    find_missing,
)
from orchestrator.errors import ClusterError
from orchestrator.progress import Reporter
from orchestrator.runs.wait import Wait

_MAX_ATTEMPTS = 3
_STARTING = -1  # in place of a shard: the first call of a worker


def run_shards(
    make_stage: Callable[[], Stage],
    shards: Iterable[int],
    out: Path,
    owner: str,
    session: Session,
    reporter: Reporter,
    limit_s: float,
) -> None:
    """Computes every shard that has no committed file of its owner yet.

    Args:
        make_stage: builds the stage once in each worker; pickled, so it carries names and
            numbers, not models.
        shards: the shards to have when this returns.
        out: folder of the results, reachable by every worker under this path.
        owner: what the shards belong to: the id of the run, or the key of a feature set.
        session: workers to use; its time limit of a shard wins over `limit_s`.
        reporter: advanced by the number of rows of each shard: of those that are committed already
            first, then after each commit, in order of completion. Told of a wait for nodes.
        limit_s: time limit of one shard, `shard_limit_s`.

    Raises:
        OrchestratorError: what the stage raised, as it was.
        ClusterError: a shard's worker died or was too slow three times, the stage failed with
            anything else, or the wait for nodes was too long.
    """
    if missing := find_missing(shards, out, owner, reporter):
        limit_s = session.shard_timeout_s or limit_s
        _Pool(make_stage, out, owner, session, reporter, limit_s).run(missing)


@dataclass(frozen=True)
class _Done:
    """What a call of a worker returns.

    Args:
        num_rows: of the shard.
        node: id of the worker's node.
        leaves: whether the worker takes no further shard.
    """

    num_rows: int
    node: str
    leaves: bool


class _Worker:
    """The process of a pool."""

    def __init__(self, make_stage: Callable[[], Stage], out: Path, owner: str) -> None:
        heed_sigterm()
        self._worker = ShardWorker(make_stage, out, owner)

    def ready(self, code: dict[str, str]) -> _Done:
        """Answers once the worker has its place in the cluster, on a node with the same code."""
        import ray

        check_code(f"the node {ray.util.get_node_ip_address()}", code_versions(), code)
        return self._done(0)

    def run(self, shard: int, following: int | None) -> _Done:
        """Computes and commits a shard; see `ShardWorker.run`."""
        return self._done(self._worker.run(shard, following))

    def _done(self, num_rows: int) -> _Done:
        import ray

        return _Done(num_rows, ray.get_runtime_context().get_node_id(), is_terminated())


@dataclass
class _Member:
    """A worker, the shard it has in work since when, and the one kept for it."""

    worker: Any = None
    shard: int = _STARTING
    following: int | None = None
    since: float = 0.0

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
    owner: str
    session: Session
    reporter: Reporter
    limit_s: float
    attempts: dict[int, int] = field(default_factory=dict)
    wait: Wait | None = None  # for the first worker, or for one in place of the last
    slow: Wait | None = None  # for a shard that has been at work for long
    look_at: float = 0.0  # when to look for nodes that have joined

    def run(self, shards: list[int]) -> None:
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
                results = self._next_done(busy, at_work)
                draining = draining_nodes() if results else set()
                for reference in results:
                    member = busy.pop(reference)
                    done = self._collect(reference, member.shard)
                    if done is None:  # the process is gone
                        missing.append(member)
                        continue
                    if member.shard == _STARTING:
                        self.attempts.pop(_STARTING, None)
                    else:
                        self.reporter.advance(done.num_rows)
                    if done.leaves or done.node in draining:
                        ray.kill(member.worker)
                        member.shard = _STARTING  # the one that it had is done
                        missing.append(member)
                    else:
                        idle.append(member)
                missing += self._end_late(busy) + self._grow(crew, len(waiting))
                for member in missing:  # others take what it had
                    waiting.extendleft(member.take_shards())
                if missing:
                    check_room(self.session)
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
            member.since = time.monotonic()
            busy[member.worker.run.remote(member.shard, member.following)] = member

    def _grow(self, crew: list[_Member], num_waiting: int) -> list[_Member]:
        """Adds members for nodes that have joined, and returns them."""
        most = min(self.session.max_workers, len(crew) + num_waiting)
        if len(crew) >= most or time.monotonic() < self.look_at:
            return []
        self.look_at = time.monotonic() + LOOK_S
        size = self.session.cpus_per_worker, self.session.gpus_per_worker
        joined = min(most, count_fitting(possible_nodes(), *size)) - len(crew)
        crew += (new := [_Member() for _ in range(joined)])
        return new

    def _next_done(self, busy: dict[Any, _Member], at_work: bool) -> list[Any]:
        """Returns a result where there is one; looks for room where no worker is at work."""
        import ray

        done: list[Any] = ray.wait(list(busy), num_returns=1, timeout=LOOK_S)[0]
        if done:  # all that are there by now: to ask again for each would cost a look at all
            done = ray.wait(list(busy), num_returns=len(busy), timeout=0)[0]
        if at_work:
            self.wait = None
            self._tell_of_slow([member for member in busy.values() if member.shard != _STARTING])
        elif not done:
            check_room(self.session)
            self.wait = self.wait or Wait(self.session.max_wait_s, self.reporter.say)
            self.wait.go_on(describe_room(self.session))
        return done

    def _tell_of_slow(self, at_work: list[_Member]) -> None:
        """Says every minute which shard has been at work for long."""
        slowest = min(at_work, key=attrgetter("since"))
        if time.monotonic() - slowest.since <= SILENT_S:
            self.slow = None
            return
        self.slow = self.slow or Wait(math.inf, self.reporter.say)
        self.slow.go_on(f"shard {slowest.shard}, which is given {self.limit_s:,.0f} s")

    def _end_late(self, busy: dict[Any, _Member]) -> list[_Member]:
        """Ends the workers that take too long for a shard, and returns them."""
        import ray

        now, late = time.monotonic(), []
        for reference, member in list(busy.items()):
            if member.shard != _STARTING and now - member.since > self.limit_s:
                ray.kill(member.worker)
                late.append(busy.pop(reference))
                what = f"shard {member.shard} ran into its time limit"
                self._count(member.shard, what, f"{self.limit_s:,.0f} s", LATE_ADVICE)
        return late

    def _start(self) -> Any:
        import ray

        # Ray's own restarts and retries stay off: this loop counts attempts per shard.
        options = {
            "num_cpus": self.session.cpus_per_worker,
            "num_gpus": self.session.gpus_per_worker,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        worker = ray.remote(_Worker).options(**options)
        return worker.remote(self.make_stage, self.out, self.owner)

    def _collect(self, reference: Any, shard: int) -> _Done | None:
        """Returns what a worker returned, or None where it died and may be replaced."""
        import ray

        try:
            done: _Done = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise describe_failure(shard, error.cause) from error
        except ray.exceptions.RayError as error:
            if getattr(error, "preempted", False):  # with its drained node: no fault of the shard
                return None
            name = "a worker" if shard == _STARTING else f"the worker of shard {shard}"
            reason = str(error).strip().splitlines()[0]
            advice = "give the workers more memory or fewer threads"
            self._count(shard, f"{name} died", reason, advice)
            return None
        return done

    def _count(self, shard: int, what: str, detail: str, advice: str) -> None:
        """Counts an attempt that was in vain; raises ClusterError where it was the last."""
        self.attempts[shard] = self.attempts.get(shard, 0) + 1
        # With a node all the workers that were about to start there are lost at once.
        limit = _MAX_ATTEMPTS * (self.session.num_workers if shard == _STARTING else 1)
        if self.attempts[shard] >= limit:
            raise ClusterError(
                f"{what} {limit} times ({detail}); committed shards are kept: {advice}, and run "
                "the same command again"
            )
