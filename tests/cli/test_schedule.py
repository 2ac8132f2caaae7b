import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from orchestrator.cli import schedule_requests
from orchestrator.cli.schedule import app
from orchestrator.config.cron import Ticks
from orchestrator.config.load import load_job
from orchestrator.errors import SpecError
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.states import TickState
from orchestrator.schedule.ledger import Ledger
from tests.runs.finished import finish
from tests.schedule.fake_cluster import dump_job


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two scheduled jobs and one without a schedule."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATOR_LEDGER", str(tmp_path / "state" / "ledger.sqlite3"))
    (tmp_path / "jobs").mkdir()
    schedule = {"cron": "0 2 * * *", "timezone": "Asia/Shanghai"}
    dump_job(tmp_path / "jobs", "nightly", schedule=schedule)
    dump_job(tmp_path / "jobs", "hourly", schedule={"cron": "0 * * * *"})
    dump_job(tmp_path / "jobs", "by-hand")
    return tmp_path


def run(*arguments: str, fails: bool = False) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    if not fails:
        assert done.exit_code == 0, done.output
    return done


def refused(*arguments: str) -> str:
    done = run(*arguments, fails=True)
    assert isinstance(done.exception, SpecError)
    return str(done.exception)


def test_list_shows_jobs_with_a_schedule(folder: Path) -> None:
    shown = run("list").stdout
    assert "nightly" in shown
    assert "Asia/Shanghai" in shown
    assert "by-hand" not in shown
    assert not (folder / "state").exists()  # reading makes no file
    hourly, nightly = json.loads(run("list", "--json").stdout)["jobs"]
    assert (hourly["job"], nightly["job"]) == ("hourly", "nightly")
    assert nightly["next_local"][11:] == "02:00:00+08:00"
    assert nightly["next"][11:] == "18:00:00+00:00"
    assert nightly["last"] is None


def test_next_shows_every_tick_of_the_days(folder: Path) -> None:
    body = json.loads(run("next", "--days", "3", "--json").stdout)
    assert body["num_ticks"] == len(body["ticks"]) == 3 + 72
    assert [t["tick"] for t in body["ticks"]] == sorted(t["tick"] for t in body["ticks"])
    shown = run("next", "--days", "3", "--job", "nightly").stdout
    assert len(shown.splitlines()) == 1 + 3
    assert "02:00 CST" in shown
    assert "and 74 more" in run("next", "--days", "3", "--limit", "1").stdout
    assert "no scheduled job is named x; known: hourly, nightly" in refused("next", "--job", "x")


def test_pause_and_resume(folder: Path) -> None:
    assert run("pause", "nightly").stdout == "nightly is paused\n"
    assert run("pause", "nightly").stdout == "nightly was already paused\n"
    assert [row["paused"] for row in json.loads(run("list", "--json").stdout)["jobs"]] == [
        False,
        True,
    ]
    assert "paused" in run("list").stdout
    assert run("resume", "nightly").stdout == "nightly is resumed\n"
    assert run("resume", "nightly").stdout == "nightly was not paused\n"
    assert "known: hourly, nightly" in refused("pause", "by-hand")


def test_trigger_requests_one_run_and_says_who_runs_it(folder: Path) -> None:
    done = run("trigger", "nightly")
    assert done.stdout.startswith("requested: nightly, as its tick of ")
    assert "no scheduler is running on this ledger" in done.stderr
    ledger = Ledger(folder / "state" / "ledger.sqlite3")
    (requested,) = ledger.requested()
    assert (requested.job, requested.origin) == ("nightly", "trigger")
    lease = ledger.acquire("test", datetime.now(UTC), 60.0)
    assert lease is not None
    problem = "the scheduler that runs on this ledger does not have nightly yet"
    assert problem in refused("trigger", "nightly")  # it follows another folder
    with ledger.writing(lease, datetime.now(UTC)) as write:
        write.register("nightly", "0 2 * * *", "UTC", datetime.now(UTC))
    assert "no scheduler is running" not in run("trigger", "nightly").stderr
    assert len(ledger.requested()) == 2
    run("pause", "nightly")
    assert "is paused; run `orchestrator schedule resume nightly` first" in refused(
        "trigger", "nightly"
    )
    assert "known: hourly, nightly" in refused("trigger", "by-hand")
    assert "trigger" in run("history", "nightly").stdout.splitlines()[1]


