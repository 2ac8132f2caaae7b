"""What the parts of a scheduler share: the ledger and the lead, the cluster's functions, clocks."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from orchestrator.config.job import Job
from orchestrator.errors import ClusterError, printable
from orchestrator.runs.reconcile import ClusterAnswer, Evidence, look_at
from orchestrator.schedule.ledger import Lease, Ledger, Superseded
from orchestrator.schedule.looks import Looks
from orchestrator.schedule.rows import RunRow
from orchestrator.schedule.service import notify_service
from orchestrator.schedule.writes import Writes

Key = tuple[str, ...]
Submit = Callable[[], None]
AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True)
class SchedulerBackend:
    """The cluster, as three functions; each may raise anything where it cannot be reached.

    Args:
        prepare: stores what a run needs under its id in its run folder, which may hang where the
            storage does, and returns what starts it without touching the storage. The cluster
            takes an id once: a second start of it raises.
        look_up: what is known of an id, None where the cluster does not know it.
        stop: ends a job; one that has ended already is left as it is.
    """

    prepare: Callable[[str, Job, Path | None], Submit]
    look_up: Callable[[str], ClusterAnswer | None]
    stop: Callable[[str], None]


@dataclass(frozen=True)
class Clock:
    """The two clocks: the wall's, aware, which may jump, and one that only runs forward, s."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class Settings:
    """Times of a scheduler, s.

    Args:
        lease_s: how long a leader that was killed keeps others waiting.
        grace_s: how late a tick is still on time; longer than `lease_s`, so that a takeover does
            not make a tick a missed one.
        poll_s: between two looks at one run.
        retry_wait_s: between a failed try and the next.
        resubmit_wait_s: between two submits that the cluster did not take, and between two stops.
        budget_s: longest stay with one part of a step while others wait.
        look_s: longest wait for files, in each part of a step; well under `lease_s`.
        removal_s: how long a job file may be absent, as in a deployment, before its job counts as
            removed.
    """

    lease_s: float = 15.0
    grace_s: float = 60.0
    poll_s: float = 5.0
    retry_wait_s: float = 30.0
    resubmit_wait_s: float = 10.0
    budget_s: float = 5.0
    look_s: float = 3.0
    removal_s: float = 60.0


def one_line(error: Exception) -> str:
    """Returns what an exception says as one printable line."""
    lines = str(error).strip().splitlines()
    return printable(lines[0] if lines else type(error).__name__)[:300]


def storage_of(run: RunRow) -> str:
    """Returns the place that is asked for a run's files: the folder that its run folder is in."""
    return str(run.folder.parent) if run.folder else ""


