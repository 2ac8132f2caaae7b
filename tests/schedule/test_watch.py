"""Nights without a result: who is told, of what, and how often."""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.runs.states import Status
from tests.schedule.world import World, at

TELL = 'echo "$ORCHESTRATOR_STATE $ORCHESTRATOR_TICK $ORCHESTRATOR_REASON" >> {}'
DAY = timedelta(days=1)


@pytest.fixture
def told(world: World) -> Callable[[], list[str]]:
    """What somebody was told so far, sorted by what and when it is about."""

    def read() -> list[str]:
        limit = time.monotonic() + 60
        while world.ledger.notices():
            assert time.monotonic() < limit
            world.step(seconds=0.001)
            time.sleep(0.01)
        path = world.folder / "told"
        return sorted(path.read_text().splitlines()) if path.exists() else []

    return read


def nightly(world: World, **keys: object) -> None:
    on_failure = {"command": ["sh", "-c", TELL.format(world.folder / "told")]}
    world.job(**{"cron": "0 2 * * *", "on_failure": on_failure, **keys})  # type: ignore[arg-type]


def live(world: World, days: float, hours: float = 1.0) -> None:
    """Lets days pass, a step every so many hours."""
    for _ in range(round(days * 24 / hours)):
        world.pass_time(hours=hours)
        world.step(seconds=0)


def begin_all(world: World) -> None:
    for found in world.cluster.ids():
        known = world.cluster.look_up(found)
        if known is not None and known.status is Status.PENDING:
            world.cluster.begin(found)


# --- a run that hangs -----------------------------------------------------------------------------


def test_sixty_nights_behind_a_run_that_hangs_are_told_once_each_way(
    world: World, told: Callable[[], list[str]]
) -> None:
    nightly(world)
    world.step()
    world.go_to(2026, 3, 1, 2)
    world.step()
    begin_all(world)  # and from then on it neither ends nor can be stopped
    live(world, 60, hours=2)
    assert world.states() == ["RUNNING", *["SKIPPED"] * 60]
    # First the window, then three skips in a row; and nothing more in eight weeks.
    assert [line.split(":")[0] for line in told()] == [
        "OVERDUE 2026-03-01T02",
        "SKIPPED 2026-03-04T02",
    ]
    assert "no run has succeeded within 12 h after it was due" in told()[0]
    assert "3 ticks in a row were skipped, the last one: overlap is skip; the run of" in told()[1]
    (found,) = world.cluster.ids()
    assert (world.folder / "cluster" / "stopped" / found).exists()


def test_a_run_without_a_timeout_of_its_own_is_stopped_after_a_day(world: World) -> None:
    nightly(world, retries=0)
    world.step()
    world.go_to(2026, 3, 1, 2)
    world.step()
    (found,) = world.cluster.ids()
    begin_all(world)
    stopped = world.folder / "cluster" / "stopped" / found
    live(world, 23 / 24)
    assert not stopped.exists()
    live(world, 2 / 24)
    assert stopped.exists()
    world.cluster.report(found, Status.STOPPED)
    world.step()
    assert world.history()[0].reason == "ran longer than its timeout"
    live(world, 1)
    assert len(world.cluster.ids()) == 2  # and the nights go on


# --- skips in a row -------------------------------------------------------------------------------


def hold_up(world: World, nights: int) -> None:
    """A run that hangs for so many further nights, and then succeeds."""
    live(world, nights)
    world.finish_all()
    world.step()


@pytest.mark.parametrize(
    ("limit", "nights", "notices"), [(3, 2, 0), (3, 3, 1), (3, 9, 1), (1, 1, 1), (5, 4, 0)]
)
def test_a_number_of_skips_in_a_row_is_told_when_it_is_reached(
    world: World, told: Callable[[], list[str]], limit: int, nights: int, notices: int
) -> None:
    nightly(world, notify_after_skips=limit, window="31d")
    world.step()
    world.go_to(2026, 3, 1, 2)
    world.step()
    hold_up(world, nights)
    world.step()
    lines = told()
    assert len(lines) == notices
    last = at(2026, 3, 1, 2) + limit * DAY
    assert all(line.startswith(f"SKIPPED {last.isoformat()} {limit} ticks") for line in lines)
    assert world.history()[-1].notice is None


def test_every_incident_is_told_anew(world: World, told: Callable[[], list[str]]) -> None:
    nightly(world, window="31d")
    world.step()
    for _ in range(3):
        world.pass_time(seconds=(-(world.now - at(2026, 3, 1, 2)) % DAY).total_seconds())
        world.step()
        hold_up(world, 4)
    assert len(told()) == 3


def test_skips_that_somebody_wanted_are_not_told(
    world: World, told: Callable[[], list[str]]
) -> None:
    nightly(world)
    world.step()
    world.ledger.pause("nightly", world.now)
    live(world, 10)
    assert world.states() == ["SKIPPED"] * 10
    assert told() == []
    world.ledger.resume("nightly", world.now)
    live(world, 0.3)
    assert told() == []  # nothing was due since


