import contextlib
import os
import re
import sqlite3
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.errors import ClusterError, SpecError
from orchestrator.runs.states import TickState
from orchestrator.schedule.ledger import Lease, Ledger, Superseded
from orchestrator.schedule.rows import Notice, run_key, submission_id

NOW = datetime(2026, 3, 1, 2, 0, 1, tzinfo=UTC)
TICK = datetime(2026, 3, 1, 2, tzinfo=UTC)
NOTICE = Notice("a", TICK, "failure", "FAILED", "again", 2, "a-2", "{}")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "state" / "ledger.sqlite3")
    yield opened
    opened.close()


def lead(ledger: Ledger, holder: str = "a", now: datetime = NOW) -> Lease:
    lease = ledger.acquire(holder, now, 15.0)
    assert lease is not None
    return lease


def test_an_id_is_derived_from_job_and_tick_and_is_one_that_ray_takes() -> None:
    longest = submission_id("j" * 60, TICK, 21)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,100}", longest)
    assert submission_id("a", TICK, 1) == "a-20260301T020000Z-1"
    elsewhere = TICK.astimezone(datetime.fromisoformat("2026-01-01T00:00:00+08:00").tzinfo)
    assert submission_id("a", elsewhere, 1) == "a-20260301T020000Z-1"
    # No name can be chosen so that two different tries share an id.
    others = {submission_id(name, TICK, 1) for name in ("a", "a-20260301T020000Z", "a-1", "a-")}
    assert len(others) == 4
    assert run_key("a", TICK) == "a-20260301T020000Z"


def test_what_is_unfinished_is_found_without_reading_every_run(ledger: Ledger) -> None:
    asked: list[str] = []
    ledger._db.set_trace_callback(asked.append)
    ledger.open_runs()
    ledger.requested()
    ledger._db.set_trace_callback(None)
    for query in asked:
        plan = ledger._db.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
        assert plan[0][-1] == "SEARCH r USING INDEX runs_open (state=?)"
    assert len(asked) == 2


def test_a_tick_of_a_job_has_one_row(ledger: Ledger) -> None:
    lease = lead(ledger)
    with ledger.writing(lease, NOW) as write:
        assert write.queue("a", TICK, "{}", None)
        assert not write.queue("a", TICK, "{}", None)
        assert not write.skip("a", TICK, "late")
        assert write.queue("b", TICK, "{}", None)
        assert write.skip("c", TICK, "paused")
    assert [(run.job, str(run.state)) for run in ledger.history()] == [
        ("a", "QUEUED"),
        ("b", "QUEUED"),
        ("c", "SKIPPED"),
    ]
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        ledger._db.execute(
            "INSERT INTO runs (job, tick, state, decided_at, origin, token) "
            "VALUES (?, ?, ?, 0, 'cron', ?)",
            ("a", int(TICK.timestamp()), "QUEUED", lease.token),
        )


def test_a_run_from_intent_to_result(ledger: Ledger) -> None:
    lease = lead(ledger)
    folder = Path("/runs/a")
    with ledger.writing(lease, NOW) as write:
        write.queue("a", TICK, "{}", folder)
        write.intend("a", TICK, 1, "a-1", "mark")
    (run,) = ledger.open_runs()
    assert (run.state, run.submission_id, run.mark, run.folder) == (
        TickState.SUBMITTING,
        "a-1",
        "mark",
        folder,
    )
    assert (run.intent_at, run.submitted_at) == (NOW, None)
    with ledger.writing(lease, NOW + timedelta(seconds=1)) as write:
        write.observe("a", TICK, 1, TickState.RUNNING)
        write.end("a", TICK, 1, TickState.FAILED, "why", run_state=TickState.RETRYING)
        write.intend("a", TICK, 2, "a-2", None)
        write.end("a", TICK, 2, TickState.FAILED, "again")
        write.notify(NOTICE)
        write.notify(NOTICE)  # of one incident
    assert ledger.open_runs() == []
    assert [(s, str(state), why) for s, state, why in ledger.attempts("a", TICK)] == [
        ("a-1", "FAILED", "why"),
        ("a-2", "FAILED", "again"),
    ]
    assert ledger.notices() == [NOTICE]
    assert ledger.history()[0].notice == "pending"
    with ledger.writing(lease, NOW + timedelta(seconds=1)) as write:
        write.record_sending(NOTICE, "sent")
        write.notify(NOTICE)
    assert ledger.notices() == []
    assert ledger.history()[0].notice == "sent"


def test_what_is_written_survives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    first = Ledger(path)
    with first.writing(lead(first), NOW) as write:
        write.register("a", "0 2 * * *", "UTC", NOW)
        write.queue("a", TICK, "{}", None)
    second = Ledger(path)  # the first one was never closed
    assert second.jobs()["a"].cursor == NOW
    assert [run.job for run in second.open_runs()] == ["a"]
    assert second._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_transaction_that_raises_leaves_nothing(ledger: Ledger) -> None:
    lease = lead(ledger)
    with pytest.raises(ValueError, match="planted"), ledger.writing(lease, NOW) as write:
        write.queue("a", TICK, "{}", None)
        raise ValueError("planted")
    assert ledger.history() == []
    with ledger.writing(lease, NOW) as write:
        write.queue("a", TICK, "{}", None)
    assert len(ledger.history()) == 1


