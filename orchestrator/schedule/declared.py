"""The jobs in force: those of the job files, and the last good version where a file has none.

The ledger keeps the last good version of every job, so that neither a file that is wrong nor one
that is away while a new version of it is put in place costs a tick, whoever leads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice

from orchestrator.config.cron import Ticks, parse_ticks
from orchestrator.config.job import Job
from orchestrator.errors import SpecError
from orchestrator.runs.states import TickState
from orchestrator.schedule.job_folder import LoadedJobs, load_stored
from orchestrator.schedule.leadership import Leadership, one_line
from orchestrator.schedule.notify import find_problem
from orchestrator.schedule.rows import JobRow

# Skips written in one transaction: a job of every minute that was down for a year has 525,600.
CHUNK = 5000

LoadJobs = Callable[[], LoadedJobs]


@dataclass(frozen=True)
class _Change:
    """A job with another schedule than the ledger has."""

    name: str
    ticks: Ticks
    owed: list[datetime]  # by the old schedule
    is_new: bool


class DeclaredJobs:
    """Follows the job files.

    Args:
        leadership: the scheduler's.
        load_jobs: what the files say.
    """

    def __init__(self, leadership: Leadership, load_jobs: LoadJobs) -> None:
        self._leadership, self._load_jobs = leadership, load_jobs
        self.jobs: dict[str, Job] = {}
        self.rows: dict[str, JobRow] = {}
        self.are_read = False  # the folder of job files, when it was last looked at
        self._ticks: dict[str, Ticks] = {}
        self._next: dict[tuple[str, str], tuple[Ticks, datetime, datetime | None]] = {}
        self._absent_since: dict[str, float] = {}

    def begin(self) -> None:
        """Starts afresh from the ledger and the files, after the lead was taken."""
        self.jobs, self._ticks, self._next, self._absent_since = {}, {}, {}, {}
        self.refresh()
        self.reload()

    def refresh(self) -> None:
        """Reads the ledger's rows again."""
        self.rows = self._leadership.ledger.jobs()

    def ticks(self, name: str) -> Ticks:
        """Returns the ticks of a job in force."""
        return self._ticks[name]

    def is_due(self, name: str, now: datetime) -> bool:
        """Returns whether a tick of a job is undecided."""
        due_at = self.next_after(name, self.rows[name].decided_until(now), "due")
        return due_at is not None and due_at <= now

    def next_after(self, name: str, since: datetime, purpose: str) -> datetime | None:
        """Returns the first tick after an instant, remembered as long as that is asked for.

        Args:
            name: of a job in force.
            since: the instant.
            purpose: what for; each remembers one.
        """
        ticks, key = self._ticks[name], (name, purpose)
        known = self._next.get(key)
        if known is None or known[0] is not ticks or known[1] != since:
            known = self._next[key] = (ticks, since, ticks.next_after(since))
        return known[2]

    def reload(self) -> None:
        """Takes new, changed and removed job files into the ledger, none with a past.

        A changed cron or time zone counts from now on; what the old one was still owed is skipped
        and recorded. Everything else in a file counts for the next tick that is decided.
        """
        found = self._load()
        jobs = {name: job for name, (job, _) in found.jobs.items()}
        gone = self._keep_absent(jobs, found)
        now = self._leadership.clock.now()
        changes: list[_Change] = []
        for name, job in list(jobs.items()):
            if job is self.jobs.get(name):
                continue
            take = partial(self._take, name, job, jobs, changes, now)
            if self._leadership.attempt(name, "schedule", take) is None:
                del jobs[name]
                if name in self.jobs:
                    jobs[name] = self.jobs[name]
        kept = {
            name: (file, job.model_dump_json())
            for name, (job, file) in found.jobs.items()
            if job is jobs.get(name) is not self.jobs.get(name)
        }
        known = {name: (row.file, row.spec) for name, row in self.rows.items()}
        kept = {name: found for name, found in kept.items() if found != known.get(name)}
        if changes or gone or kept:
            self._register(changes, gone, kept)
        new = [job for name, job in jobs.items() if job is not self.jobs.get(name)]
        problems = {job.name: find_problem(job.on_failure) for job in new}
        self._leadership.record_faults("notice", problems)
        self.jobs = jobs

    def _load(self) -> LoadedJobs:
        leadership = self._leadership
        try:
            found = leadership.looks.ask("job files", self._load_jobs)
        except Exception as error:  # nothing is known of any file
            found = LoadedJobs(problem=f"cannot read the job files: {one_line(error)}")
        leadership.say_change("files", found.problem or "")
        self.are_read = found.problem is None
        if found.problem is None:
            owners = {row.file: name for name, row in self.rows.items() if row.cron and row.file}
            faults = {owners.get(file, file): problem for file, problem in found.faults.items()}
            fixed = dict.fromkeys(leadership.faulty("file") - faults.keys())
            leadership.record_faults("file", {**fixed, **faults})
        needless = leadership.faulty("stored") & found.jobs.keys()
        leadership.record_faults("stored", dict.fromkeys(needless))
        return found

    def _keep_absent(self, jobs: dict[str, Job], found: LoadedJobs) -> list[str]:
        """Adds the last good version of jobs without a good file; returns those that are gone."""
        gone = []
        for name, row in self.rows.items():
            if row.cron is None or name in jobs:
                self._absent_since.pop(name, None)
            elif not self._may_return(row, found):
                gone.append(name)
            elif name in self.jobs:
                jobs[name] = self.jobs[name]
            elif row.spec is not None:
                last = self._leadership.attempt(name, "stored", partial(load_stored, row.spec))
                if last is not None:
                    jobs[name] = last
        return gone

    def _may_return(self, row: JobRow, found: LoadedJobs) -> bool:
        """Whether a job that no file declares now has not been removed for all that."""
        if found.problem is not None or row.file in found.faults:
            self._absent_since.pop(row.name, None)
            return True
        if row.file is None:  # not known in a ledger of the first version
            return bool(found.faults)
        if row.file in found.files:  # it declares another job now, or none that is scheduled
            return False
        now = self._leadership.clock.monotonic()
        since = self._absent_since.setdefault(row.name, now)
        return now - since < self._leadership.settings.removal_s

    def _take(
        self, name: str, job: Job, jobs: dict[str, Job], changes: list[_Change], now: datetime
    ) -> bool:
        """Takes a new version of a job; what is due by the old one is decided first."""
        if job.schedule is None:
            raise SpecError("it has no schedule")
        ticks, row = job.schedule.ticks(), self.rows.get(name)
        if row is None or (row.cron, row.timezone) != (ticks.cron, ticks.timezone):
            if name in self.jobs and self.is_due(name, now):
                # Came due within this step: the next one decides it, then takes the edit.
                jobs[name] = self.jobs[name]
                return True
            changes.append(_Change(name, ticks, _owed(row, now), row is None))
        self._ticks[name] = ticks
        return True

    def _register(
        self, changes: list[_Change], gone: list[str], kept: dict[str, tuple[str, str]]
    ) -> None:
        leadership = self._leadership
        now = leadership.clock.now()
        owed = {name: _owed(self.rows[name], now) for name in gone}
        with leadership.writing() as write:
            for change in changes:
                for tick in change.owed:
                    write.skip(change.name, tick, "the schedule was changed before this tick ran")
                write.register(change.name, change.ticks.cron, change.ticks.timezone, now)
            for name, (file, spec) in kept.items():
                write.keep(name, file, spec)
            for name in gone:
                for tick in owed[name]:
                    write.skip(name, tick, "the job was removed before this tick ran")
                write.drop(name)
            waiting = leadership.ledger.requested() + leadership.ledger.open_runs()
            for run in waiting:
                if run.job in gone and run.state in (TickState.REQUESTED, TickState.QUEUED):
                    write.end(run.job, run.tick, 0, TickState.SKIPPED, "the job was removed")
        for change in changes:
            what = "scheduled" if change.is_new else "changed"
            due = f"{change.ticks.cron} {change.ticks.timezone}".rstrip()
            leadership.say(f"{change.name}: {what}: {due}")
        for name in gone:
            leadership.clear_faults(name)
            leadership.say(f"{name}: no longer scheduled, its file is gone")
        self.refresh()


def _owed(row: JobRow | None, now: datetime) -> list[datetime]:
    """Returns the undecided ticks of a job by the schedule that the ledger has of it."""
    if row is None or row.cron is None or row.timezone is None:
        return []
    try:
        ticks = parse_ticks(row.cron, row.timezone)
    except SpecError:  # a time zone that no longer exists
        return []
    return list(islice(ticks.between(row.decided_until(now), now), CHUNK))