def test_an_outage_that_is_caught_up_is_no_row_of_skips(
    world: World, told: Callable[[], list[str]]
) -> None:
    nightly(world, cron="0 * * * *", catch_up="once", window="11h")
    world.step()
    world.restart(hours=8)
    world.drain()
    assert world.states() == ["SKIPPED"] * 7 + ["SUCCEEDED"]
    assert told() == []
    world.restart(hours=10)
    nightly(world, cron="0 * * * *", catch_up="skip", window="11h")
    world.step(3)
    assert [line.split()[0] for line in told()] == ["SKIPPED"]  # nothing stands for these


# --- no success -----------------------------------------------------------------------------------


def test_failing_nights_are_told_each_and_their_silence_once(
    world: World, told: Callable[[], list[str]]
) -> None:
    nightly(world)
    world.step()
    for _ in range(5 * 24):
        world.step(seconds=3600)
        world.finish_all(Status.FAILED, 1)
    lines = told()
    assert [line.split()[0] for line in lines] == ["FAILED"] * 5 + ["OVERDUE"]
    assert lines[-1].startswith("OVERDUE 2026-03-01T02:00:00+00:00 ")
    # A success ends it; the next silence is another.
    for status in (Status.SUCCEEDED, Status.FAILED, Status.FAILED):
        for _ in range(24):
            world.step(seconds=3600)
            world.finish_all(status, None if status is Status.SUCCEEDED else 1)
    lines = [line for line in told() if line.startswith("OVERDUE")]
    assert [line.split()[1] for line in lines] == [
        "2026-03-01T02:00:00+00:00",
        "2026-03-07T02:00:00+00:00",
    ]


def test_a_job_that_succeeds_every_night_is_left_in_peace(
    world: World, told: Callable[[], list[str]]
) -> None:
    nightly(world, window="2h")
    world.job("weekly", cron="0 3 * * 0", on_failure={"command": ["false"]})
    world.step()
    for _ in range(30 * 24):
        world.step(seconds=3600)
        world.finish_all()
    assert told() == []
    assert world.ledger.history("weekly", 100)[0].notice is None
    assert not any("within" in line for line in world.said)


def test_a_scheduler_that_was_down_tells_when_it_is_back_and_no_successor_again(
    world: World, told: Callable[[], list[str]]
) -> None:
    nightly(world, catch_up="skip", notify_after_skips=100)
    world.step()
    world.restart(days=4)
    world.step(2)
    assert [line.split()[:2] for line in told()] == [["OVERDUE", "2026-03-01T02:00:00+00:00"]]
    for _ in range(3):
        world.restart(hours=1)
        world.step(2)
    assert len(told()) == 1


def test_a_file_that_is_spoilt_does_not_silence_its_job(
    world: World, told: Callable[[], list[str]]
) -> None:
    nightly(world)
    world.step()
    (world.jobs / "nightly.yaml").write_text("name: [")
    world.restart(seconds=0)
    for _ in range(30):
        world.step(seconds=3600)
        world.finish_all(Status.FAILED, 1)
    assert [line.split()[0] for line in told()] == ["FAILED", "FAILED", "OVERDUE"]


def test_without_on_failure_it_is_said_in_the_log(world: World) -> None:
    world.job(cron="0 2 * * *")
    world.step()
    world.go_to(2026, 3, 1, 2)
    world.step()
    begin_all(world)
    live(world, 5)
    assert world.ledger.notices() == []
    assert sum("no run has succeeded within 12 h" in line for line in world.said) == 1
    assert sum("3 ticks in a row were skipped" in line for line in world.said) == 1


# --- exit codes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "tries"), [(2, 1), (3, 1), (4, 1), (1, 3), (5, 3), (None, 3)])
def test_what_another_try_cannot_help_is_told_at_once(
    world: World, told: Callable[[], list[str]], code: int | None, tries: int
) -> None:
    nightly(world, retries=2)
    world.step()
    world.go_to(2026, 3, 1, 2)
    for _ in range(4):
        world.step()
        world.finish_all(Status.FAILED, code)
        world.step()
        if tries == 1:
            break  # no waiting for another try
        world.pass_time(seconds=31)
    (run,) = world.history()
    assert (str(run.state), run.attempt) == ("FAILED", tries)
    (line,) = told()
    assert line.startswith("FAILED 2026-03-01T02:00:00+00:00 failed on the cluster")
    assert ("so not tried again" in line) == (tries == 1)


def test_the_exit_code_in_the_run_folder_counts_where_the_head_has_forgotten(
    world: World, tmp_path: Path
) -> None:
    nightly(world, retries=2)
    world.step()
    world.go_to(2026, 3, 1, 2)
    world.step()
    (found,) = world.cluster.ids()
    world.cluster.begin(found)
    world.cluster.run_dir(found).write_status(Status.FAILED, exit_code=3)
    world.cluster.forget()
    world.step(2)
    assert world.states() == ["FAILED"]
