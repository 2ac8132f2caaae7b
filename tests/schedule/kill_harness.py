"""Kills schedulers at seeded random points and counts what really ran.

Two scheduler processes run at once against one ledger and one cluster; each gets a seed that says
when it dies: before a submit, after the cluster has taken it and before anybody knows, within some
milliseconds after it, before or after a commit of the ledger, or at any time. Those that die by
themselves do so by SIGKILL, so nothing is
cleaned up. Time runs faster than the wall's: one cron minute in half a second or so.

The cluster is named by a factory, so the same harness serves a real one: a function in a module,
`package.module:function`, that takes the harness's folder and returns a `SchedulerBackend`.
"""

import contextlib
import importlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

from orchestrator.config.job import Job
from orchestrator.runs.placement import place_run
from orchestrator.schedule.job_folder import JobFolder
from orchestrator.schedule.leadership import Clock, SchedulerBackend, Settings, Submit
from orchestrator.schedule.ledger import Ledger
from orchestrator.schedule.loop import Scheduler
from tests.schedule.fake_cluster import FileStore, dump_job

BASE = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Setup:
    """One harness.

    Args:
        folder: holds the jobs, the ledger, the run folders and whatever the cluster keeps.
        factory: `package.module:function` that makes the `SchedulerBackend` from the folder.
        speed: seconds of schedule time in one second.
        started: wall-clock seconds at which schedule time was `BASE`.
        lead_s: real seconds for which a killed leader keeps the other waiting.
        submits: a scheduler dies at one of so many submits.
    """

    folder: Path
    factory: str
    speed: float
    started: float
    lead_s: float
    submits: int

    def now(self) -> datetime:
        return BASE + timedelta(seconds=(time.time() - self.started) * self.speed)

    def store(self) -> SchedulerBackend:
        module, _, name = self.factory.partition(":")
        made: SchedulerBackend = getattr(importlib.import_module(module), name)(self.folder)
        return made

    @property
    def ledger_path(self) -> Path:
        return self.folder / "ledger.sqlite3"

    def scheduler(self, ledger: Ledger, store: SchedulerBackend, clock: Clock) -> Scheduler:
        def place(job: Job, key: str) -> tuple[Job, Path]:
            root = {"out_root": str(self.folder / "runs")}
            return place_run(job.model_copy(update={"args": job.args | root}), key)

        lead = self.lead_s * self.speed
        settings = Settings(
            lease_s=lead,
            grace_s=2 * lead,
            poll_s=lead / 20,
            retry_wait_s=lead / 6,
            resubmit_wait_s=lead / 6,
            budget_s=600,
        )
        load = JobFolder(self.folder / "jobs").load
        return Scheduler(
            ledger, load, store, lambda line: None, clock=clock, settings=settings, place=place
        )


def file_store(folder: Path) -> SchedulerBackend:
    """The file-based cluster of `fake_cluster.py`."""
    store = FileStore(folder / "cluster")
    return SchedulerBackend(store.prepare, store.look_up, store.stop)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlyStore:
    """A store at whose hands its scheduler dies, once, at a point that a seed chooses."""

    def __init__(self, inner: SchedulerBackend, seed: int, submits: int) -> None:
        self._inner = inner
        self._random = random.Random(seed)
        self._submits = submits
        self._left = self._random.randint(1, submits)
        self._point = self._random.choice(("before", "taken", "raises", "soon", "ledger", "ledger"))

    def open_ledger(self, path: Path) -> Ledger:
        if self._point != "ledger":
            return Ledger(path)
        self._left = 0
        return DeadlyLedger(
            path, self._random.randint(1, 3 * self._submits), self._random.random() < 0.5
        )

    def as_backend(self) -> SchedulerBackend:
        return SchedulerBackend(self._prepare, self._inner.look_up, self._inner.stop)

    def _prepare(self, submission_id: str, job: Job, folder: Path | None) -> Submit:
        submit = self._inner.prepare(submission_id, job, folder)
        return lambda: self._submit(submit)

    def _submit(self, submit: Submit) -> None:
        self._left -= 1
        if self._left == 0 and self._point == "before":
            die()
        submit()
        if self._left == 0 and self._point == "taken":
            die()
        if self._left == 0:
            timer = threading.Timer(self._random.uniform(0, 0.03), die)
            timer.daemon = True
            timer.start()
            if self._point == "raises":
                raise TimeoutError("the answer was lost")


class DeadlyLedger(Ledger):
    """A ledger at whose commit, the one of that number that writes ticks, its scheduler dies."""

    def __init__(self, path: Path, commits: int, after: bool) -> None:
        self._left, self._after = 10**9, after
        super().__init__(path)
        self._left = commits

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        written = self._db.total_changes
        with super()._transaction():
            yield
            # A renewal of the lead changes one row; anything of a tick changes more.
            self._left -= self._db.total_changes - written > 1
            if self._left <= 0 and not self._after:
                die()
        if self._left <= 0:
            die()


def scheduler_process(setup: Setup, seed: int) -> None:
    """A scheduler that runs until it is killed."""
    clock = Clock(setup.now, lambda: time.monotonic() * setup.speed)
    deadly = DeadlyStore(setup.store(), seed, setup.submits)
    ledger = deadly.open_ledger(setup.ledger_path)
    setup.scheduler(ledger, deadly.as_backend(), clock).run(threading.Event(), interval_s=0.01)


