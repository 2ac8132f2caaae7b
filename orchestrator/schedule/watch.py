"""Watches for nights without a result: no run of a job has succeeded for its window."""

from datetime import datetime

from orchestrator.config.job import Job
from orchestrator.schedule.declared import DeclaredJobs
from orchestrator.schedule.leadership import Leadership
from orchestrator.schedule.policy import describe
from orchestrator.schedule.rows import Notice


class Watch:
    """Notifies once when a job's first tick since its last success is older than its window.

    However the silence came about: runs that fail, one that hangs, ticks that are skipped, a
    scheduler that was down. A pause is wanted, so nothing is missed in it.

    Args:
        leadership: the scheduler's.
        declared: the jobs in force.
    """

    def __init__(self, leadership: Leadership, declared: DeclaredJobs) -> None:
        self._leadership, self._declared = leadership, declared
        self._notified: dict[str, datetime] = {}

    def step(self) -> None:
        """Raises the notices that are due."""
        leadership, ledger = self._leadership, self._leadership.ledger
        now = leadership.clock.now()
        paused, resumed = ledger.paused(), ledger.resumed()
        late: list[tuple[Job, datetime, str]] = []
        for name, job in self._declared.jobs.items():
            row = self._declared.rows[name]
            if name in paused or job.schedule is None:
                continue
            known = (row.registered_at, row.succeeded_at, resumed.get(name))
            since = max(moment for moment in known if moment is not None)
            tick = self._declared.next_after(name, since, "watch")
            window = job.schedule.window
            if tick is None or now - tick <= window or self._notified.get(name) == tick:
                continue
            self._notified[name] = tick
            reason = f"no run has succeeded within {describe(window)} after it was due"
            late.append((job, tick, reason))
        if not late:
            return
        with leadership.writing() as write:
            for job, tick, reason in late:
                if job.on_failure is not None:
                    target = job.on_failure.model_dump_json()
                    write.notify(
                        Notice(job.name, tick, "overdue", "OVERDUE", reason, 0, "", target)
                    )
        for job, tick, reason in late:
            leadership.say(f"{job.name}: the tick of {tick:%Y-%m-%d %H:%M} UTC: {reason}")