def test_backfill_says_how_many_ticks_it_runs(folder: Path) -> None:
    span = ("--from", "2026-03-01", "--to", "2026-03-04T02:00")
    done = run("backfill", "nightly", *span)
    assert done.stdout == (  # 02:00 in Shanghai is 18:00 UTC
        "requested: 4 runs of nightly, for its ticks from 2026-02-28 18:00 to 2026-03-03 18:00 "
        "UTC, one after another\n"
    )
    ledger = Ledger(folder / "state" / "ledger.sqlite3")
    assert {run.origin for run in ledger.requested()} == {"backfill"}
    assert (
        "nothing to run: nightly has a run for each of 4 ticks"
        in run("backfill", "nightly", *span).stdout
    )
    more = run("backfill", "nightly", "--from", "2026-03-04", "--to", "2026-03-05T18:00Z").stdout
    assert "requested: 2 runs" in more
    assert "left out: 1 tick with a run already" in more
    assert len(ledger.requested()) == 6


@pytest.mark.parametrize(
    ("job", "since", "until", "message"),
    [
        ("nightly", "2026-03-02", "2026-03-01", "is later than --to"),
        ("nightly", "2026-03-02", "2999-03-01", "is in the future"),
        ("nightly", "1970-01-01", "2026-03-01", "more than ten years"),
        ("nightly", "yesterday", "2026-03-01", "--from 'yesterday' is no time; expected one such"),
        ("nightly", "2026-03-01T03:00", "2026-03-01T04:00", "has no tick from 2026-03-01T03:00"),
        ("hourly", "2026-01-01", "2026-03-01", "more than 1,000 ticks"),
        ("follower", "2026-01-01", "2026-03-01", "runs after nightly and has no ticks of its"),
        ("nobody", "2026-01-01", "2026-03-01", "no scheduled job is named nobody"),
    ],
)
def test_backfill_refuses_what_makes_no_sense(
    folder: Path, job: str, since: str, until: str, message: str
) -> None:
    dump_job(folder / "jobs", "follower", schedule={"after": "nightly"})
    assert message in refused("backfill", job, "--from", since, "--to", until)


def test_a_job_after_another_is_listed_with_it(folder: Path) -> None:
    dump_job(folder / "jobs", "follower", schedule={"after": "nightly"})
    follower = json.loads(run("list", "--json").stdout)["jobs"][0]
    assert (follower["cron"], follower["next"], follower["overlap"]) == (
        "after nightly",
        None,
        "queue",
    )
    assert ["follower", "after", "nightly", "never"] in [
        line.split() for line in run("list").stdout.splitlines()
    ]
    assert run("next", "--job", "follower").stdout.startswith("nothing is due")
    dump_job(folder / "jobs", "follower", schedule={"after": "by-hand"})
    problem = "follower.yaml: after: no scheduled job is named by-hand; known: hourly, nightly"
    assert f"error: {problem}" in run("list").stdout


def test_history_shows_runs_and_skips(folder: Path) -> None:
    assert run("history").stdout == "no job has been due yet\n"
    ledger = Ledger(folder / "state" / "ledger.sqlite3")
    now = datetime(2026, 3, 1, 3, tzinfo=UTC)
    lease = ledger.acquire("test", now, 15.0)
    assert lease is not None
    with ledger.writing(lease, now) as write:
        write.register("nightly", "0 2 * * *", "UTC", now)
        write.skip("nightly", now - timedelta(hours=1), "paused")
    assert run("history", "nightly").stdout.splitlines()[1].split() == [
        "2026-03-01",
        "02:00",
        "nightly",
        "cron",
        "SKIPPED",
        "paused",
    ]
    (tick,) = json.loads(run("history", "--json").stdout)["ticks"]
    assert (tick["state"], tick["reason"]) == ("SKIPPED", "paused")
    assert "it has: nightly" in refused("history", "nobody")


def test_a_run_that_finished_after_it_was_given_up_is_shown_as_succeeded(folder: Path) -> None:
    ledger = Ledger(folder / "state" / "ledger.sqlite3")
    now = datetime(2026, 3, 1, 3, tzinfo=UTC)
    lease = ledger.acquire("test", now, 15.0)
    assert lease is not None
    with ledger.writing(lease, now) as write:
        write.register("nightly", "0 2 * * *", "UTC", now)
        write.queue("nightly", now, "{}", folder / "run")
        write.intend("nightly", now, 1, "nightly-20260301T030000Z-1", None)
        write.end("nightly", now, 1, TickState.FAILED, "lost")
    assert "FAILED" in run("history").stdout
    finish(RunDir(folder / "run"))
    assert "SUCCEEDED" in run("history").stdout
    (tick,) = json.loads(run("history", "--json").stdout)["ticks"]
    assert (tick["state"], tick["reason"][-6:]) == ("SUCCEEDED", ": lost")


