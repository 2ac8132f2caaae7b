"""Due ticks into rows of the ledger, and rows into intents: all that is decided by wall clock."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from orchestrator.config.cron import Ticks
from orchestrator.config.job import Job, Schedule
from orchestrator.runs.reconcile import look_at
from orchestrator.runs.states import TickState
from orchestrator.schedule.leadership import Leadership
from orchestrator.schedule.ledger import JobRow, RunRow, run_key, submission_id
from orchestrator.schedule.policy import Verdict, judge
from orchestrator.schedule.writes import Writes

# Skips written in one transaction: a job of every minute that was down for a year has 525,600.
_CHUNK = 5000
# A clock that starts in 1970 and is then set must not make a list of every minute since.
_LONGEST_OUTAGE = timedelta(days=366)

LoadJobs = Callable[[], tuple[dict[str, Job], list[str]]]
PlaceRun = Callable[[Job, str], tuple[Job, Path]]


@dataclass
class _Lane:
    """What is open of one job, oldest first, as the transaction under way leaves it."""

    runs: list[tuple[datetime, TickState, int, Path | None]]

    @classmethod
    def of(cls, rows: list[RunRow]) -> "_Lane":
        return cls([(row.tick, row.state, row.attempt, row.folder) for row in rows])


@dataclass(frozen=True)
class _Plan:
    """The due ticks of one job."""

    job: Job
    schedule: Schedule
    verdicts: list[Verdict]
    complete: bool


class Decider:
    """Follows the job files and the wall clock.

    Args:
        leadership: the scheduler's.
        load_jobs: the scheduled jobs by name, and a line for each file that is wrong.
        place: the job as one run of it, and its run folder.
    """

    def __init__(self, leadership: Leadership, load_jobs: LoadJobs, place: PlaceRun) -> None:
        self._leadership, self._load_jobs, self._place = leadership, load_jobs, place
        self._jobs: dict[str, Job] = {}
        self._ticks: dict[str, Ticks] = {}
        self._rows: dict[str, JobRow] = {}
        self._next: dict[str, datetime | None] = {}
        self._last_now: datetime | None = None

    def begin(self) -> None:
        """Starts afresh from the ledger and the files, after the lead was taken."""
        self._jobs, self._next, self._last_now = {}, {}, None
        self._rows = self._leadership.ledger.jobs()
        self.reload()

    def reload(self) -> None:
        """Takes new, changed and removed job files into the ledger, none with a past.

        A changed cron or time zone counts from now on; what the old one was still owed is skipped
        and recorded. Everything else in a file counts for the next tick that is decided.
        """
        found, errors = self._load_jobs()
        jobs = dict(found)
        self._leadership.say_change("files", "; ".join(errors))
        changed = []
        for name, job in jobs.items():
            if job is self._jobs.get(name) or job.schedule is None:
                continue
            ticks, row = job.schedule.ticks(), self._rows.get(name)
            if row is None or (row.cron, row.timezone) != (ticks.cron, ticks.timezone):
                if name in self._jobs and self._is_due(name, self._leadership.clock.now()):
                    # Came due within this step: the next one decides it, then takes the edit.
                    jobs[name] = self._jobs[name]
                    continue
                changed.append((name, ticks, row))
            self._ticks[name] = ticks
        gone = [name for name, row in self._rows.items() if row.cron and name not in jobs]
        if errors:
            gone = []  # a job whose file cannot be read now has not been removed
        if changed or gone:
            self._register(changed, gone)
        self._jobs = jobs

    def _register(self, changed: list[tuple[str, Ticks, JobRow | None]], gone: list[str]) -> None:
        now = self._leadership.clock.now()
        with self._leadership.writing() as write:
            for name, ticks, row in changed:
                if row is not None and row.cron and row.timezone:
                    owed = Ticks(row.cron, row.timezone).between(row.decided_until(now), now)
                    for tick in islice(owed, _CHUNK):
                        write.skip(name, tick, "the schedule was changed before this tick ran")
                write.register(name, ticks.cron, ticks.timezone, now)
            for name in gone:
                write.drop(name)
            for run in self._leadership.ledger.open_runs():
                if run.job in gone and run.state is TickState.QUEUED:
                    write.end(run.job, run.tick, 0, TickState.SKIPPED, "the job was removed")
        for name, ticks, row in changed:
            self._leadership.say(
                f"{name}: {'changed' if row else 'scheduled'}: {ticks.cron} {ticks.timezone}"
            )
        for name in gone:
            self._leadership.say(f"{name}: no longer scheduled, its file is gone")
        self._rows, self._next = self._leadership.ledger.jobs(), {}

    def decide(self) -> bool:
        """Decides the ticks that are due and commits the intents of those that can start.

        Returns:
            True where more is due than one transaction took.
        """
        now = self._leadership.clock.now()
        self._heed_clock(now)
        plans = [self._plan(name, now) for name in self._jobs if self._is_due(name, now)]
        lanes: dict[str, _Lane] = {}
        for run in self._leadership.ledger.open_runs():
            lanes.setdefault(run.job, _Lane([])).runs.extend(_Lane.of([run]).runs)
        paused = self._leadership.ledger.paused()
        if not plans and not any(self._startable(name, lanes, paused) for name in lanes):
            return False
        intents = []
        with self._leadership.writing() as write:
            for plan in plans:
                self._apply(write, plan, lanes.setdefault(plan.job.name, _Lane([])))
            for name in lanes:
                startable = self._startable(name, lanes, paused)
                if startable is not None:
                    intents.append(self._intend(write, name, *startable))
        self._leadership.fresh.update(found for found in intents if found)
        if plans:
            self._rows = self._leadership.ledger.jobs()
            for plan in plans:
                self._next.pop(plan.job.name, None)
        return not all(plan.complete for plan in plans)

    def _heed_clock(self, now: datetime) -> None:
        went_back = self._last_now is None or now < self._last_now
        self._last_now = now
        if went_back and any(row.cursor > now for row in self._rows.values()):
            with self._leadership.writing() as write:
                write.rewind(now)
            self._leadership.say("the clock went back; ticks that have run will not run again")
            self._rows, self._next = self._leadership.ledger.jobs(), {}

    def _is_due(self, name: str, now: datetime) -> bool:
        if name not in self._next:
            self._next[name] = self._ticks[name].next_after(self._rows[name].decided_until(now))
        due_at = self._next[name]
        return due_at is not None and due_at <= now

    def _plan(self, name: str, now: datetime) -> _Plan:
        job, ticks = self._jobs[name], self._ticks[name]
        schedule = job.schedule or Schedule(cron=ticks.cron, timezone=ticks.timezone)
        start = self._rows[name].decided_until(now)
        cut = start < now - _LONGEST_OUTAGE
        start = max(start, now - _LONGEST_OUTAGE)
        grace = timedelta(seconds=self._leadership.settings.grace_s)
        edge = now - max(schedule.window, grace)
        due = list(islice(ticks.between(start, edge), _CHUNK))
        complete = len(due) < _CHUNK
        if complete:
            due += ticks.between(max(start, edge), now)
        verdicts = judge(due, now, schedule, self._leadership.ledger.pauses(name), grace)
        if cut and verdicts and verdicts[0].skip_reason:
            reason = f"{verdicts[0].skip_reason}; earlier ones are not listed"
            verdicts[0] = Verdict(verdicts[0].tick, reason)
        return _Plan(job, schedule, verdicts, complete)

    def _apply(self, write: Writes, plan: _Plan, lane: _Lane) -> None:
        """Writes one job's verdicts; ticks decided together queue behind one another."""
        name, overlap = plan.job.name, plan.schedule.overlap
        chosen = [v.tick for v in plan.verdicts if v.skip_reason is None]
        in_the_way = None
        if chosen and lane.runs and overlap == "skip":
            tick, state, _, _ = lane.runs[0]
            in_the_way = f"overlap is skip; the run of {tick:%Y-%m-%d %H:%M} UTC was {state}"
        elif chosen and lane.runs and overlap == "replace":
            self._replace(write, name, lane, chosen[-1])
        for verdict in plan.verdicts:
            reason = verdict.skip_reason or in_the_way
            if reason is not None:
                write.skip(name, verdict.tick, reason)
                continue
            placed, folder = self._place(plan.job, run_key(name, verdict.tick))
            if write.queue(name, verdict.tick, placed.model_dump_json(), folder):
                lane.runs.append((verdict.tick, TickState.QUEUED, 0, folder))
        if plan.verdicts:
            write.advance(name, plan.verdicts[-1].tick)

    def _replace(self, write: Writes, name: str, lane: _Lane, by: datetime) -> None:
        """Clears the way for a newer tick; what the cluster has is stopped first."""
        reason = f"replaced by the tick of {by:%Y-%m-%d %H:%M} UTC"
        kept = []
        for run in lane.runs:
            tick, state, attempt, _ = run
            if state is TickState.QUEUED:
                write.end(name, tick, attempt, TickState.SKIPPED, reason)
            elif state is TickState.RETRYING:
                write.end(name, tick, attempt, TickState.STOPPED, reason)
            else:
                write.stop(name, tick, reason)
                kept.append(run)
        lane.runs = kept

    def _startable(
        self, name: str, lanes: dict[str, _Lane], paused: set[str]
    ) -> tuple[datetime, int, Path | None] | None:
        """Returns tick, try and folder of the run of a job that can start now."""
        runs = lanes[name].runs
        if name in paused or not runs:
            return None
        for tick, state, attempt, folder in runs:
            if state is TickState.RETRYING:
                ready = self._leadership.ready(("retry", submission_id(name, tick, attempt)))
                return (tick, attempt + 1, folder) if ready else None
        if any(state is not TickState.QUEUED for _, state, _, _ in runs):
            return None
        tick, _, _, folder = min(runs)
        return tick, 1, folder

    def _intend(
        self, write: Writes, name: str, tick: datetime, attempt: int, folder: Path | None
    ) -> str | None:
        try:
            mark = look_at(folder).mark
        except OSError as error:
            self._leadership.say_change(f"folder {name}", f"{name}: cannot read {folder}: {error}")
            return None
        self._leadership.say_change(f"folder {name}", "")
        found = submission_id(name, tick, attempt)
        write.intend(name, tick, attempt, found, mark)
        return found
