"""What the ledger holds, row by row, and the names of runs and tries."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from orchestrator.runs.states import TickState


@dataclass(frozen=True)
class JobRow:
    """What the ledger knows of a job.

    Args:
        name: of the job.
        cron: as last seen, or `after JOB`; None once its file is gone.
        timezone: as last seen.
        cursor: ticks up to here are decided.
        high: the greatest cursor ever.
        file: name of its file; None in a ledger that was made before this was kept.
        spec: its last good version, JSON; None likewise.
        registered_at: when its schedule began to count.
        succeeded_at: when a run of it was last seen to have succeeded.
        skips: ticks skipped in a row.
    """

    name: str
    cron: str | None
    timezone: str | None
    cursor: datetime
    high: datetime
    file: str | None
    spec: str | None
    registered_at: datetime
    succeeded_at: datetime | None
    skips: int

    def decided_until(self, now: datetime) -> datetime:
        """Returns the instant after which ticks are undecided.

        After the clock went back ticks are decided again from there (runs are unique, so none runs
        twice), until the clock passes the point it had reached before.
        """
        return max(self.cursor, self.high) if now >= self.high else self.cursor


@dataclass(frozen=True)
class RunRow:
    """One tick of one job and its latest try.

    `origin` is what it came from: cron, trigger, backfill, or `after` with a run of another job.
    """

    job: str
    tick: datetime
    state: TickState
    reason: str | None
    attempt: int
    spec: str | None
    folder: Path | None
    stop_reason: str | None
    decided_at: datetime
    ended_at: datetime | None
    notice: str | None
    submission_id: str | None
    mark: str | None
    intent_at: datetime | None
    submitted_at: datetime | None
    origin: str


@dataclass(frozen=True)
class Notice:
    """A notice, sent once for each incident.

    Args:
        job: its name.
        tick: the run that failed; the last tick that was skipped; the first that nothing has
            succeeded for.
        kind: of the incident.
        state: SKIPPED, OVERDUE, or the run's.
        reason: one line.
        attempts: tries that were made.
        submission_id: of the last try, empty without one.
        target: who is notified: `on_failure`, JSON.
    """

    job: str
    tick: datetime
    kind: Literal["failure", "skips", "overdue"]
    state: str
    reason: str
    attempts: int
    submission_id: str
    target: str


# In the order of their fields.
JOB_COLUMNS = (
    "SELECT name, cron, timezone, cursor, high, file, spec, registered_at, succeeded_at, skips "
    "FROM jobs ORDER BY name"
)
RUN_COLUMNS = """
SELECT r.job, r.tick, r.state, r.reason, r.attempt, r.spec, r.folder, r.stop_reason, r.decided_at,
       r.ended_at, n.outcome, a.submission_id, a.mark, a.intent_at, a.submitted_at,
       r.origin
FROM runs r
LEFT JOIN attempts a ON a.job = r.job AND a.tick = r.tick AND a.attempt = r.attempt
LEFT JOIN notices n ON n.job = r.job AND n.tick = r.tick AND n.kind = 'failure'
"""
NOTICE_COLUMNS = (
    "SELECT job, tick, kind, state, reason, attempts, submission_id, target FROM notices"
)


def job_row(row: tuple[Any, ...]) -> JobRow:
    """Returns a row of `JOB_COLUMNS`."""
    return JobRow(*(_moments(row, 3, 4, 7, 8)))


def run_row(row: tuple[Any, ...]) -> RunRow:
    """Returns a row of `RUN_COLUMNS`."""
    fields = _moments(row, 1, 8, 9, 13, 14)
    fields[2] = TickState(fields[2])
    fields[6] = Path(fields[6]) if fields[6] is not None else None
    return RunRow(*fields)


def notice_row(row: tuple[Any, ...]) -> Notice:
    """Returns a row of `NOTICE_COLUMNS`."""
    return Notice(*_moments(row, 1))


def moment(stamp: float) -> datetime:
    """Returns a time of the ledger."""
    return datetime.fromtimestamp(stamp, UTC)


def submission_id(job: str, tick: datetime, attempt: int) -> str:
    """Returns the id of a try, such as `nightly-20260131T020000Z-1`.

    Derived from job, tick and try alone, so a scheduler that lost its memory asks for the same one,
    and different for any two of them: the tick and the try have a fixed form at the end.

    Args:
        job: at most 60 of `[A-Za-z0-9_-]`.
        tick: aware instant.
        attempt: 1 for the first try.

    Returns:
        At most 100 of `[A-Za-z0-9_-]`, all that Ray Jobs takes.
    """
    return f"{run_key(job, tick)}-{attempt}"


def run_key(job: str, tick: datetime) -> str:
    """Returns the name of a tick's run, the same for all its tries: `nightly-20260131T020000Z`."""
    return f"{job}-{tick.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def _moments(row: tuple[Any, ...], *places: int) -> list[Any]:
    """Fields of a row, those at some places read as times."""
    return [
        moment(value) if at in places and value is not None else value
        for at, value in enumerate(row)
    ]
