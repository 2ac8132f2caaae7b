"""Ledgers of each version, kept as SQL in `ledgers/`, opened by this one."""

import re
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.runs.states import TickState
from orchestrator.schedule.job_folder import load_stored, load_terms
from orchestrator.schedule.ledger import Ledger, Superseded
from orchestrator.schedule.tables import SCHEMA_VERSION
from tests.schedule.fake_cluster import dump_job
from tests.schedule.world import World

LEDGERS = sorted((Path(__file__).parent / "ledgers").glob("v*.sql"))
TICK = datetime(2026, 3, 1, 2, tzinfo=UTC)
DAY = timedelta(days=1)


def restore(dump: Path, folder: Path) -> Path:
    path = folder / f"{dump.stem}.sqlite3"
    with sqlite3.connect(path) as database:
        database.executescript(dump.read_text().replace("/runs/", f"{folder}/runs/"))
    database.close()
    return path


def schema(path: Path) -> dict[str, str]:
    """The definitions of a ledger, by name, without the marks of a table that was renamed."""
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        found = {name: re.sub(r'"(\w+)"', r"\1", sql) for name, sql in rows}
    database.close()
    return found


@pytest.mark.parametrize("dump", LEDGERS, ids=lambda path: path.stem)
def test_a_ledger_of_each_version_becomes_one_of_this(dump: Path, tmp_path: Path) -> None:
    path = restore(dump, tmp_path)
    Ledger(path).close()
    fresh = tmp_path / "fresh.sqlite3"
    Ledger(fresh).close()
    assert schema(path) == schema(fresh)
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    before = path.read_bytes()
    Ledger(path).close()  # and it is left alone from then on
    assert path.read_bytes() == before


def test_every_version_has_its_ledger() -> None:
    assert [path.stem for path in LEDGERS] == [f"v{n}" for n in range(1, SCHEMA_VERSION + 1)]


def test_what_version_1_held_is_all_there(tmp_path: Path) -> None:
    path = restore(LEDGERS[0], tmp_path)
    with sqlite3.connect(path) as database:
        old = {
            table: database.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()
            for table, columns in KEPT.items()
        }
    database.close()
    ledger = Ledger(path)
    for table, columns in KEPT.items():
        query = f"SELECT {columns} FROM {table} ORDER BY 1, 2"
        assert ledger._db.execute(query).fetchall() == old[table], table
        assert old[table], table
    jobs = ledger.jobs()
    assert jobs["nightly"].succeeded_at == TICK + DAY + timedelta(minutes=30, seconds=5)
    assert jobs["failing"].succeeded_at is None
    assert datetime.now(UTC) - jobs["failing"].registered_at < timedelta(minutes=5)
    assert (jobs["nightly"].file, jobs["nightly"].spec, jobs["nightly"].skips) == (None, None, 0)
    told = {run.job: run.notice for run in ledger.history() if run.notice}
    assert told == {"failing": "pending", "told": "sent", "waiting": "pending"}
    failing, waiting = ledger.notices()
    assert (failing.job, failing.kind, failing.state) == ("failing", "failure", "FAILED")
    assert failing.reason == "failed on the cluster; its log and status.json say why"
    assert (failing.attempts, failing.submission_id) == (1, "failing-20260302T020000Z-1")
    assert failing.target == '{"command": ["page-oncall"], "webhook": null}'
    assert (waiting.job, waiting.state) == ("waiting", "SUBMITTING")
    # A run that was open before there was a limit keeps none; one that is still to start has it.
    open_runs = {run.job: run for run in ledger.open_runs()}
    assert set(open_runs) == {"nightly", "waiting", "queued"}
    assert load_terms(open_runs["nightly"].spec).timeout is None
    assert load_stored(open_runs["queued"].spec).timeout == timedelta(hours=24)


KEPT = {
    "lease": "id, token, holder, expires_at",
    "jobs": "name, cron, timezone, cursor, high, token",
    "pauses": "job, paused_at, resumed_at",
    "runs": "job, tick, state, reason, attempt, spec, folder, stop_reason, decided_at, ended_at",
    "attempts": "submission_id, job, tick, attempt, state, reason, mark, intent_at, submitted_at",
}


