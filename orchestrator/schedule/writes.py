"""The leader's writes, each inside the transaction that `Ledger.writing` opened.

Every statement carries the leader's token; the triggers of `tables.py` refuse a stale one.
"""

import sqlite3
from datetime import datetime
from pathlib import Path

from orchestrator.config.cron import AFTER
from orchestrator.runs.states import TickState
from orchestrator.schedule.rows import Notice, run_key


def find_free_tick(database: sqlite3.Connection, job: str, tick: int) -> int:
    """Returns the first second from a tick on at which a job has no row, s since 1970."""
    taken = "SELECT 1 FROM runs WHERE job = ? AND tick = ?"
    while database.execute(taken, (job, tick)).fetchone():
        tick += 1
    return tick


class Writes:
    """What a leader may write.

    Args:
        database: connection inside an open transaction.
        token: the leader's.
        now: the instant recorded.
    """

    def __init__(self, database: sqlite3.Connection, token: int, now: datetime) -> None:
        self._db = database
        self._token = token
        self._now = now.timestamp()

    def register(self, job: str, cron: str, timezone: str, cursor: datetime) -> None:
        """Stores a job's schedule; ticks up to `cursor` will never be considered."""
        at = int(cursor.timestamp())
        self._db.execute(
            "INSERT INTO jobs (name, cron, timezone, cursor, high, registered_at, token) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
            "cron = excluded.cron, timezone = excluded.timezone, cursor = excluded.cursor, "
            "high = excluded.high, registered_at = excluded.registered_at, skips = 0, "
            "token = excluded.token",
            (job, cron, timezone, at, at, cursor.timestamp(), self._token),
        )

    def keep(self, job: str, file: str, spec: str) -> None:
        """Stores the last good version of a registered job, JSON, and the name of its file."""
        self._db.execute(
            "UPDATE jobs SET file = ?, spec = ?, token = ? WHERE name = ?",
            (file, spec, self._token, job),
        )

    def drop(self, job: str) -> None:
        """Marks a job whose file is gone; its history stays."""
        self._db.execute(
            "UPDATE jobs SET cron = NULL, timezone = NULL, token = ? WHERE name = ?",
            (self._token, job),
        )

    def advance(self, job: str, cursor: datetime, skips: int) -> None:
        """Stores that ticks up to `cursor` are decided, the last so many of them skipped."""
        self._db.execute(
            "UPDATE jobs SET cursor = ?, skips = ?, token = ? WHERE name = ?",
            (int(cursor.timestamp()), skips, self._token, job),
        )

    def rewind(self, cursor: datetime) -> int:
        """Follows a clock that went back: no job is decided further than `cursor`."""
        at = int(cursor.timestamp())
        return self._db.execute(
            "UPDATE jobs SET high = max(high, cursor), cursor = ?, token = ? WHERE cursor > ?",
            (at, self._token, at),
        ).rowcount

    def skip(self, job: str, tick: datetime, reason: str) -> bool:
        """Records that a tick will not run and why; False where it has a row that is not a skip."""
        return self._add(job, tick, TickState.SKIPPED, reason, None, None)

    def queue(self, job: str, tick: datetime, spec: str, folder: Path | None) -> bool:
        """Records that a tick is to run; False where it has run or is to run already."""
        return self._add(job, tick, TickState.QUEUED, None, spec, str(folder) if folder else None)

    def grant(self, job: str, tick: datetime, spec: str, folder: Path | None) -> None:
        """Records that a run which was requested is to run."""
        self._db.execute(
            "UPDATE runs SET state = ?, spec = ?, folder = ?, decided_at = ?, token = ? "
            "WHERE job = ? AND tick = ?",
            (
                TickState.QUEUED,
                spec,
                str(folder) if folder else None,
                self._now,
                self._token,
                job,
                int(tick.timestamp()),
            ),
        )

    def _add(
        self,
        job: str,
        tick: datetime,
        state: TickState,
        reason: str | None,
        spec: str | None,
        folder: str | None,
    ) -> bool:
        # A skip may be decided again: only a clock that went back leads here a second time.
        done = self._db.execute(
            "INSERT INTO runs "
            "(job, tick, state, reason, spec, folder, decided_at, ended_at, token, origin) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'cron') ON CONFLICT (job, tick) DO UPDATE SET "
            "state = excluded.state, reason = excluded.reason, spec = excluded.spec, "
            "folder = excluded.folder, decided_at = excluded.decided_at, "
            "ended_at = excluded.ended_at, token = excluded.token WHERE runs.state = 'SKIPPED'",
            (
                job,
                int(tick.timestamp()),
                state,
                reason,
                spec,
                folder,
                self._now,
                self._now if state is TickState.SKIPPED else None,
                self._token,
            ),
        )
        return bool(done.rowcount)

    def intend(
        self, job: str, tick: datetime, attempt: int, submission_id: str, mark: str | None
    ) -> None:
        """Commits to submitting a try under its id, before the cluster hears of it."""
        at = int(tick.timestamp())
        self._db.execute(
            "UPDATE runs SET state = ?, attempt = ?, reason = NULL, stop_reason = NULL, token = ? "
            "WHERE job = ? AND tick = ?",
            (TickState.SUBMITTING, attempt, self._token, job, at),
        )
        self._db.execute(
            "INSERT INTO attempts (submission_id, job, tick, attempt, state, mark, intent_at, "
            "token) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                submission_id,
                job,
                at,
                attempt,
                TickState.SUBMITTING,
                mark,
                self._now,
                self._token,
            ),
        )

    def observe(self, job: str, tick: datetime, attempt: int, state: TickState) -> None:
        """Records that the cluster has a try, PENDING or RUNNING."""
        at = int(tick.timestamp())
        self._db.execute(
            "UPDATE runs SET state = ?, token = ? WHERE job = ? AND tick = ?",
            (state, self._token, job, at),
        )
        self._db.execute(
            "UPDATE attempts SET state = ?, submitted_at = coalesce(submitted_at, ?), token = ? "
            "WHERE job = ? AND tick = ? AND attempt = ?",
            (state, self._now, self._token, job, at, attempt),
        )

    def stop(self, job: str, tick: datetime, reason: str) -> None:
        """Commits to stopping a run, before the cluster is asked to."""
        self._db.execute(
            "UPDATE runs SET stop_reason = ?, token = ? WHERE job = ? AND tick = ?",
            (reason, self._token, job, int(tick.timestamp())),
        )

    def end(
        self,
        job: str,
        tick: datetime,
        attempt: int,
        outcome: TickState,
        reason: str | None,
        *,
        run_state: TickState | None = None,
    ) -> None:
        """Records the result of a try, and of the run unless `run_state` says it goes on.

        Args:
            job: its name.
            tick: of the run.
            attempt: the try, 0 where none was made.
            outcome: SUCCEEDED, FAILED, STOPPED, or SKIPPED for a queued run that never started.
            reason: one line for `schedule history`.
            run_state: RETRYING where another try is to come.
        """
        at, state = int(tick.timestamp()), run_state or outcome
        self._db.execute(
            "UPDATE attempts SET state = ?, reason = ?, ended_at = ?, token = ? "
            "WHERE job = ? AND tick = ? AND attempt = ? AND ended_at IS NULL",
            (outcome, reason, self._now, self._token, job, at, attempt),
        )
        self._db.execute(
            "UPDATE runs SET state = ?, reason = ?, ended_at = ?, token = ? "
            "WHERE job = ? AND tick = ?",
            (
                state,
                reason,
                None if state is TickState.RETRYING else self._now,
                self._token,
                job,
                at,
            ),
        )
        if state is TickState.SUCCEEDED:
            self._db.execute(
                "UPDATE jobs SET succeeded_at = ?, token = ? WHERE name = ?",
                (self._now, self._token, job),
            )
            self._request_after(job, tick)

    def _request_after(self, job: str, tick: datetime) -> None:
        """Requests a run of every job that follows this one, in the transaction of its success."""
        followers = self._db.execute(
            "SELECT name FROM jobs WHERE cron = ?", (f"{AFTER}{job}",)
        ).fetchall()
        for (name,) in followers:
            self._db.execute(
                "INSERT INTO runs (job, tick, state, decided_at, origin, token) "
                "VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (job, origin) WHERE origin LIKE 'after %' DO NOTHING",
                (
                    name,
                    find_free_tick(self._db, name, int(tick.timestamp())),
                    TickState.REQUESTED,
                    self._now,
                    f"{AFTER}{run_key(job, tick)}",
                    self._token,
                ),
            )

    def pause(self, job: str) -> None:
        """Pauses a job, where it is not paused already."""
        self._db.execute("INSERT OR IGNORE INTO pauses VALUES (?, ?, NULL)", (job, self._now))

    def notify(self, notice: Notice) -> None:
        """Records a notice that is to be sent, unless that incident has one."""
        self._db.execute(
            "INSERT INTO notices VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?, ?) "
            "ON CONFLICT DO NOTHING",
            (
                notice.job,
                int(notice.tick.timestamp()),
                notice.kind,
                notice.state,
                notice.reason,
                notice.attempts,
                notice.submission_id,
                notice.target,
                self._now,
                self._token,
            ),
        )

    def record_sending(self, notice: Notice, outcome: str) -> None:
        """Records that a notice was `sent`, or why it was not."""
        self._db.execute(
            "UPDATE notices SET outcome = ?, token = ? WHERE job = ? AND tick = ? AND kind = ?",
            (outcome, self._token, notice.job, int(notice.tick.timestamp()), notice.kind),
        )

    def fault(self, source: str, topic: str, problem: str | None) -> None:
        """Records what is wrong with a job or a file; None where it is fixed."""
        self._db.execute(
            "INSERT INTO faults VALUES (?, ?, ?, ?, ?) ON CONFLICT (source, topic) DO UPDATE SET "
            "problem = excluded.problem, since = excluded.since, token = excluded.token",
            (source, topic, problem, self._now, self._token),
        )
