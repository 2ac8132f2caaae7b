"""Runs that a person asks for: triggers and backfills."""

from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.config.job import Job
from orchestrator.runs.states import Status, TickState
from orchestrator.schedule.looks import NoAnswer
from tests.schedule.world import World, at

HOUR = timedelta(hours=1)


def begin(world: World) -> str:
    """The one run that the cluster has and that has not begun yet."""
    known = {found: world.cluster.look_up(found) for found in world.cluster.ids()}
    (found,) = [name for name, info in known.items() if info and info.status is Status.PENDING]
    world.cluster.begin(found)
    return found


# --- trigger --------------------------------------------------------------------------------------


def test_a_trigger_runs_once_as_a_tick_of_its_own(world: World) -> None:
    world.job(cron="0 2 * * *")
    world.step()
    tick = world.ledger.trigger("nightly", world.now)
    assert (tick, world.states()) == (at(2026, 3, 1, 0, 0, 31), ["REQUESTED"])
    world.scheduler = world.new_scheduler()
    world.pass_time(seconds=20)
    world.drain()
    assert world.cluster.journal() == ["nightly-20260301T000031Z-1"]
    world.restart(hours=2)
    world.drain()
    assert world.outcomes() == [("trigger", "SUCCEEDED"), ("cron", "SUCCEEDED")]
    assert len(world.cluster.journal()) == 2


def test_triggers_and_ticks_of_one_instant_are_all_kept(world: World) -> None:
    world.job(overlap="queue")
    world.step()
    world.go_to(2026, 3, 1, 1)
    ticks = [world.ledger.trigger("nightly", world.now) for _ in range(3)]
    assert ticks == [at(2026, 3, 1, 1) + timedelta(seconds=n) for n in (1, 2, 3)]
    world.drain()
    assert world.outcomes() == [("cron", "SUCCEEDED"), *[("trigger", "SUCCEEDED")] * 3]


def test_a_trigger_before_the_first_scheduler_waits_for_it(world: World) -> None:
    world.job(cron="0 2 * * *")
    world.ledger.trigger("nightly", world.now)
    world.drain()
    assert world.outcomes() == [("trigger", "SUCCEEDED")]


@pytest.mark.parametrize(
    ("overlap", "states"),
    [
        ("skip", ["SUCCEEDED", "SKIPPED"]),
        ("queue", ["SUCCEEDED", "SUCCEEDED"]),
        ("replace", ["STOPPED", "SUCCEEDED"]),
    ],
)
def test_a_trigger_keeps_to_the_overlap(world: World, overlap: str, states: list[str]) -> None:
    world.job(overlap=overlap)
    world.step()
    world.go_to(2026, 3, 1, 1)
    world.step()
    first = begin(world)
    world.pass_time(minutes=1)
    world.ledger.trigger("nightly", world.now)
    world.step(3)
    assert len(world.cluster.ids()) == 1  # never beside the one before it
    stopped = (world.folder / "cluster" / "stopped" / first).exists()
    assert stopped == (overlap == "replace")
    if stopped:
        world.cluster.report(first, Status.STOPPED)
    world.drain()
    assert world.states() == states
    if overlap == "skip":
        reason = "overlap is skip; the run of 2026-03-01 01:00 UTC was RUNNING"
        assert world.history()[1].reason == reason


def test_of_two_triggers_at_once_one_runs_where_overlap_is_skip(world: World) -> None:
    world.job()
    world.step()
    for _ in range(2):
        world.ledger.trigger("nightly", world.now)
    world.drain()
    assert world.states() == ["SUCCEEDED", "SKIPPED"]


def test_a_request_whose_storage_is_silent_waits(world: World) -> None:
    world.job()
    original = world.place
    silent = [True]

    def place(job: Job, key: str) -> tuple[Job, Path]:
        if silent:
            raise NoAnswer("no answer within 3 s")
        return original(job, key)

    world.place = place  # type: ignore[method-assign]
    world.step()
    world.ledger.trigger("nightly", world.now)
    world.step(3)
    assert world.states() == ["REQUESTED"]
    assert "waits: no answer" in world.ledger.faults()["nightly", "place"]
    silent.clear()
    world.drain()
    assert world.states() == ["SUCCEEDED"]
    assert world.ledger.faults() == {}


def test_a_request_that_cannot_be_placed_fails(world: World) -> None:
    world.job(on_failure={"command": ["true"]}, pause_on_failure=True)

    def place(job: Job, key: str) -> tuple[Job, Path]:
        raise ValueError("planted")

    world.place = place  # type: ignore[method-assign]
    world.step()
    world.ledger.trigger("nightly", world.now)
    world.step()
    (run,) = world.history()
    assert run.state is TickState.FAILED
    assert (run.reason or "").startswith("cannot be run: planted; the schedule is paused until")
    assert run.notice in ("pending", "sent")
    assert world.ledger.paused() == {"nightly"}


