"""The ledger: what was decided for every tick of every job, in one SQLite file.

The promises rest here: a row per (job, tick) that can exist once, an intent on disk before the
cluster is asked, and one leader at a time. The file must lie on a disk of the machine that the
schedulers run on: SQLite's write-ahead log does not work over a network file system.

No policy and no cluster: `loop.py` has the one, its caller the other. Writes of the leader are in
`writes.py`.

Over 300 lines: every read of the file is here.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.errors import ClusterError, SpecError, describe_newer
from orchestrator.runs.folders import make_folder, sync_folder
from orchestrator.runs.states import OPEN, TickState
from orchestrator.schedule.migrate import migrate
from orchestrator.schedule.rows import (
    JOB_COLUMNS,
    NOTICE_COLUMNS,
    RUN_COLUMNS,
    JobRow,
    Notice,
    RunRow,
    job_row,
    moment,
    notice_row,
    run_row,
)
from orchestrator.schedule.tables import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    SUPERSEDED,
    UNFINISHED,
    build_schema,
    split_statements,
)
from orchestrator.schedule.writes import Writes, find_free_tick

_BUSY_S = 30.0  # longest wait for another process's write


class Superseded(Exception):
    """Another scheduler leads now; nothing of the refused transaction was written."""


@dataclass(frozen=True)
class Lease:
    """Leadership, as taken: worth nothing once the ledger holds a greater token."""

    token: int
    duration_s: float


def list_job_names(path: Path) -> list[str]:
    """Returns the jobs of a ledger; none where it is not there or cannot be read at once.

    For the shell's completion: takes no part in the ledger, neither makes it nor waits for it.
    """
    try:
        address = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=0.2)) as db:
            return [name for (name,) in db.execute("SELECT name FROM jobs ORDER BY name")]
    except (OSError, sqlite3.Error):
        return []


class Ledger:
    """An open ledger; one per process and thread.

    A ledger of an earlier version of the program is brought to this one's when it is opened. The
    schedulers of the earlier version then end, with an error, when they next decide a tick.

    Args:
        path: the file; made with mode 0600, since a job's spec may name secret addresses.

    Raises:
        SpecError: the file is something else, or from a newer version.
        ClusterError: the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._errors():
            make_folder(path.parent)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            sync_folder(path.parent)
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
            self._use_wal()
            self._db.execute("PRAGMA synchronous = FULL")  # an intent survives a power cut
            self._prepare()
            self._db.execute("PRAGMA foreign_keys = ON")

    def _use_wal(self) -> None:
        """Sets the journal's mode, for which SQLite does not wait where another one is writing."""
        until = time.monotonic() + _BUSY_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            time.sleep(0.02)

    def _prepare(self) -> None:
        with self._transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            (application,) = self._db.execute("PRAGMA application_id").fetchone()
            (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if not tables:
                for statement in split_statements(build_schema()):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif application != APPLICATION_ID or version < 1:
                raise SpecError(f"{self.path} is another SQLite file; name a ledger or a new file")
            elif version > SCHEMA_VERSION:
                raise SpecError(describe_newer(self.path, version, SCHEMA_VERSION))
            elif version < SCHEMA_VERSION:
                migrate(self._db, version, datetime.now(UTC))

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError as error:
            if str(error) == SUPERSEDED:
                raise Superseded("another scheduler has taken over") from error
            raise
        except (sqlite3.OperationalError, OSError) as error:
            raise ClusterError(
                f"cannot use the ledger {self.path}: {error}; it needs a local disk with free "
                "space that this user may write to"
            ) from error
        except sqlite3.DatabaseError as error:
            raise SpecError(
                f"{self.path} is not a ledger ({error}); name a ledger or a new file"
            ) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    # --- leadership -------------------------------------------------------------------------

    def acquire(self, holder: str, now: datetime, duration_s: float) -> Lease | None:
        """Takes the lead where nobody has it; None where another scheduler does.

        Args:
            holder: name of this scheduler, unique among those alive.
            now: current instant. A lease that ends further ahead than it could was written before
                the clock went back, and counts as ended.
            duration_s: how long the lead holds without renewal, s.
        """
        stamp = now.timestamp()
        with self._errors(), self._transaction():
            token, expires_at = self._db.execute("SELECT token, expires_at FROM lease").fetchone()
            if stamp < expires_at <= stamp + 2 * duration_s:
                return None
            self._db.execute(
                "UPDATE lease SET token = ?, holder = ?, expires_at = ?",
                (token + 1, holder, stamp + duration_s),
            )
        return Lease(token + 1, duration_s)

    def renew(self, lease: Lease, now: datetime) -> None:
        """Holds the lead for another `lease.duration_s`; raises `Superseded` where it is lost."""
        with self._errors(), self._transaction():
            self._renew(lease, now)

    def _renew(self, lease: Lease, now: datetime) -> None:
        changed = self._db.execute(
            "UPDATE lease SET expires_at = ? WHERE token = ?",
            (now.timestamp() + lease.duration_s, lease.token),
        )
        if not changed.rowcount:
            raise Superseded("another scheduler has taken over")

    def is_led(self, now: datetime) -> bool:
        """Returns whether a scheduler leads."""
        ((expires_at,),) = self._query("SELECT expires_at FROM lease")
        return bool(expires_at > now.timestamp())

    def check(self, lease: Lease) -> None:
        """Raises `Superseded` where the lead is lost; a read, without a commit."""
        with self._errors():
            (token,) = self._db.execute("SELECT token FROM lease").fetchone()
        if token != lease.token:
            raise Superseded("another scheduler has taken over")

    def release(self, lease: Lease) -> None:
        """Gives the lead up at once, so that a waiting scheduler need not wait."""
        with self._errors(), self._transaction():
            self._db.execute("UPDATE lease SET expires_at = 0 WHERE token = ?", (lease.token,))

    @contextlib.contextmanager
    def writing(self, lease: Lease, now: datetime) -> Iterator[Writes]:
        """Yields the leader's writes as one transaction: all of it is on disk after, or nothing.

        Raises:
            Superseded: another scheduler leads; the database has refused the writes.
        """
        with self._errors(), self._transaction():
            yield Writes(self._db, lease.token, now)
            self._renew(lease, now)

    # --- pausing, for anybody ---------------------------------------------------------------

    def pause(self, job: str, now: datetime) -> bool:
        """Pauses a job: its ticks are skipped, nothing of it starts. False where it was paused."""
        with self._errors(), self._transaction():
            done = self._db.execute(
                "INSERT OR IGNORE INTO pauses VALUES (?, ?, NULL)", (job, now.timestamp())
            )
        return bool(done.rowcount)

    def resume(self, job: str, now: datetime) -> bool:
        """Ends a pause; ticks that fell into it stay skipped. False where it was not paused."""
        with self._errors(), self._transaction():
            done = self._db.execute(
                "UPDATE pauses SET resumed_at = ? WHERE job = ? AND resumed_at IS NULL",
                (now.timestamp(), job),
            )
        return bool(done.rowcount)

    def pauses(self, job: str) -> list[tuple[datetime, datetime | None]]:
        """Returns a job's pauses, each from and until; None for one that lasts."""
        rows = self._query("SELECT paused_at, resumed_at FROM pauses WHERE job = ?", job)
        return [(moment(a), moment(b) if b is not None else None) for a, b in rows]

    def paused(self) -> set[str]:
        """Returns the jobs that are paused now."""
        return {job for (job,) in self._query("SELECT job FROM pauses WHERE resumed_at IS NULL")}

    def resumed(self) -> dict[str, datetime]:
        """Returns when the last pause of each job ended."""
        rows = self._query("SELECT job, max(resumed_at) FROM pauses GROUP BY job")
        return {job: moment(stamp) for job, stamp in rows if stamp is not None}

    # --- requests, from anybody; they have the token of whoever leads, who decides them ---------

    def trigger(self, job: str, now: datetime) -> datetime:
        """Requests a run of a job at once; returns its tick, a second that no cron tick has."""
        with self._errors(), self._transaction():
            tick = int(now.timestamp())
            while (tick := find_free_tick(self._db, job, tick)) % 60 == 0:
                tick += 1
            self._request(job, tick, "trigger", now)
        return moment(tick)

    def backfill(self, job: str, ticks: Iterable[datetime], now: datetime) -> list[datetime]:
        """Requests the ticks of a job that have no run; one that was skipped has none."""
        with self._errors(), self._transaction():
            return [t for t in ticks if self._request(job, int(t.timestamp()), "backfill", now)]

    def _request(self, job: str, tick: int, origin: str, now: datetime) -> bool:
        done = self._db.execute(
            "INSERT INTO runs (job, tick, state, decided_at, origin, token) "
            "VALUES (?, ?, ?, ?, ?, (SELECT token FROM lease)) ON CONFLICT (job, tick) DO UPDATE "
            "SET state = excluded.state, decided_at = excluded.decided_at, reason = NULL, "
            "ended_at = NULL, origin = excluded.origin, token = excluded.token "
            "WHERE runs.state = 'SKIPPED'",
            (job, tick, TickState.REQUESTED, now.timestamp(), origin),
        )
        return bool(done.rowcount)

    # --- reading ----------------------------------------------------------------------------

    def jobs(self) -> dict[str, JobRow]:
        """Returns every job ever scheduled, by name."""
        return {row[0]: job_row(row) for row in self._query(JOB_COLUMNS)}

    def faults(self) -> dict[tuple[str, str], str]:
        """Returns what is wrong, by its source, a job or else a file, and its topic."""
        rows = self._query("SELECT source, topic, problem FROM faults WHERE problem IS NOT NULL")
        return {(source, topic): problem for source, topic, problem in rows}

    def open_runs(self) -> list[RunRow]:
        """Returns what is not finished, oldest tick first."""
        return self._unfinished(*OPEN)

    def requested(self) -> list[RunRow]:
        """Returns the runs that were requested and are not decided yet, oldest tick first."""
        return self._unfinished(TickState.REQUESTED)

    def notices(self) -> list[Notice]:
        """Returns the notices that are still to be sent, oldest tick first."""
        rows = self._query(NOTICE_COLUMNS + " WHERE outcome = 'pending' ORDER BY tick, job")
        return [notice_row(row) for row in rows]

    def history(self, job: str | None = None, limit: int = 50) -> list[RunRow]:
        """Returns the newest ticks, newest first, of one job or of all."""
        if job is None:
            return self._runs("ORDER BY r.tick DESC, r.job LIMIT ?", limit)
        return self._runs("WHERE r.job = ? ORDER BY r.tick DESC LIMIT ?", job, limit)

    def attempts(self, job: str, tick: datetime) -> list[tuple[str, TickState, str | None]]:
        """Returns (submission id, state, reason) of each try of a tick, first to last."""
        rows = self._query(
            "SELECT submission_id, state, reason FROM attempts WHERE job = ? AND tick = ? "
            "ORDER BY attempt",
            job,
            int(tick.timestamp()),
        )
        return [(sid, TickState(state), reason) for sid, state, reason in rows]

    def _unfinished(self, *states: TickState) -> list[RunRow]:
        marks = ", ".join("?" * len(states))
        clause = f"WHERE r.{UNFINISHED} AND r.state IN ({marks}) ORDER BY r.tick, r.job"
        return self._runs(clause, *states)

    def _runs(self, clause: str, *values: object) -> list[RunRow]:
        return [run_row(row) for row in self._query(RUN_COLUMNS + clause, *values)]

    def _query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._db.execute(sql, values).fetchall()
