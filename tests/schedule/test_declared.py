"""Job files that go wrong, go away and come back, in a world moved by hand."""

from datetime import datetime
from pathlib import Path

import pytest

from orchestrator.config.job import Job
from orchestrator.errors import SpecError
from tests.schedule.fake_cluster import dump_job
from tests.schedule.test_job_folder import FAULTS
from tests.schedule.world import World, at


def succeeded(world: World, job: str = "nightly") -> list[datetime]:
    return [run.tick for run in world.history(job) if run.state == "SUCCEEDED"]


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["a pipe", "deep nesting", "a folder of runs that is a number"])
def test_one_bad_file_harms_only_itself(world: World, fault: str) -> None:
    world.job()
    FAULTS[fault][0](world.jobs / "bad.yaml")
    world.step(3)
    found = world.ledger.faults()
    assert set(found) == {("bad.yaml", "file")}
    assert FAULTS[fault][1] in found["bad.yaml", "file"]
    assert len([line for line in world.said if line.startswith("bad.yaml: ")]) == 1
    world.go_to(2026, 3, 1, 1)
    world.drain()
    assert world.states() == ["SUCCEEDED"]
    (world.jobs / "bad.yaml").unlink()
    world.step()
    assert world.ledger.faults() == {}


def test_a_fault_is_recorded_as_its_jobs_and_the_last_good_version_stays(world: World) -> None:
    world.job(args={"input": "/good"})
    world.step()
    (world.jobs / "nightly.yaml").write_text("name: [")
    world.step()
    assert set(world.ledger.faults()) == {("nightly", "file")}
    world.go_to(2026, 3, 1, 1)
    world.drain()
    # Whoever leads: the next one finds it in the ledger.
    world.restart(hours=1)
    world.go_to(2026, 3, 1, 3)
    world.drain()
    assert succeeded(world) == [at(2026, 3, 1, 1), at(2026, 3, 1, 3)]
    assert {world.cluster.job(found).args["input"] for found in world.cluster.ids()} == {"/good"}
    assert set(world.ledger.faults()) == {("nightly", "file")}
    world.job(args={"input": "/new"})
    world.step()
    assert world.ledger.faults() == {}
    world.go_to(2026, 3, 1, 4)
    world.step()
    assert world.cluster.job(world.cluster.ids()[-1]).args["input"] == "/new"


def test_a_tick_that_cannot_be_placed_fails_alone_and_somebody_is_told(world: World) -> None:
    world.job("first", on_failure={"command": ["true"]}, retries=3)
    world.job("second")
    original = world.place

    def place(job: Job, key: str) -> tuple[Job, Path]:
        if job.name == "first":
            raise ValueError("planted\nmistake")
        return original(job, key)

    world.place = place  # type: ignore[method-assign]
    world.step()
    world.go_to(2026, 3, 1, 1)
    world.drain()
    (run,) = world.history("first")
    assert (str(run.state), run.reason) == ("FAILED", "cannot be run: planted")
    assert run.notice in ("pending", "sent")
    assert world.states("second") == ["SUCCEEDED"]


def test_a_tick_whose_storage_refuses_waits_and_its_job_is_at_fault(world: World) -> None:
    world.job("first")
    world.job("second")
    original = world.place
    refusal: list[OSError] = [OSError(5, "Input/output error")]

    def place(job: Job, key: str) -> tuple[Job, Path]:
        if job.name == "first" and refusal:
            raise refusal[0]
        return original(job, key)

    world.place = place  # type: ignore[method-assign]
    world.step()
    world.go_to(2026, 3, 1, 1)
    world.drain()
    assert world.states("first") == []
    assert world.states("second") == ["SUCCEEDED"]
    problem = world.ledger.faults()["first", "place"]
    assert problem.startswith("the tick of 2026-03-01 01:00 UTC waits: ")
    refusal.clear()
    world.step()
    assert world.ledger.faults() == {}
    world.drain()
    assert world.states("first") == ["SUCCEEDED"]


def test_a_stored_job_that_is_refused_is_its_own_fault(world: World) -> None:
    for name in ("first", "second"):
        world.job(name)
    world.step()
    lease = world.scheduler._leadership._held()
    with world.ledger.writing(lease, world.now) as write:
        write.keep("first", "first.yaml", '{"name": "first"}')
    for name in ("first", "second"):
        (world.jobs / f"{name}.yaml").write_text("name: [")
    world.restart(seconds=0)
    world.go_to(2026, 3, 1, 1)
    world.drain()
    assert "another version" in world.ledger.faults()["first", "stored"]
    assert world.states("second") == ["SUCCEEDED"]
    for name in ("first", "second"):
        world.job(name, catch_up="all")
    world.step()
    world.drain()
    assert world.states("first") == ["SUCCEEDED"]  # nothing was lost meanwhile
    assert world.ledger.faults() == {}


# --- files that are away --------------------------------------------------------------------------


