"""How many shards a second the driver of a scoring run hands out, by the number of workers.

The product's own loop, with stubs for workers: many to a process of Ray, so that a thousand fit a
small machine. A stub computes nothing; it answers at once, or after as long as a shard takes. What
is measured is the driver with all that Ray does for it, on the cores that the stubs use too.

    python -m benchmarks.scale --simulate
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from orchestrator.cluster.session import open_session
from orchestrator.cluster.shards import _Done, _Pool
from orchestrator.config.specs import Resources
from orchestrator.config.workers import Session

WORKERS = (1, 10, 100, 1000)
SHARD_ROWS = 256  # as `score` makes them
SHARD_S = (0.0, 5.0)  # 256 images at 51 images/s a worker
_STUBS_A_PROCESS = 125
_LEAST_SHARDS, _LEAST_A_WORKER = 2_000, 4


class Stub:
    """Many workers of a pool."""

    def __init__(self, shard_s: float) -> None:
        self.shard_s = shard_s

    def ready(self, code: dict[str, str]) -> _Done:
        """Answers as a worker that has its place."""
        return _Done(0, "", False)

    def run(self, shard: int, following: int | None) -> _Done:
        """Answers as a worker that has scored a shard."""
        time.sleep(self.shard_s)
        return _Done(SHARD_ROWS, "", False)


class Clock:
    """Notes when the last shard came back."""

    last = 0.0

    def say(self, line: str) -> None: ...

    def begin(self, label: str, total: int, unit: str) -> None: ...

    def advance(self, count: int) -> None:
        self.last = time.perf_counter()

    def end(self) -> None: ...


def time_pool(num_workers: int, shard_s: float) -> float:
    """Returns the shards a second of a pool of stubs."""
    import ray

    processes = -(-num_workers // _STUBS_A_PROCESS)
    remote = ray.remote(num_cpus=0, max_concurrency=_STUBS_A_PROCESS)(Stub)
    stubs = [remote.remote(shard_s) for _ in range(processes)]
    ray.get([stub.ready.remote({}) for stub in stubs])
    numbers = iter(range(num_workers))

    class Pool(_Pool):
        def _start(self) -> Any:
            return stubs[next(numbers) % processes]

    session = Session(num_workers, 1.0, 0.0, max_workers=num_workers)
    count = max(0 if shard_s else _LEAST_SHARDS, _LEAST_A_WORKER * num_workers)
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        pool = Pool(lambda: None, Path(out), "", session, clock, 3600.0)
        started_s = time.perf_counter()
        pool.run(list(range(count)))
    return count / (clock.last - started_s)


def simulate() -> None:
    """Prints the table."""
    print(f"{os.cpu_count()} cores")
    titles = ("workers", "a shard takes s", "shards/s", "images/s", "of what they could")
    print("".join(f"{title:>20}" for title in titles))
    with open_session(Resources()):
        for shard_s in SHARD_S:
            for num_workers in WORKERS:
                rate = time_pool(num_workers, shard_s)
                share = f"{rate * shard_s / num_workers:.2f}" if shard_s else ""
                print(
                    f"{num_workers:>20,}{shard_s:>20.1f}{rate:>20,.0f}"
                    f"{rate * SHARD_ROWS:>20,.0f}{share:>20}",
                    flush=True,
                )
