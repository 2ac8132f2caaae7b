import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.jobs.client import LOCAL
from orchestrator.jobs.local_head import LocalHead, LocalHeadFiles, find_head, stop_head
from orchestrator.jobs.scheduler_backend import RayJobsBackend, place
from orchestrator.jobs.view import list_jobs
from orchestrator.runs.states import Status
from orchestrator.schedule.job_folder import JobFolder
from orchestrator.schedule.leadership import Clock, Settings
from orchestrator.schedule.ledger import Ledger
from orchestrator.schedule.loop import Scheduler
from tests.schedule.fake_cluster import dump_job, fails
from tests.schedule.kill_harness import check_journal, run_kills

EVERY = {"each": 1, "also-each": 1, "second": 2}


@pytest.mark.ray
@pytest.mark.parametrize(
    ("kills", "last_minute", "seed"),
    [
        pytest.param(8, 7, 3, marks=pytest.mark.timeout(900)),
        pytest.param(200, 59, 5, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_no_tick_is_lost_and_none_runs_twice_on_a_real_head(
    local_head: LocalHead, tmp_path: Path, kills: int, last_minute: int, seed: int
) -> None:
    (tmp_path / "address").write_text(local_head.address)
    end = run_kills(
        tmp_path,
        factory="tests.ray_store:build_store",
        kills=kills,
        every=EVERY,
        seed=seed,
        speed=20.0,
        settle_s=400.0 if kills < 100 else 2000.0,
        lead_s=1.0,
        submits=2,
        last_minute=last_minute,
    )
    counted = check_journal((tmp_path / "journal").read_text().split(), EVERY, end, fails)
    assert counted == sum(end.minute // n for n in EVERY.values())
    runs = Ledger(tmp_path / "ledger.sqlite3").history(None, 10**6)
    assert {str(run.state) for run in runs if run.tick <= end} == {"SUCCEEDED"}


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user with no cluster and no head, in an empty folder; a head that is started is ended."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    stop_head()
    shutil.rmtree(LocalHeadFiles().temporary, ignore_errors=True)


def wait_for(done: Callable[[], bool], seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < limit, "it does not come"
        time.sleep(0.2)


def write_entrypoint(submission_id: str, file: Path) -> str:
    """A driver that writes the journal and its run folder, as a real one; `long-...` goes on."""
    run = file.parent
    status = f'echo \'{{"status": "%s"}}\' > {run}/status.json'
    steps = [f"echo {submission_id} >> {run.parent}/journal", status % "RUNNING"]
    if submission_id.startswith("long-2026"):
        steps.append("exec sleep 600")
    return "; ".join([*steps, status % "SUCCEEDED", f"touch {run}/_SUCCESS"])


@pytest.mark.slow
def test_a_head_that_is_killed_and_starts_again_repeats_nothing(own_state: Path) -> None:
    said: list[str] = []
    now = [datetime(2026, 3, 1, 0, 59, 30, tzinfo=UTC)]
    (own_state / "jobs").mkdir()
    for name in ("long", "short"):
        dump_job(own_state / "jobs", name, retries=2, schedule={"cron": "0 * * * *"})
    store = RayJobsBackend(LOCAL, said.append, write_entrypoint).as_backend()
    ledger = Ledger(own_state / "ledger.sqlite3")
    scheduler = Scheduler(
        ledger,
        JobFolder(own_state / "jobs").load,
        store,
        said.append,
        clock=Clock(lambda: now[0]),
        settings=Settings(poll_s=0, retry_wait_s=0),
        place=place,
    )

    def states(hour: int) -> dict[str, str]:
        scheduler.step()
        return {run.job: str(run.state) for run in ledger.history() if run.tick.hour == hour}

    scheduler.step()
    now[0] = datetime(2026, 3, 1, 1, tzinfo=UTC)
    wait_for(lambda: states(1) == {"long": "RUNNING", "short": "SUCCEEDED"})
    first = find_head()
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    wait_for(lambda: find_head() is None)

    forgotten = {view.submission_id: view for view in list_jobs(None, LOCAL, 10)}
    assert forgotten["short-20260301T010000Z-1"].status is Status.SUCCEEDED
    orphan = forgotten["long-20260301T010000Z-1"]
    assert orphan.status is Status.FAILED
    assert "no record of it" in (orphan.reason or "")

    now[0] = datetime(2026, 3, 1, 2, tzinfo=UTC)
    wait_for(lambda: states(2) == {"long": "RUNNING", "short": "SUCCEEDED"})
    second = find_head()
    assert second is not None
    assert second.pid != first.pid
    assert store.look_up("long-20260301T010000Z-1") is None
    assert states(1) == {"long": "FAILED", "short": "SUCCEEDED"}
    assert any("long-20260301T010000Z-1: FAILED: lost" in line for line in said)
    store.stop("long-20260301T020000Z-1")
    wait_for(lambda: states(2) == {"long": "STOPPED", "short": "SUCCEEDED"})
    scheduler.close()
    assert sorted((own_state / "runs" / "journal").read_text().split()) == [
        f"{name}-20260301T0{hour}0000Z-1" for name in ("long", "short") for hour in (1, 2)
    ]