class Leadership:
    """One scheduler's lead and memory; the memory only saves work and is never relied upon."""

    def __init__(
        self,
        ledger: Ledger,
        backend: SchedulerBackend,
        clock: Clock,
        settings: Settings,
        holder: str,
        say: Callable[[str], None],
    ) -> None:
        self.ledger, self.backend, self.clock, self.settings = ledger, backend, clock, settings
        self.say = say
        self.looks = Looks(settings.look_s)
        self.fresh: set[str] = set()  # ids intended by this process and not asked for yet
        self._holder = holder
        self._lease: Lease | None = None
        self._renew_at = 0.0
        self._ready_at: dict[Key, float] = {}
        self._began: dict[Key, float] = {}
        self._said: dict[str, str] = {}
        self._faults: dict[tuple[str, str], str] = {}

    def acquire_lease(self) -> bool | None:
        """Holds the lead or tries to take it: True where just taken, False held, None without."""
        if self._lease is not None:
            self.hold()
            return False
        self._lease = self.ledger.acquire(self._holder, self.clock.now(), self.settings.lease_s)
        if self._lease is None:
            return None
        self._renew_at = self.clock.monotonic() + self.settings.lease_s / 3
        for memory in (self.fresh, self._ready_at, self._began):
            memory.clear()
        self._faults = self.ledger.faults()
        return True

    def hold(self) -> None:
        """Makes sure of the lead before the cluster is asked for anything.

        Raises:
            Superseded: another scheduler leads.
        """
        notify_service("WATCHDOG=1")  # each of many runs may take its time
        lease = self._held()
        if self.clock.monotonic() < self._renew_at:
            self.ledger.check(lease)
            return
        self.ledger.renew(lease, self.clock.now())
        self._renew_at = self.clock.monotonic() + self.settings.lease_s / 3

    def writing(self) -> AbstractContextManager[Writes]:
        """Opens a transaction of the leader."""
        return self.ledger.writing(self._held(), self.clock.now())

    def _held(self) -> Lease:
        if self._lease is None:
            raise Superseded("this scheduler does not lead")
        return self._lease

    def forget_lease(self) -> None:
        """Forgets a lead that another scheduler has taken."""
        self._lease = None

    def release(self) -> None:
        """Gives the lead up at the end."""
        if self._lease is not None:
            self.ledger.release(self._lease)
            self._lease = None

    def wait(self, key: Key, seconds: float) -> None:
        """Makes `ready(key)` false for so long."""
        self._ready_at[key] = self.clock.monotonic() + seconds

    def ready(self, key: Key) -> bool:
        """Returns whether no wait of this key is on; none is after a restart."""
        return self.clock.monotonic() >= self._ready_at.get(key, float("-inf"))

    def elapsed(self, key: Key, since: datetime) -> timedelta:
        """Returns the time since an instant; from the first call on the wall clock has no say."""
        now = self.clock.monotonic()
        if key not in self._began:
            past = max((self.clock.now() - since).total_seconds(), 0.0)
            self._began[key] = now - past
        return timedelta(seconds=now - self._began[key])

    def forget(self, submission_id: str) -> None:
        """Drops the memory of a try that has ended."""
        self.fresh.discard(submission_id)
        for memory in (self._ready_at, self._began):
            for key in [key for key in memory if key[1:] == (submission_id,)]:
                del memory[key]

    def look_into(self, runs: Iterable[RunRow]) -> dict[RunRow, Evidence]:
        """Reads run folders, those that share a folder of runs one after another.

        Returns:
            What each shows; a run whose folder does not answer is left out, its job at fault.
        """
        looks = {run: (storage_of(run), partial(look_at, run.folder)) for run in runs}
        answers = self.looks.ask_all(looks)
        found, problems = {}, dict[str, str | None]()
        for run, answer in answers.items():
            if isinstance(answer, Evidence):
                found[run] = answer
                problems.setdefault(run.job, None)
            else:
                problems[run.job] = f"cannot read {run.folder}: {one_line(answer)}"
        self.record_faults("folder", problems)
        return found

    def record_faults(self, topic: str, problems: Mapping[str, str | None]) -> None:
        """Records what is wrong with some jobs or files, None where nothing is; says what is new.

        Args:
            topic: what was tried.
            problems: by job, or by file where its job is not known.
        """
        news = {s: p for s, p in problems.items() if self._faults.get((s, topic)) != p}
        if not news:
            return
        with self.writing() as write:
            for source, problem in news.items():
                write.fault(source, topic, problem)
        for source, problem in news.items():
            if problem is None:
                del self._faults[(source, topic)]
            else:
                self._faults[(source, topic)] = problem
                self.say(f"{source}: {problem}")

    def clear_faults(self, source: str) -> None:
        """Ends all that is recorded of a job that was removed."""
        for topic in [topic for found, topic in self._faults if found == source]:
            self.record_faults(topic, {source: None})

    def faulty(self, topic: str) -> set[str]:
        """Returns the jobs and files with something recorded under a topic."""
        return {source for source, found in self._faults if found == topic}

    def attempt(self, job: str, topic: str, action: Callable[[], AnswerT]) -> AnswerT | None:
        """Returns what an action on one job gives; what it raises is that job's fault alone.

        Args:
            job: its name.
            topic: of the fault.
            action: raises `Superseded` and `ClusterError` for the ledger alone, which is
                everybody's.
        """
        try:
            answer = action()
        except (Superseded, ClusterError):
            raise
        except Exception as error:  # whatever one job does, the others go on
            self.record_faults(topic, {job: one_line(error)})
            return None
        self.record_faults(topic, {job: None})
        return answer

    def say_change(self, topic: str, line: str) -> None:
        """Says a line where the last one on this topic was another; an empty one ends it."""
        if self._said.get(topic, "") != line:
            self._said[topic] = line
            if line:
                self.say(line)