# --- the lead -------------------------------------------------------------------------------------


def test_one_leads_until_its_lease_ends(ledger: Ledger) -> None:
    first = lead(ledger, "a")
    assert ledger.acquire("b", NOW + timedelta(seconds=14), 15.0) is None
    ledger.renew(first, NOW + timedelta(seconds=14))
    assert ledger.acquire("b", NOW + timedelta(seconds=28), 15.0) is None
    second = lead(ledger, "b", NOW + timedelta(seconds=30))
    assert second.token == first.token + 1
    with pytest.raises(Superseded):
        ledger.renew(first, NOW)
    with pytest.raises(Superseded):
        ledger.check(first)
    ledger.release(first)  # too late to matter
    assert ledger.acquire("c", NOW + timedelta(seconds=31), 15.0) is None
    ledger.release(second)
    assert lead(ledger, "c", NOW + timedelta(seconds=31)).token == 3


def test_a_lease_from_before_the_clock_went_back_does_not_lock_everybody_out(
    ledger: Ledger,
) -> None:
    lead(ledger, "a", NOW + timedelta(days=400))
    assert ledger.acquire("b", NOW, 15.0) is not None


def test_a_new_ledger_that_another_process_is_making_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.2, lambda: other.execute("COMMIT")).start()
    with contextlib.closing(Ledger(path)) as ledger:
        assert ledger.jobs() == {}
    other.close()


