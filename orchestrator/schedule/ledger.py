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
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.errors import ClusterError, SpecError
from orchestrator.runs.states import OPEN, TickState
from orchestrator.schedule.tables import APPLICATION_ID, SCHEMA_VERSION, SUPERSEDED, build_schema
from orchestrator.schedule.writes import Writes


class Superseded(Exception):
    """Another scheduler leads now; nothing of the refused transaction was written."""


@dataclass(frozen=True)
class Lease:
    """Leadership, as taken: worth nothing once the ledger holds a greater token."""

    token: int
    duration_s: float


@dataclass(frozen=True)
class JobRow:
    """What the ledger knows of a job: its schedule as last seen, and how far it is decided."""

    name: str
    cron: str | None
    timezone: str | None
    cursor: datetime
    high: datetime

    def decided_until(self, now: datetime) -> datetime:
        """Returns the instant after which ticks are undecided.

        After the clock went back ticks are decided again from there (runs are unique, so none runs
        twice), until the clock passes the point it had reached before.
        """
        return max(self.cursor, self.high) if now >= self.high else self.cursor


@dataclass(frozen=True)
class RunRow:
    """One tick of one job and its latest try."""

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


_RUN = """
SELECT r.job, r.tick, r.state, r.reason, r.attempt, r.spec, r.folder, r.stop_reason, r.decided_at,
       r.ended_at, r.notice, a.submission_id, a.mark, a.intent_at, a.submitted_at
FROM runs r LEFT JOIN attempts a ON a.job = r.job AND a.tick = r.tick AND a.attempt = r.attempt
"""


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

    Args:
        path: the file; made with mode 0600, since a job's spec may name secret addresses.

    Raises:
        SpecError: the file is something else, or from a newer version.
        ClusterError: the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # an intent survives a power cut
            self._db.execute("PRAGMA foreign_keys = ON")
            self._prepare()

    def _prepare(self) -> None:
        with self._transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            (application,) = self._db.execute("PRAGMA application_id").fetchone()
            (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if not tables:
                for statement in _statements(build_schema()):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif application != APPLICATION_ID:
                raise SpecError(f"{self.path} is another SQLite file; name a ledger or a new file")
            elif version != SCHEMA_VERSION:
                raise SpecError(
                    f"{self.path} has schema version {version}, this program {SCHEMA_VERSION}; "
                    "use the version of the program that wrote it, or a new file"
                )

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
        return [(_moment(a), _moment(b) if b is not None else None) for a, b in rows]

    def paused(self) -> set[str]:
        """Returns the jobs that are paused now."""
        return {job for (job,) in self._query("SELECT job FROM pauses WHERE resumed_at IS NULL")}

    # --- reading ----------------------------------------------------------------------------

    def jobs(self) -> dict[str, JobRow]:
        """Returns every job ever scheduled, by name."""
        rows = self._query("SELECT name, cron, timezone, cursor, high FROM jobs ORDER BY name")
        return {
            name: JobRow(name, cron, zone, _moment(cursor), _moment(high))
            for name, cron, zone, cursor, high in rows
        }

    def open_runs(self) -> list[RunRow]:
        """Returns what is not finished, oldest tick first."""
        marks = ", ".join("?" * len(OPEN))
        return self._runs(f"WHERE r.state IN ({marks}) ORDER BY r.tick, r.job", *OPEN)

    def notices(self) -> list[RunRow]:
        """Returns the failed runs that somebody is still to be notified of."""
        return self._runs("WHERE r.notice = 'pending' ORDER BY r.tick, r.job")

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

    def _runs(self, clause: str, *values: object) -> list[RunRow]:
        return [_run_row(row) for row in self._query(_RUN + clause, *values)]

    def _query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._db.execute(sql, values).fetchall()


def _run_row(row: tuple[Any, ...]) -> RunRow:
    fields = list(row)
    fields[1] = _moment(fields[1])
    fields[2] = TickState(fields[2])
    fields[6] = Path(fields[6]) if fields[6] is not None else None
    for at in (8, 9, 13, 14):
        fields[at] = _moment(fields[at]) if fields[at] is not None else None
    return RunRow(*fields)


def _moment(stamp: float) -> datetime:
    return datetime.fromtimestamp(stamp, UTC)


def _statements(script: str) -> Iterator[str]:
    """Yields the statements of a script; `executescript` would commit in between."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