def test_a_file_that_is_gone_for_a_second_at_its_tick_costs_nothing(world: World) -> None:
    world.job()
    world.step()
    world.go_to(2026, 3, 1, 0, 59, 57)
    world.step()
    (world.jobs / "nightly.yaml").unlink()
    world.scheduler.step()
    world.pass_time(seconds=2.5)  # the tick is due while there is no file
    world.scheduler.step()
    world.job(args={"input": "/deployed"})
    world.drain()
    assert succeeded(world) == [at(2026, 3, 1, 1)]
    assert not any("no longer scheduled" in line for line in world.said)
    world.go_to(2026, 3, 1, 2)
    world.drain()
    assert succeeded(world) == [at(2026, 3, 1, 1), at(2026, 3, 1, 2)]
    assert world.cluster.job(world.cluster.ids()[-1]).args["input"] == "/deployed"


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_scheduler_that_starts_in_that_second_loses_nothing_either(
    world: World, what: str
) -> None:
    world.job()
    world.step()
    if what == "file":
        (world.jobs / "nightly.yaml").unlink()
    else:
        world.jobs.rename(world.folder / "away")
    world.restart(seconds=0)
    world.step()
    world.go_to(2026, 3, 1, 1)
    world.step()
    if what == "folder":
        (world.folder / "away").rename(world.jobs)
    world.job()
    world.drain()
    assert succeeded(world) == [at(2026, 3, 1, 1)]


def test_a_folder_that_is_away_for_hours_keeps_its_jobs(world: World) -> None:
    world.job(catch_up="all", overlap="queue")
    world.step()
    world.jobs.rename(world.folder / "away")
    for _ in range(182):
        world.step(seconds=60)
        world.finish_all()
    assert len(succeeded(world)) == 3
    assert sum("cannot list" in line for line in world.said) == 1


def test_a_file_that_stays_away_ends_its_job_after_a_minute(world: World) -> None:
    world.job()
    world.step()
    (world.jobs / "nightly.yaml").unlink()
    world.step(59)
    assert world.ledger.jobs()["nightly"].cron is not None
    world.step(3)
    assert world.ledger.jobs()["nightly"].cron is None
    world.go_to(2026, 3, 1, 1)
    world.step(3)
    assert world.history() == []


def test_a_renamed_job_ends_at_once_and_what_it_was_owed_is_recorded(world: World) -> None:
    world.job(catch_up="all")
    world.step()
    world.restart(hours=2)
    dump_job(world.jobs, "renamed", schedule={"cron": "0 * * * *"}).rename(
        world.jobs / "nightly.yaml"
    )
    world.step()
    assert [(str(run.state), run.reason) for run in world.history()] == [
        ("SKIPPED", "the job was removed before this tick ran")
    ] * 2
    world.go_to(2026, 3, 1, 3)
    world.drain()
    assert succeeded(world, "renamed") == [at(2026, 3, 1, 3)]
    assert succeeded(world) == []  # and not both of them


def test_a_job_whose_schedule_is_taken_out_ends_at_once(world: World) -> None:
    world.job()
    world.step()
    dump_job(world.jobs, "nightly")
    world.step()
    assert world.ledger.jobs()["nightly"].cron is None


def test_every_tick_has_a_row_however_the_file_comes_and_goes(world: World) -> None:
    """Seeded: the file is there, away for some seconds, spoilt, or the scheduler restarts."""
    import random

    chance = random.Random(14)
    world.job(cron="* * * * *", catch_up="all", overlap="queue")
    world.step()
    first = world.now
    for _ in range(400):
        event = chance.choice(["there", "away", "spoilt", "restart", "there"])
        path = world.jobs / "nightly.yaml"
        if event == "there":
            world.job(cron="* * * * *", catch_up="all", overlap="queue")
        elif event == "away":
            path.unlink(missing_ok=True)
        elif event == "spoilt":
            path.write_text("name: [")
        else:
            world.restart(seconds=chance.uniform(0, 20))
        for _ in range(chance.randint(1, 3)):
            world.step(seconds=chance.uniform(0.5, 9))
        world.finish_all()
    world.job(cron="* * * * *", catch_up="all", overlap="queue")
    world.drain()
    ticks = [run.tick for run in world.history()]
    minutes = int((world.now - first).total_seconds() // 60)
    assert len(ticks) == len(set(ticks))
    assert minutes - 1 <= len(ticks) <= minutes + 1
    assert len(world.cluster.journal()) == len(set(world.cluster.journal()))


def test_a_fault_that_is_not_the_files_is_not_ended_by_a_good_file(world: World) -> None:
    world.job()

    def place(job: Job, key: str) -> tuple[Job, Path]:
        raise SpecError("no")

    world.place = place  # type: ignore[method-assign]
    world.step()
    world.go_to(2026, 3, 1, 1)
    world.step(3)
    assert world.states() == ["FAILED"]