def run_kills(
    folder: Path,
    *,
    factory: str,
    kills: int,
    every: dict[str, int],
    seed: int,
    speed: float,
    settle_s: float,
    lead_s: float = 0.4,
    submits: int = 6,
    last_minute: int | None = None,
    others: Mapping[str, Mapping[str, object]] | None = None,
    meanwhile: Callable[[datetime, bool], None] = lambda now, is_over: None,
) -> datetime:
    """Runs two schedulers, killing until `kills` have died, then lets the last ones finish.

    Args:
        folder: empty.
        factory: of the cluster.
        kills: SIGKILLs to be seen.
        every: job name to the minutes between its ticks; all queue, catch up everything and
            retry once.
        seed: of all random choices.
        speed: schedule seconds a second.
        settle_s: longest wait at the end for what is open, real seconds.
        lead_s: how long a killed leader keeps the other waiting, real seconds.
        submits: a scheduler dies at one of so many submits.
        last_minute: at most 59: of the first hour, after which no tick comes; None for no end.
        others: further jobs, name to the keys of their files.
        meanwhile: what a person does, called all the time with the schedule's time, and with
            True once enough have died.

    Returns:
        The instant up to which every tick has been decided and has come to its end.
    """
    (folder / "jobs").mkdir()
    for name, minutes in every.items():
        cron = f"*/{minutes} * * * *"
        if last_minute is not None:
            cron = f"{minutes}-{last_minute}/{minutes} 0 {BASE.day} {BASE.month} *"
        schedule = {"cron": cron, "overlap": "queue", "catch_up": "all", "window": "31d"}
        dump_job(folder / "jobs", name, retries=1, schedule=schedule)
    for name, keys in (others or {}).items():
        dump_job(folder / "jobs", name, **keys)
    last = BASE + timedelta(minutes=last_minute or 10**6)
    register = Setup(folder, factory, speed, 0.0, lead_s, submits)
    first = register.scheduler(
        Ledger(register.ledger_path), register.store(), Clock(lambda: BASE, lambda: 0)
    )
    first.step()
    first.close()
    setup = replace(register, started=time.time())
    chance = random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    # Whatever any of the tests' processes needs: the server is started once.
    context.set_forkserver_preload(["tests.schedule.kill_harness", "tests.ray_store"])

    def start() -> BaseProcess:
        process = context.Process(
            target=scheduler_process, args=(setup, chance.randrange(2**32)), daemon=True
        )
        process.start()
        return process

    running = [start(), start()]
    try:
        dead = 0
        while dead < kills:
            # Where no tick comes any more nothing else would kill.
            if chance.random() < (0.01 if setup.now() < last else 0.1):
                chance.choice(running).kill()
            for at, process in enumerate(running):
                if not process.is_alive():
                    assert process.exitcode == -signal.SIGKILL, process.exitcode
                    dead += 1
                    running[at] = start()
            meanwhile(setup.now(), False)
            time.sleep(0.01)
        end = min(setup.now().replace(second=0, microsecond=0), last)

        def is_over() -> bool:
            meanwhile(setup.now(), True)
            return is_settled(setup, running, start, every, end)

        wait_for(is_over, settle_s)
    finally:
        for process in running:
            process.kill()
            process.join()
    return end


def is_settled(
    setup: Setup,
    running: list[BaseProcess],
    start: Callable[[], BaseProcess],
    every: dict[str, int],
    end: datetime,
) -> bool:
    """Whether every tick up to `end` has come to its end; schedulers go on dying meanwhile."""
    for at, process in enumerate(running):
        if not process.is_alive():
            running[at] = start()
    ledger = Ledger(setup.ledger_path)
    try:
        jobs = ledger.jobs()
        decided = all(
            jobs[name].cursor >= max(expected_ticks(minutes, end), default=BASE)
            for name, minutes in every.items()
        )
        oldest = min((run.tick for run in ledger.open_runs() + ledger.requested()), default=None)
    finally:
        ledger.close()
    return decided and (oldest is None or oldest > end)


def wait_for(done: Callable[[], bool], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < limit, "runs stay open"
        time.sleep(0.05)


def expected_ticks(every_minutes: int, end: datetime) -> list[datetime]:
    """The ticks of `*/N * * * *` after BASE (which starts an hour) up to `end`, without cron."""
    ticks = []
    tick = BASE + timedelta(minutes=1)
    while tick <= end:
        if tick.minute % every_minutes == 0:
            ticks.append(tick)
        tick += timedelta(minutes=1)
    return ticks


def check_journal(
    journal: list[str],
    every: dict[str, int],
    end: datetime,
    fails: Callable[[str], bool],
    others: Mapping[str, Iterable[datetime]] | None = None,
) -> int:
    """Asserts that every tick ran once, and again only where its first try failed.

    Args:
        journal: submission ids in the order in which their drivers began, as they wrote it.
        every: job name to the N of its `*/N * * * *`.
        end: ticks up to here count.
        fails: whether the try of an id failed.
        others: ticks of further runs, by job; each is to run as the others do.

    Returns:
        Ticks counted.
    """
    assert len(journal) == len(set(journal)), "an id ran twice"
    tries: dict[tuple[str, str], list[int]] = {}
    for found in journal:
        job, tick, attempt = found.rsplit("-", 2)
        tries.setdefault((job, tick), []).append(int(attempt))
    counted = 0
    ticks = {job: set(expected_ticks(minutes, end)) for job, minutes in every.items()}
    for job, more in (others or {}).items():
        ticks.setdefault(job, set()).update(tick for tick in more if tick <= end)
    for job, wanted_ticks in ticks.items():
        for tick in wanted_ticks:
            stamp = f"{tick:%Y%m%dT%H%M%SZ}"
            wanted = [1, 2] if fails(f"{job}-{stamp}-1") else [1]
            found_tries = tries.pop((job, stamp), [])
            assert found_tries == wanted, (job, stamp, found_tries, wanted)
            counted += 1
    late = [key for key in tries if datetime.strptime(key[1] + "+0000", "%Y%m%dT%H%M%SZ%z") <= end]
    assert not late, "a tick ran that no schedule has"
    return counted
