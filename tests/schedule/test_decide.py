"""Which runs are decided on after an outage, a jump of the clock or a pause."""

from datetime import timedelta

import pytest

from tests.schedule.world import World, at

# --- missed ticks ---------------------------------------------------------------------------------

# cron, down for, number of missed ticks inside a window of 12 hours, missed in all
OUTAGES = [
    ("*/10 * * * *", timedelta(hours=1), 6, 6),
    ("0 * * * *", timedelta(days=3), 12, 72),
    ("0 2 * * *", timedelta(days=3), 1, 3),
]
TWO_HUNDRED = ("*/3 * * * *", timedelta(minutes=600), 200, 200)


@pytest.mark.parametrize(
    ("cron", "down", "inside", "missed", "overlap"),
    [(*outage, overlap) for outage in OUTAGES for overlap in ("skip", "queue", "replace")]
    + [(*TWO_HUNDRED, "skip")],
)
@pytest.mark.parametrize("catch_up", ["skip", "once", "all"])
def test_after_an_outage_exactly_the_promised_runs_start(
    world: World,
    cron: str,
    down: timedelta,
    inside: int,
    missed: int,
    catch_up: str,
    overlap: str,
) -> None:
    world.now = at(2026, 3, 1, 10, 0, 30)
    world.job(cron=cron, catch_up=catch_up, overlap=overlap, window="12h")
    world.step()
    # Half a tick past the last one: none is on time.
    world.restart(seconds=down.total_seconds() + 90 - 21)
    ended = world.drain()
    promised = {"skip": 0, "once": 1, "all": inside}[catch_up]
    assert len(ended) == promised
    assert world.cluster.journal() == ended
    ran = [run.tick for run in world.history() if run.state == "SUCCEEDED"]
    skipped = [run for run in world.history() if run.state == "SKIPPED"]
    assert len(skipped) == missed - promised
    assert all("missed by" in (run.reason or "") for run in skipped)
    every = [run.tick for run in world.history()]
    assert ran == (every[len(every) - promised :] if promised else [])
    assert ended == sorted(ended)  # oldest first


def test_a_tick_on_time_stands_for_the_missed_ones_under_once(world: World) -> None:
    world.job(catch_up="once")
    world.step()
    world.restart(hours=5)
    world.go_to(2026, 3, 1, 6, 0, 5)
    world.drain()
    assert world.states() == ["SKIPPED"] * 5 + ["SUCCEEDED"]


def test_a_takeover_does_not_make_a_tick_a_missed_one(world: World) -> None:
    world.job(catch_up="skip")
    world.step()
    world.go_to(2026, 3, 1, 0, 59, 59)
    world.step()
    world.restart(seconds=0)
    world.drain()
    assert world.states() == ["SUCCEEDED"]


def test_years_of_minutes_are_bounded_and_written_in_parts(world: World) -> None:
    world.job(cron="*/30 * * * *", catch_up="once")
    world.step()
    world.restart(days=400)
    world.drain()
    runs = world.history()
    assert 366 * 48 - 2 <= len(runs) <= 366 * 48 + 1
    assert [str(run.state) for run in runs[-2:]] == ["SKIPPED", "SUCCEEDED"]
    assert "earlier ones are not listed" in (runs[0].reason or "")


# --- clocks ---------------------------------------------------------------------------------------


def test_a_clock_that_goes_back_runs_nothing_twice(world: World) -> None:
    world.job(cron="*/10 * * * *", catch_up="all", overlap="queue")
    for _ in range(12):
        world.step(seconds=600)
        world.finish_all()
    ran = len(world.cluster.journal())
    assert ran == 11
    world.pass_time(jump=True, hours=-1)
    for _ in range(9):
        world.step(seconds=600)
        world.finish_all()
    world.drain()
    journal = world.cluster.journal()
    assert len(journal) == len(set(journal)) == 15
    assert set(world.states()) == {"SUCCEEDED"}


def test_a_clock_that_jumps_forward_is_caught_up(world: World) -> None:
    world.job(catch_up="all", overlap="queue")
    world.step()
    world.pass_time(jump=True, hours=5)
    world.drain()
    assert world.states() == ["SUCCEEDED"] * 5


def test_a_clock_that_was_years_ahead_does_not_silence_the_job(world: World) -> None:
    world.job(cron="0 2 * * *")
    world.step()
    world.pass_time(jump=True, days=300)
    world.drain()
    world.pass_time(jump=True, days=-300)
    for day in (1, 2, 3):
        world.step()
        world.go_to(2026, 3, day, 2, 0, 5)
        world.drain()
    ran = [run.tick.date().isoformat() for run in world.history() if run.state == "SUCCEEDED"]
    assert ran[:3] == ["2026-03-01", "2026-03-02", "2026-03-03"]


def test_a_machine_that_starts_in_1970_repeats_nothing(world: World) -> None:
    world.job(catch_up="all")
    world.step()
    world.go_to(2026, 3, 1, 1)
    world.drain()
    world.restart(seconds=0)
    today = world.now
    world.now = at(1970, 1, 1)
    world.step()
    world.now = today
    world.go_to(2026, 3, 1, 2)
    world.drain()
    assert [run.tick for run in world.history()] == [at(2026, 3, 1, 1), at(2026, 3, 1, 2)]


# --- pauses ---------------------------------------------------------------------------------------


def test_a_paused_job_skips_its_ticks_and_resumes_without_catching_up(world: World) -> None:
    world.job(catch_up="all")
    world.step()
    world.ledger.pause("nightly", world.now)
    world.go_to(2026, 3, 1, 1)
    world.step()
    world.restart(hours=2)  # resumed while no scheduler runs
    world.ledger.resume("nightly", world.now)
    world.go_to(2026, 3, 1, 4, 30)
    world.drain()
    assert world.states() == ["SKIPPED", "SKIPPED", "SKIPPED", "SUCCEEDED"]
    assert {run.reason for run in world.history()[:3]} == {"paused"}
