"""Runs that no clock has asked for: those of a person, and of a job whose success came before.

A request is a row of the ledger from the start, so neither a kill nor a second scheduler loses or
doubles it; here it is placed and queued, or skipped with its reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.config.job import Job
from orchestrator.runs.states import TickState
from orchestrator.schedule.declared import CHUNK, DeclaredJobs
from orchestrator.schedule.leadership import Leadership
from orchestrator.schedule.outcomes import fail
from orchestrator.schedule.overlap import in_the_way, list_lanes, replace_runs, why_skipped
from orchestrator.schedule.placing import Placed, Placer
from orchestrator.schedule.policy import PAUSED
from orchestrator.schedule.rows import RunRow, run_key
from orchestrator.schedule.writes import Writes


@dataclass(frozen=True)
class _Verdict:
    """What becomes of a request: the job that runs, or why none does.

    Args:
        run: as requested.
        job: as declared; None where it does not run.
        replaced: open runs that make way for it.
        skip_reason: why it does not run.
    """

    run: RunRow
    job: Job | None = None
    replaced: Sequence[RunRow] = ()
    skip_reason: str | None = None


class Requests:
    """Decides what was requested.

    Args:
        leadership: the scheduler's.
        declared: the jobs in force.
        placer: finds run folders.
    """

    def __init__(self, leadership: Leadership, declared: DeclaredJobs, placer: Placer) -> None:
        self._leadership, self._declared, self._placer = leadership, declared, placer

    def decide(self) -> bool:
        """Queues or skips the requests of each job, of those that may overlap one at a time.

        Returns:
            True where something was decided: what it leads to is due at once.
        """
        requested = self._leadership.ledger.requested()[:CHUNK]
        if not requested:
            return False
        verdicts = self._judge(requested)
        placed = self._placer.place((each.job, each.run.tick) for each in verdicts if each.job)
        verdicts = [v for v in verdicts if not v.job or (v.run.job, v.run.tick) in placed]
        if not verdicts:
            return False
        with self._leadership.writing() as write:
            for verdict in verdicts:
                self._apply(write, verdict, placed)
        return True

    def _judge(self, requested: list[RunRow]) -> list[_Verdict]:
        """Returns what becomes of requests; those that others of their job hold up are left out."""
        ledger, jobs = self._leadership.ledger, self._declared.jobs
        lanes, paused = list_lanes(ledger.open_runs()), ledger.paused()
        verdicts, met = [], set()
        for run in requested:
            job = jobs.get(run.job)
            if job is None:
                if reason := self._why_unknown(run):
                    verdicts.append(_Verdict(run, skip_reason=reason))
            elif run.origin == "backfill":
                verdicts.append(_Verdict(run, job))
            elif run.job not in met:
                met.add(run.job)
                lane = in_the_way(lanes.get(run.job, []))
                overlap = job.schedule.overlap if job.schedule else "skip"
                if run.job in paused:
                    verdicts.append(_Verdict(run, skip_reason=PAUSED))
                elif lane and overlap == "skip":
                    verdicts.append(_Verdict(run, skip_reason=why_skipped(lane)))
                else:
                    replaced = lane if overlap == "replace" else []
                    verdicts.append(_Verdict(run, job, replaced))
        return verdicts

    def _why_unknown(self, run: RunRow) -> str | None:
        """Returns why a job that is not in force will not run; None where it may still come."""
        row = self._declared.rows.get(run.job)
        if row is not None:
            return "the job was removed" if row.cron is None else None
        waited_s = (self._leadership.clock.now() - run.decided_at).total_seconds()
        if not self._declared.are_read or waited_s < self._leadership.settings.removal_s:
            return None
        return "the scheduler that runs on this ledger has no file of this job"

    def _apply(self, write: Writes, verdict: _Verdict, placed: Placed) -> None:
        run, job, outcome = verdict.run, verdict.job, "is queued"
        if job is None:
            write.end(run.job, run.tick, 0, TickState.SKIPPED, verdict.skip_reason)
            outcome = f"{TickState.SKIPPED}: {verdict.skip_reason}"
        else:
            answer = placed[run.job, run.tick]
            if isinstance(answer, str):
                reason = fail(write, job, run.job, run.tick, answer)
                outcome = f"{TickState.FAILED}: {reason}"
            else:
                replace_runs(write, verdict.replaced, run.tick)
                write.grant(run.job, run.tick, answer[0].model_dump_json(), answer[1])
        self._leadership.say(f"{run_key(run.job, run.tick)}: {run.origin}: {outcome}")