def test_what_was_requested_of_a_paused_or_removed_job_does_not_run(world: World) -> None:
    world.job("a")
    world.job("b")
    world.step()
    for name in ("a", "b"):
        world.ledger.trigger(name, world.now)
    world.ledger.pause("a", world.now)
    (world.jobs / "b.yaml").unlink()
    world.restart(minutes=5)
    world.step(2, seconds=61)
    world.ledger.trigger("b", world.now)  # as a command may that read the ledger before
    world.step()
    assert world.cluster.ids() == ["b-20260301T000031Z-1"]  # b was in force when it was decided
    world.step()
    assert [run.reason for run in world.history("a")] == ["paused"]
    assert [run.reason for run in world.history("b")][1:] == ["the job was removed"]


def test_a_request_for_a_job_of_another_folder_does_not_wait_for_ever(world: World) -> None:
    world.job("a")
    world.ledger.trigger("elsewhere", world.now)
    world.ledger.trigger("a", world.now)
    world.drain()
    assert (world.states("elsewhere"), world.states("a")) == (["REQUESTED"], ["SUCCEEDED"])
    world.jobs.rename(world.folder / "away")
    world.step()
    world.pass_time(minutes=2)
    world.step(2)
    assert world.states("elsewhere") == ["REQUESTED"]  # a folder that cannot be read may have it
    (world.folder / "away").rename(world.jobs)
    world.step(2)
    (run,) = world.history("elsewhere")
    assert run.state is TickState.SKIPPED
    assert run.reason == "the scheduler that runs on this ledger has no file of this job"


# --- backfill -------------------------------------------------------------------------------------


def test_a_backfill_runs_what_has_no_run_once_and_one_after_another(world: World) -> None:
    world.job()
    world.step()
    world.go_to(2026, 3, 1, 1)
    world.drain()
    world.restart(hours=4)
    world.drain()  # of 02:00 to 05:00 the last is caught up
    assert world.states() == ["SUCCEEDED", *["SKIPPED"] * 3, "SUCCEEDED"]
    span = [at(2026, 2, 28, 22) + n * HOUR for n in range(8)]
    assert world.ledger.backfill("nightly", span, world.now) == [*span[:3], *span[4:7]]
    assert world.ledger.backfill("nightly", span, world.now) == []
    world.scheduler = world.new_scheduler()
    world.pass_time(seconds=20)
    most = 0
    while world.ledger.open_runs() or world.ledger.requested():
        world.step(seconds=0.001)
        most = max(most, len(world.finish_all()))
    assert most == 1
    assert world.cluster.journal()[2:] == [
        f"nightly-{tick:%Y%m%dT%H%M%SZ}-1" for tick in (*span[:3], *span[4:7])
    ]
    ran = {run.origin for run in world.history() if run.tick in span}
    assert ran == {"backfill", "cron"}
    assert set(world.states()) == {"SUCCEEDED"}
    assert world.ledger.backfill("nightly", span, world.now) == []


def test_a_backfill_that_waits_lets_new_ticks_pass(world: World) -> None:
    world.job(overlap="skip")
    world.step()
    span = [at(2026, 2, 28, hour) for hour in (1, 2, 3)]
    world.ledger.backfill("nightly", span, world.now)
    world.step(2)
    begin(world)
    world.go_to(2026, 3, 1, 1)
    world.step()  # what runs is no less a run because it is of a backfill
    assert world.states() == ["RUNNING", "QUEUED", "QUEUED", "SKIPPED"]
    world.pass_time(minutes=59)
    world.finish_all()
    world.go_to(2026, 3, 1, 2)
    world.step()  # what only waits makes no new tick skip, and starts after it
    assert world.states() == ["SUCCEEDED", "QUEUED", "QUEUED", "SKIPPED", "PENDING"]
    world.drain()
    assert world.states() == [*["SUCCEEDED"] * 3, "SKIPPED", "SUCCEEDED"]


def test_a_tick_that_a_backfill_has_asked_for_replaces_nothing(world: World) -> None:
    world.job(cron="0 * * * *", overlap="replace")
    world.step()
    world.go_to(2026, 3, 1, 1)
    world.step()
    begin(world)
    world.ledger.backfill("nightly", [at(2026, 3, 1, 2)], at(2026, 3, 1, 2))
    world.go_to(2026, 3, 1, 2)
    world.step()
    assert world.history()[0].stop_reason is None