def test_a_scheduler_goes_on_with_a_ledger_of_version_1(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.ledger.close()
    world.ledger = Ledger(restore(LEDGERS[0], tmp_path))
    world.now = TICK + 2 * DAY + timedelta(minutes=10)
    for name in ("nightly", "failing", "waiting", "queued", "told", "never"):
        dump_job(world.jobs, name, schedule={"cron": "0 2 * * *"})
    world.scheduler = world.new_scheduler()
    world.step(2)
    states = {run.job: str(run.state) for run in world.ledger.history() if run.tick > TICK + DAY}
    # The cluster knows none of them: what was confirmed is lost, what was not is submitted.
    assert states == {"nightly": "FAILED", "waiting": "PENDING", "queued": "PENDING"}
    world.drain()
    world.go_to(2026, 3, 4, 2)
    world.drain()
    last = {run.job: run.state for run in world.ledger.history() if run.tick == TICK + 3 * DAY}
    assert last.pop("never") is TickState.SKIPPED  # still paused
    assert last.keys() == {"nightly", "failing", "waiting", "queued", "told"}
    assert set(last.values()) == {TickState.SUCCEEDED}
    assert world.ledger.jobs()["removed"].cron is None


def test_a_scheduler_of_version_1_that_still_runs_cannot_write(tmp_path: Path) -> None:
    """Its statements name a column that is no more: it ends, and is started anew as this one."""
    path = restore(LEDGERS[0], tmp_path)
    old = sqlite3.connect(path, isolation_level=None)
    old.execute("SELECT * FROM runs").fetchone()
    Ledger(path).close()
    with pytest.raises(sqlite3.OperationalError, match="no such column: notice"):
        old.execute("UPDATE runs SET state = 'FAILED', notice = coalesce(notice, 'pending')")
    with pytest.raises(sqlite3.OperationalError, match="columns"):
        old.execute("INSERT INTO jobs VALUES ('x', '0 2 * * *', 'UTC', 0, 0, 1)")
    old.close()


def test_what_version_2_held_came_from_cron(tmp_path: Path) -> None:
    path = restore(LEDGERS[1], tmp_path)
    old = sqlite3.connect(path, isolation_level=None)
    runs = old.execute("SELECT job, tick, state, spec, token FROM runs ORDER BY 1, 2").fetchall()
    ledger = Ledger(path)
    query = "SELECT job, tick, state, spec, token FROM runs ORDER BY 1, 2"
    assert ledger._db.execute(query).fetchall() == runs
    assert {run.origin for run in ledger.history()} == {"cron"}
    assert len(ledger.open_runs()) == 3
    # A scheduler of version 2 that still runs ends at its next tick.
    with pytest.raises(sqlite3.IntegrityError, match="origin"):
        old.execute(
            "INSERT INTO runs (job, tick, state, reason, spec, folder, decided_at, ended_at, token)"
            " VALUES ('nightly', 0, 'QUEUED', NULL, '{}', NULL, 0, NULL, 1)"
        )
    old.close()


def test_a_scheduler_goes_on_with_what_version_3_was_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.ledger.close()
    world.ledger = Ledger(restore(LEDGERS[2], tmp_path))
    asked = {run.job: run.origin for run in world.ledger.requested()}
    assert asked == {
        "follower": "after nightly-20260303T020000Z",
        "never": "backfill",
        "told": "trigger",
    }
    world.now = TICK + 2 * DAY + timedelta(hours=1, minutes=10)
    for name in ("nightly", "failing", "waiting", "queued", "told", "never"):
        dump_job(world.jobs, name, schedule={"cron": "0 2 * * *"})
    dump_job(world.jobs, "follower", schedule={"after": "nightly"})
    world.scheduler = world.new_scheduler()
    world.step(2)
    assert world.ledger.requested() == []
    states = {run.job: str(run.state) for run in world.ledger.history() if run.origin != "cron"}
    assert states == {"follower": "PENDING", "never": "QUEUED", "told": "PENDING"}  # one is paused
    assert world.ledger.paused() == {"never", "failing"}


def test_the_fence_of_a_migrated_ledger_holds(tmp_path: Path) -> None:
    ledger = Ledger(restore(LEDGERS[0], tmp_path))
    now = TICK + 3 * DAY
    old = ledger.acquire("a", now, 15.0)
    assert old is not None
    assert ledger.acquire("b", now + timedelta(minutes=1), 15.0) is not None
    for write in ("runs", "jobs", "notices"):
        with pytest.raises(sqlite3.IntegrityError, match="superseded"):
            ledger._db.execute(f"UPDATE {write} SET token = 1")
    with pytest.raises(Superseded), ledger.writing(old, now) as writes:
        writes.fault("a", "file", "wrong")


def test_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    path = restore(LEDGERS[0], tmp_path)
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()
    before = schema(path)
    with pytest.raises(SpecError, match=rf"newer version .*schema {SCHEMA_VERSION + 1}"):
        Ledger(path)
    assert schema(path) == before