def test_only_one_of_many_that_try_at_once_leads(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    leases = []
    barrier = threading.Barrier(8, timeout=60)

    def attempt(name: str) -> None:
        own = Ledger(path)
        barrier.wait()
        leases.append(own.acquire(name, NOW, 15.0))
        own.close()

    threads = [threading.Thread(target=attempt, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(leases) == 8
    assert sum(lease is not None for lease in leases) == 1


WRITES = {
    "register": lambda w: w.register("a", "0 2 * * *", "UTC", NOW),
    "drop": lambda w: w.drop("a"),
    "keep": lambda w: w.keep("a", "a.yaml", "{}"),
    "advance": lambda w: w.advance("a", NOW, 0),
    "rewind": lambda w: w.rewind(NOW - timedelta(days=1)),
    "skip": lambda w: w.skip("z", TICK, "why"),
    "skip-again": lambda w: w.skip("skipped", TICK, "why"),
    "queue": lambda w: w.queue("z", TICK, "{}", None),
    "intend": lambda w: w.intend("a", TICK, 2, "a-2", None),
    "observe": lambda w: w.observe("a", TICK, 1, TickState.RUNNING),
    "stop": lambda w: w.stop("a", TICK, "why"),
    "end": lambda w: w.end("a", TICK, 1, TickState.SUCCEEDED, None),
    "notify": lambda w: w.notify(replace(NOTICE, kind="skips")),
    "record_sending": lambda w: w.record_sending(NOTICE, "sent"),
    "fault": lambda w: w.fault("b", "file", "wrong"),
    "fault-again": lambda w: w.fault("a", "file", None),
}


def contents(ledger: Ledger) -> list[tuple[object, ...]]:
    return [
        row
        for table in ("jobs", "runs", "attempts", "notices", "faults")
        for row in ledger._db.execute(f"SELECT * FROM {table}").fetchall()
    ]


@pytest.mark.parametrize("name", WRITES)
def test_every_write_of_a_superseded_leader_is_refused_by_the_database(
    ledger: Ledger, name: str
) -> None:
    old = lead(ledger, "a")
    with ledger.writing(old, NOW) as write:
        write.register("a", "0 2 * * *", "UTC", NOW)
        write.queue("a", TICK, "{}", None)
        write.skip("skipped", TICK, "paused")
        write.intend("a", TICK, 1, "a-1", None)
        write.notify(NOTICE)
        write.fault("a", "file", "wrong")
    lead(ledger, "b", NOW + timedelta(seconds=60))
    before = contents(ledger)
    with (
        pytest.raises(Superseded),
        ledger.writing(old, NOW + timedelta(seconds=61)) as write,
    ):
        WRITES[name](write)
        # The statement itself must have been refused, not only the renewal at the end.
        pytest.fail("the database took the write")
    assert contents(ledger) == before


def test_the_fence_holds_without_this_program(ledger: Ledger) -> None:
    lease = lead(ledger)
    with ledger.writing(lease, NOW) as write:
        write.queue("a", TICK, "{}", None)
    raw = sqlite3.connect(ledger.path, isolation_level=None)
    for statement, problem in [
        (
            "INSERT INTO runs (job, tick, state, decided_at, token) VALUES ('x', 1, 'q', 0, 0)",
            "supers",
        ),
        ("UPDATE runs SET state = 'FAILED', token = 0", "superseded"),
        ("UPDATE runs SET token = NULL", "superseded"),
        ("DELETE FROM runs", "keeps every row"),
        ("UPDATE lease SET token = 0", "superseded"),
        ("UPDATE lease SET holder = 'thief'", "superseded"),
    ]:
        with pytest.raises(sqlite3.IntegrityError, match=problem):
            raw.execute(statement)
    lead(ledger, "b", NOW + timedelta(seconds=60))
    with pytest.raises(sqlite3.IntegrityError, match="superseded"):
        raw.execute("UPDATE runs SET state = 'FAILED'")  # a row still under the old token
    raw.close()


# --- pauses, clocks -------------------------------------------------------------------------------


def test_pause_and_resume(ledger: Ledger) -> None:
    assert not ledger.resume("a", NOW)
    assert ledger.pause("a", NOW)
    assert not ledger.pause("a", NOW + timedelta(hours=1))
    assert ledger.paused() == {"a"}
    assert ledger.pauses("a") == [(NOW, None)]
    assert ledger.resume("a", NOW + timedelta(hours=2))
    assert ledger.paused() == set()
    assert ledger.pause("a", NOW + timedelta(hours=3))
    assert ledger.pauses("a")[0] == (NOW, NOW + timedelta(hours=2))
    assert len(ledger.pauses("a")) == 2


def test_a_rewound_job_is_decided_from_where_the_clock_is_until_where_it_was(
    ledger: Ledger,
) -> None:
    lease = lead(ledger)
    back, hour = NOW - timedelta(hours=5), timedelta(hours=1)
    with ledger.writing(lease, NOW) as write:
        write.register("a", "0 * * * *", "UTC", NOW)
        assert write.rewind(back) == 1
        assert write.rewind(back) == 0
    row = ledger.jobs()["a"]
    assert row.decided_until(back + hour) == back
    assert row.decided_until(NOW + hour) == NOW
    with ledger.writing(lease, NOW) as write:
        write.advance("a", back + hour, 0)
    assert ledger.jobs()["a"].decided_until(back + 2 * hour) == back + hour
    assert ledger.jobs()["a"].decided_until(NOW + hour) == NOW


# --- the file -------------------------------------------------------------------------------------


def test_the_file_and_its_log_are_for_their_owner_alone(ledger: Ledger) -> None:
    with ledger.writing(lead(ledger), NOW) as write:
        write.queue("a", TICK, "{}", None)
    for path in ledger.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_ledger_of_a_newer_version_is_refused(ledger: Ledger) -> None:
    ledger._db.execute("PRAGMA user_version = 99")
    with pytest.raises(SpecError, match=r"newer version .*\(schema 99, this one reads up to 3\)"):
        Ledger(ledger.path)


def test_a_full_disk_is_one_line_and_loses_nothing(ledger: Ledger) -> None:
    lease = lead(ledger)
    assert ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
    ledger._db.execute(f"PRAGMA max_page_count = {pages + 4}")
    done = 0
    with pytest.raises(ClusterError) as caught:
        for number in range(1000):
            with ledger.writing(lease, NOW) as write:
                write.queue(f"a{number}", TICK, "x" * 500, None)
                write.queue(f"b{number}", TICK, "x" * 500, None)
            done += 1
    assert done > 2
    assert str(caught.value) == (
        f"cannot use the ledger {ledger.path}: database or disk is full; it needs a local disk "
        "with free space that this user may write to"
    )
    assert len(ledger.history(limit=2000)) == 2 * done  # nothing of what was refused
    ledger._db.execute("PRAGMA max_page_count = 100000")
    with ledger.writing(lease, NOW) as write:
        write.queue("last", TICK, "x" * 5000, None)
    assert len(ledger.history(limit=2000)) == 2 * done + 1


def test_another_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a data base at all, but long enough to look at " * 40)
    with pytest.raises(SpecError, match="is not a ledger"):
        Ledger(text)
    assert text.read_text().startswith("not a data base")
    other = tmp_path / "other.sqlite3"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE mine (x)")
    with pytest.raises(SpecError, match="is another SQLite file"):
        Ledger(other)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_one_clear_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ClusterError, match="cannot use the ledger") as caught:
        Ledger(tmp_path / "ledger.sqlite3")
    assert "\n" not in str(caught.value)


def test_a_path_that_cannot_be_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ClusterError, match="cannot use the ledger"):
        Ledger(tmp_path / "file" / "ledger.sqlite3")


def test_history_is_newest_first_and_limited(ledger: Ledger) -> None:
    with ledger.writing(lead(ledger), NOW) as write:
        for hour in range(5):
            write.skip("a", TICK + timedelta(hours=hour), "late")
            write.skip("b", TICK + timedelta(hours=hour), "late")
    newest = ledger.history("a", 2)
    assert [run.tick.hour for run in newest] == [6, 5]
    assert len(ledger.history(limit=7)) == 7
    assert ledger.history("nobody") == []