def test_a_wrong_file_is_told_and_the_others_are_shown(folder: Path) -> None:
    (folder / "jobs" / "spoilt.yaml").write_text("name: [")
    *table, told = run("list").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["job", "hourly", "nightly"]
    assert told.startswith("error: spoilt.yaml: ")
    assert told.endswith("expected the node content, but found '<stream end>'")
    body = json.loads(run("list", "--json").stdout)
    assert [(job["job"], job["fault"]) for job in body["jobs"]] == [
        ("hourly", None),
        ("nightly", None),
    ]
    assert list(body["faults"]) == ["spoilt.yaml"]
    done = run("next")
    assert "warning: spoilt.yaml: " in done.stderr
    assert "nightly" in done.stdout
    assert "cannot list" in refused("list", "--jobs", "nowhere")


def test_a_fault_is_shown_with_its_job_whose_last_good_version_is_in_force(folder: Path) -> None:
    ledger = Ledger(folder / "state" / "ledger.sqlite3")
    now = datetime(2026, 3, 1, 3, tzinfo=UTC)
    lease = ledger.acquire("test", now, 15.0)
    assert lease is not None
    with ledger.writing(lease, now) as write:
        for name in ("nightly", "hourly"):
            spec = load_job(folder / "jobs" / f"{name}.yaml").model_dump_json()
            write.register(name, "0 2 * * *", "UTC", now)
            write.keep(name, f"{name}.yaml", spec)
        write.fault("hourly", "place", "the tick of 2026-03-01 03:00 UTC waits: no answer")
        write.fault("nightly", "file", "out of date: the files say how they are now")
    (folder / "jobs" / "nightly.yaml").write_text("name: [")
    body = json.loads(run("list", "--json").stdout)
    assert body["faults"] == {}
    hourly, nightly = body["jobs"]
    assert hourly["fault"] == "the tick of 2026-03-01 03:00 UTC waits: no answer"
    assert "not valid YAML" in nightly["fault"]
    assert nightly["next_local"][11:] == "02:00:00+08:00"
    lines = run("list").stdout.splitlines()
    assert [line.split(": ")[1] for line in lines if line.startswith("error: ")] == [
        "hourly",
        "nightly",
    ]
    assert "Asia/Shanghai" in run("list").stdout
    assert len(run("next", "--days", "3", "--job", "nightly").stdout.splitlines()) == 1 + 3


def test_history_waits_for_no_share_that_hangs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(folder / "state" / "ledger.sqlite3")
    now = datetime(2026, 3, 1, 3, tzinfo=UTC)
    lease = ledger.acquire("test", now, 15.0)
    assert lease is not None
    with ledger.writing(lease, now) as write:
        for hour in range(20):
            tick = now + timedelta(hours=hour)
            write.queue("nightly", tick, "{}", folder / "share" / str(hour))
            write.end("nightly", tick, 0, TickState.FAILED, "lost")
    back = threading.Event()
    original = Path.exists

    def exists(path: Path) -> bool:
        if "share" in path.parts:
            back.wait(60)
        return original(path)

    monkeypatch.setattr(Path, "exists", exists)
    monkeypatch.setattr("orchestrator.cli.schedule._LOOK_S", 0.2)
    began = time.monotonic()
    shown = run("history").stdout
    back.set()
    assert shown.count("FAILED") == 20
    assert time.monotonic() - began < 20


def test_the_ledger_is_outside_the_working_folder_unless_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ORCHESTRATOR_LEDGER")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "elsewhere"))
    run("pause", "nightly")
    assert (folder / "elsewhere" / "orchestrator" / "schedule.sqlite3").exists()


def test_a_span_begins_with_its_first_tick_on_the_day_the_clocks_go_forward() -> None:
    ticks = Ticks("0 3 * * *", "America/New_York")
    start = schedule_requests._moment("--from", "2026-03-08T03:00", ticks)
    second = timedelta(seconds=1)
    assert list(ticks.between(start - second, start)) == [datetime(2026, 3, 8, 7, tzinfo=UTC)]
