"""What a worker does with a shard, and the run of a few shards in this process, without a cluster.

A stage is a plain callable: shard number in, Arrow table out. One shard is one call and one file,
written under a temporary name and renamed by the worker that computed it; a file under its final
name is that shard's result, whoever wrote it. That makes a retry, a second worker on the same
shard and a restart of the whole command all harmless, since a stage gives equal rows for equal
shards. Which rows a table must hold is the caller's to reconcile.

The pool of workers on a cluster is `orchestrator.cluster.shards`.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from itertools import zip_longest
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow as pa

from orchestrator.config.workers import Session
from orchestrator.data.shard_files import has_part, part_path, read_part, write_part
from orchestrator.errors import ClusterError, OrchestratorError
from orchestrator.progress import Reporter
from orchestrator.runs.wait import Wait

# Time limit of a shard: for loading the model from slow storage, and for each image. Many times
# what the slowest machine takes: one decoder alone may use a minute, B5 at 456 px half a second.
_SHARD_S, _IMAGE_S, _PX_PER_S = 1800.0, 10.0, 20_000.0
LATE_ADVICE = "look for storage that stalls, or allow more with --shard-timeout"
SILENT_S = 300.0  # a shard at work for longer is spoken of: its storage may hang
_LOOK_S = 10.0
_END_S = 5.0  # for a stage that is given up, to end by itself


class Stage(Protocol):
    """What a worker does with a shard."""

    def __call__(self, shard: int) -> pa.Table:
        """Returns the shard's whole result."""


@runtime_checkable
class LookingAhead(Protocol):
    """A stage that can begin with a shard while it ends the one before."""

    def expect(self, following: int | None) -> None:
        """Names the shard after the next one, None where it is not known."""


@runtime_checkable
class Closing(Protocol):
    """A stage that starts processes."""

    def close(self) -> None:
        """Ends them, and with them a call in another thread that waits for their work."""


class ShardWorker:
    """Builds the stage at its first shard and keeps it.

    Args:
        make_stage: builds the stage.
        out: folder of the results.
        owner: what the shards belong to, as `write_part` takes it.
    """

    def __init__(self, make_stage: Callable[[], Stage], out: Path, owner: str) -> None:
        self._make_stage = make_stage
        self._out, self._owner = out, owner
        self._stage: Stage | None = None
        self._closed = False

    def run(self, shard: int, following: int | None) -> int:
        """Computes one shard, commits its file and returns its number of rows.

        Args:
            shard: its number.
            following: the shard that this worker gets next.
        """
        if self._stage is None:
            self._stage = self._make_stage()
        if self._closed:  # meanwhile
            self.close()
        if isinstance(self._stage, LookingAhead):
            self._stage.expect(following)
        table = self._stage(shard)
        write_part(part_path(self._out, shard), table, self._owner)
        return int(table.num_rows)

    def close(self) -> None:
        """Ends what the stage has started, or as soon as it is built; from any thread."""
        self._closed = True
        if isinstance(self._stage, Closing):
            self._stage.close()


def shard_limit_s(num_images: int, size_px: int) -> float:
    """Returns a generous time limit of one shard, s.

    Args:
        num_images: most images of a shard, each view counted.
        size_px: their height and width, px.
    """
    return _SHARD_S + num_images * (_IMAGE_S + size_px**2 / _PX_PER_S)


def find_missing(shards: Iterable[int], out: Path, owner: str, reporter: Reporter) -> list[int]:
    """Returns the shards without a committed file of their owner, and advances by all others."""
    missing = []
    for shard in shards:
        path = part_path(out, shard)
        if has_part(path, owner):
            reporter.advance(read_part(path).num_rows)
        else:
            missing.append(shard)
    return missing


def describe_failure(shard: int, cause: BaseException) -> OrchestratorError:
    """Returns what to raise for an exception of a stage: the package's own as they are."""
    if isinstance(cause, OrchestratorError):
        return cause
    return ClusterError(
        f"shard {shard} failed with {type(cause).__name__}; committed shards are kept: "
        "run the same command again to continue"
    )


def run_shards_here(
    make_stage: Callable[[], Stage],
    shards: Iterable[int],
    out: Path,
    owner: str,
    session: Session,
    reporter: Reporter,
    limit_s: float,
) -> None:
    """Computes every missing shard in this process; as `orchestrator.cluster.shards.run_shards`.

    The stage runs in a thread, so that Ctrl-C and the time limit need not wait for it.

    Raises:
        OrchestratorError: what the stage raised, as it was.
        ClusterError: the stage was too slow, or failed with anything else.
    """
    missing = find_missing(shards, out, owner, reporter)
    limit_s = session.shard_timeout_s or limit_s
    worker = ShardWorker(make_stage, out, owner)
    thread = None
    try:
        for shard, following in zip_longest(missing, missing[1:]):
            done: Future[int] = Future()
            call = (done, worker, shard, following)
            thread = threading.Thread(target=_settle, args=call, name="shard", daemon=True)
            thread.start()
            _wait_for(shard, done, limit_s, reporter)
            if not done.done():
                raise ClusterError(
                    f"shard {shard} ran into its time limit ({limit_s:,.0f} s); committed shards "
                    f"are kept: {LATE_ADVICE}, and run the same command again"
                )
            error = done.exception()
            if isinstance(error, OrchestratorError):
                raise error
            if error is not None:
                raise describe_failure(shard, error) from error
            reporter.advance(done.result())
    finally:
        worker.close()
        if thread is not None:
            thread.join(_END_S)


def _wait_for(shard: int, done: "Future[int]", limit_s: float, reporter: Reporter) -> None:
    """Waits for a shard up to its limit, and speaks of it where it takes long."""
    wait([done], min(limit_s, SILENT_S))
    until, slow = time.monotonic() + limit_s - SILENT_S, Wait(math.inf, reporter.say)
    while not done.done() and (left := until - time.monotonic()) > 0:
        slow.go_on(f"shard {shard}, which is given {limit_s:,.0f} s")
        wait([done], min(left, _LOOK_S))


def _settle(done: "Future[int]", worker: ShardWorker, shard: int, following: int | None) -> None:
    try:
        done.set_result(worker.run(shard, following))
    except BaseException as error:  # whoever waits for it must not wait for ever
        done.set_exception(error)
