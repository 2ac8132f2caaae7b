"""Due ticks into rows of the ledger, and rows into intents: all that is decided by wall clock.

Everything that needs a file is asked for first, and the transaction that follows only writes: a
share that hangs keeps neither this scheduler nor the one that waits for the lead.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path

from orchestrator.config.job import Job, Schedule
from orchestrator.runs.states import TickState
from orchestrator.schedule.declared import CHUNK, DeclaredJobs
from orchestrator.schedule.leadership import Leadership
from orchestrator.schedule.outcomes import fail
from orchestrator.schedule.overlap import (
    in_the_way,
    list_lanes,
    next_in_lane,
    replace_runs,
    why_skipped,
)
from orchestrator.schedule.placing import Placer
from orchestrator.schedule.policy import PAUSED, Verdict, judge
from orchestrator.schedule.rows import Notice, RunRow, run_key, submission_id
from orchestrator.schedule.writes import Writes

# A clock that starts in 1970 and is then set must not make a list of every minute since.
_LONGEST_OUTAGE = timedelta(days=366)


@dataclass
class _Plan:
    """The due ticks of one job.

    Args:
        job: its name, and all that is declared of it.
        schedule: the job's.
        verdicts: what happens to each tick, in order.
        complete: no more is due.
        replaced: open runs that make way for the newest tick.
        placed: the run of each tick that runs, and its folder.
        impossible: why a tick that should run cannot.
    """

    job: Job
    schedule: Schedule
    verdicts: list[Verdict]
    complete: bool
    replaced: list[RunRow]
    placed: dict[datetime, tuple[Job, Path]] = field(default_factory=dict)
    impossible: dict[datetime, str] = field(default_factory=dict)


class Decider:
    """Follows the wall clock.

    Args:
        leadership: the scheduler's.
        declared: the jobs in force.
        placer: finds run folders.
    """

    def __init__(self, leadership: Leadership, declared: DeclaredJobs, placer: Placer) -> None:
        self._leadership, self._declared, self._placer = leadership, declared, placer
        self._last_now: datetime | None = None

    def begin(self) -> None:
        """Forgets what it saw of the clock, after the lead was taken."""
        self._last_now = None

    def decide(self) -> bool:
        """Decides the ticks that are due and commits the intents of those that can start.

        Returns:
            True where more is due than one transaction took.
        """
        leadership = self._leadership
        now = leadership.clock.now()
        self._declared.refresh()
        self._heed_clock(now)
        lanes = list_lanes(leadership.ledger.open_runs())
        plans: list[_Plan] = []
        for name in self._declared.jobs:
            make = partial(self._plan, name, now, lanes.get(name, []))
            found = leadership.attempt(name, "decision", make)
            plans += [found] if found else []
        self._place_runs(plans)
        decided = [plan for plan in plans if plan.verdicts]
        if decided:
            with leadership.writing() as write:
                for plan in decided:
                    self._apply(write, plan)
            lanes = list_lanes(leadership.ledger.open_runs())
        self._start(lanes)
        return not all(plan.complete for plan in plans)

    def _heed_clock(self, now: datetime) -> None:
        went_back = self._last_now is None or now < self._last_now
        self._last_now = now
        if went_back and any(row.cursor > now for row in self._declared.rows.values()):
            with self._leadership.writing() as write:
                write.rewind(now)
            self._leadership.say("the clock went back; ticks that have run will not run again")
            self._declared.refresh()

    def _plan(self, name: str, now: datetime, lane: list[RunRow]) -> _Plan | None:
        """Returns what happens to a job's due ticks, None where none is due.

        Args:
            name: the job's.
            now: current instant.
            lane: what is open of the job, oldest first.
        """
        declared, settings = self._declared, self._leadership.settings
        if not declared.is_due(name, now):
            return None
        job, ticks = declared.jobs[name], declared.ticks(name)
        schedule = job.schedule or Schedule(cron=ticks.cron, timezone=ticks.timezone)
        start = declared.rows[name].decided_until(now)
        cut = start < now - _LONGEST_OUTAGE
        start = max(start, now - _LONGEST_OUTAGE)
        grace = timedelta(seconds=settings.grace_s)
        edge = now - max(schedule.window, grace)
        due = list(islice(ticks.between(start, edge), CHUNK))
        complete = len(due) < CHUNK
        if complete:
            due += ticks.between(max(start, edge), now)
        verdicts = judge(due, now, schedule, self._leadership.ledger.pauses(name), grace)
        if cut and verdicts and verdicts[0].skip_reason:
            reason = f"{verdicts[0].skip_reason}; earlier ones are not listed"
            verdicts[0] = Verdict(verdicts[0].tick, reason)
        replaced = []
        lane = in_the_way(lane)
        if lane and schedule.overlap == "skip":
            reason = why_skipped(lane)
            verdicts = [Verdict(each.tick, each.skip_reason or reason) for each in verdicts]
        elif schedule.overlap == "replace":
            replaced = lane
        return _Plan(job, schedule, verdicts, complete, replaced)

    def _place_runs(self, plans: list[_Plan]) -> None:
        """Finds the folder of every run to be; a job whose storage is silent waits at that tick."""
        answers = self._placer.place(
            (plan.job, each.tick)
            for plan in plans
            for each in plan.verdicts
            if each.skip_reason is None
        )
        for plan in plans:
            for at, each in enumerate(plan.verdicts):
                if each.skip_reason is not None:
                    continue
                answer = answers.get((plan.job.name, each.tick))
                if answer is None:
                    plan.verdicts, plan.complete = plan.verdicts[:at], True
                    break
                if isinstance(answer, str):
                    plan.impossible[each.tick] = answer
                else:
                    plan.placed[each.tick] = answer

    def _apply(self, write: Writes, plan: _Plan) -> None:
        """Writes one job's verdicts; ticks decided together queue behind one another."""
        name = plan.job.name
        before = skips = self._declared.rows[name].skips
        newest = None
        for each in plan.verdicts:
            tick = each.tick
            if each.skip_reason is not None:
                is_new = write.skip(name, tick, each.skip_reason)
                skips += is_new and each.skip_reason != PAUSED
                continue
            placed, folder = plan.placed.get(tick, (plan.job, None))
            if write.queue(name, tick, placed.model_dump_json(), folder):
                skips = 0
                if tick in plan.impossible:
                    reason = fail(write, plan.job, name, tick, plan.impossible[tick])
                    self._leadership.say(f"{run_key(name, tick)}: {TickState.FAILED}: {reason}")
                else:
                    newest = tick
        if newest is not None:  # and not for a tick that a backfill had asked for already
            replace_runs(write, plan.replaced, newest)
        last = plan.verdicts[-1]
        write.advance(name, last.tick, skips)
        if before < plan.schedule.notify_after_skips <= skips:
            reason = f"{skips} ticks in a row were skipped, the last one: {last.skip_reason}"
            self._notify_skips(write, plan.job, last.tick, reason)

    def _notify_skips(self, write: Writes, job: Job, tick: datetime, reason: str) -> None:
        self._leadership.say(f"{run_key(job.name, tick)}: {TickState.SKIPPED}: {reason}")
        if job.on_failure is not None:
            target = job.on_failure.model_dump_json()
            write.notify(Notice(job.name, tick, "skips", TickState.SKIPPED, reason, 0, "", target))

    def _start(self, lanes: dict[str, list[RunRow]]) -> None:
        """Commits the intents of the runs that can start."""
        leadership = self._leadership
        paused = leadership.ledger.paused()
        lanes = {name: lane for name, lane in lanes.items() if name not in paused}
        starts = [found for found in map(self._startable, lanes.values()) if found]
        evidence = leadership.look_into([run for run, _ in starts])
        intents = [(run, attempt, evidence[run]) for run, attempt in starts if run in evidence]
        if not intents:
            return
        ids = [submission_id(run.job, run.tick, attempt) for run, attempt, _ in intents]
        with leadership.writing() as write:
            for found, (run, attempt, shown) in zip(ids, intents, strict=True):
                write.intend(run.job, run.tick, attempt, found, shown.mark)
        leadership.fresh.update(ids)

    def _startable(self, lane: list[RunRow]) -> tuple[RunRow, int] | None:
        """Returns the run of a job that can start now, and which try of it."""
        for run in lane:
            if run.state is TickState.RETRYING:
                ready = self._leadership.ready(("retry", run.submission_id or ""))
                return (run, run.attempt + 1) if ready else None
        if any(run.state is not TickState.QUEUED for run in lane):
            return None
        return next_in_lane(lane), 1
