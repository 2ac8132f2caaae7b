"""Storage that hangs: a share whose server is gone lets a read wait for ever.

A pipe that nobody writes to hangs in the same way, and so does a look that waits for an event.
"""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.config.job import Job
from orchestrator.runs.states import Status
from orchestrator.schedule.job_folder import JobFolder, LoadedJobs
from orchestrator.schedule.leadership import Settings
from orchestrator.schedule.ledger import Ledger
from tests.schedule.world import World

FIRST, SECOND = "first-20260301T010000Z-1", "second-20260301T010000Z-1"


class Share:
    """Storage of a test: while it is away, what asks it waits."""

    def __init__(self) -> None:
        self._back = threading.Event()
        self._back.set()
        self.asked = 0

    def leave(self) -> None:
        self._back.clear()

    def come_back(self) -> None:
        self._back.set()

    def touch(self) -> None:
        self.asked += 1
        assert self._back.wait(200), "the share stayed away"


@pytest.fixture
def share() -> Iterator[Share]:
    share = Share()
    yield share
    share.come_back()


@pytest.fixture
def impatient(world: World) -> World:
    """A world whose scheduler waits for storage a fifth of a second."""
    world.look_s = 0.2
    world.scheduler = world.new_scheduler()
    return world


def step_until(world: World, wanted: dict[str, list[str]]) -> None:
    """Steps until the runs have come so far, whatever time a busy machine takes for a look."""
    limit = time.monotonic() + 60
    while {job: world.states(job) for job in wanted} != wanted:
        assert time.monotonic() < limit, {job: world.states(job) for job in wanted}
        world.step(seconds=11)
        world.finish_all()
        time.sleep(0.01)


def hang(folder: Path) -> None:
    """Makes a run folder whose status hangs whoever reads it."""
    folder.mkdir(parents=True)
    os.mkfifo(folder / "status.json")


def mend(folder: Path) -> None:
    """Lets those go that read it, and takes the pipe away."""
    os.close(os.open(folder / "status.json", os.O_RDWR | os.O_NONBLOCK))
    (folder / "status.json").unlink()


def test_settings_leave_the_lease_room_for_every_look() -> None:
    settings = Settings()
    assert settings.look_s < settings.lease_s / 3


def test_a_run_folder_that_hangs_stops_neither_the_others_nor_the_standby(
    impatient: World,
) -> None:
    world = impatient
    for name in ("first", "second"):
        world.job(name, args={"input": "/x", "out_root": name})
    world.place = lambda job, key: place_in(world, job, key)  # type: ignore[method-assign]
    folder = world.folder / "runs" / "first" / "first-20260301T010000Z"
    hang(folder)
    world.step()
    world.go_to(2026, 3, 1, 1)
    waits: list[float] = []
    stopping = threading.Event()

    def stand_by() -> None:
        other = Ledger(world.folder / "ledger.sqlite3")
        while not stopping.is_set():
            began = time.monotonic()
            other.pause("nobody", world.now)
            other.resume("nobody", world.now)
            waits.append(time.monotonic() - began)
            time.sleep(0.02)
        other.close()

    standby = threading.Thread(target=stand_by)
    standby.start()
    try:
        step_until(world, {"first": ["QUEUED"], "second": ["SUCCEEDED"]})
    finally:
        stopping.set()
        standby.join()
    assert len(waits) > 3
    assert max(waits) < 10  # and no "database is locked" after 30 s
    assert "no answer within 0.2 s" in world.ledger.faults()["first", "folder"]
    mend(folder)
    step_until(world, {"first": ["SUCCEEDED"]})
    assert world.ledger.faults() == {}
    assert sorted(world.cluster.journal()) == [FIRST, SECOND]


def place_in(world: World, job: Job, key: str) -> tuple[Job, Path]:
    """Each job's runs in a folder of its own, as on a share of its own."""
    folder = world.folder / "runs" / job.name / key
    return job.model_copy(update={"args": {**job.args, "out": str(folder)}}), folder


def test_of_a_run_whose_folder_hangs_nothing_is_concluded(impatient: World) -> None:
    world = impatient
    for name in ("first", "second"):
        world.job(name, retries=2)
    world.place = lambda job, key: place_in(world, job, key)  # type: ignore[method-assign]
    world.step()
    world.go_to(2026, 3, 1, 1)
    world.step()
    for found in (FIRST, SECOND):
        world.cluster.begin(found)
    world.step()
    run = world.cluster.run_dir(FIRST)
    run.status.unlink()
    os.mkfifo(run.status)
    # The cluster says that both are over; whether the first one wrote `_SUCCESS` is not known.
    world.cluster.report(FIRST, Status.FAILED, 1)
    world.cluster.end(SECOND, Status.SUCCEEDED)
    step_until(world, {"first": ["RUNNING"], "second": ["SUCCEEDED"]})
    world.step(3)
    assert world.states("first") == ["RUNNING"]
    mend(run.path)
    run.write_status(Status.SUCCEEDED)
    run.success.touch()
    step_until(world, {"first": ["SUCCEEDED"]})
    assert world.cluster.journal() == [FIRST, SECOND]


def test_a_folder_of_jobs_that_hangs_leaves_those_in_force(impatient: World, share: Share) -> None:
    world = impatient
    files = JobFolder(world.jobs)

    def load() -> LoadedJobs:
        share.touch()
        return files.load()

    world.load_jobs = load
    world.job("first")
    world.job("second")
    world.scheduler.close()
    world.scheduler = world.new_scheduler()
    world.step()
    share.leave()
    world.step()
    world.go_to(2026, 3, 1, 1)
    step_until(world, {"first": ["SUCCEEDED"], "second": ["SUCCEEDED"]})
    world.restart(seconds=0)  # also for one that has never seen the files
    world.go_to(2026, 3, 1, 2)
    step_until(world, {"first": ["SUCCEEDED"] * 2, "second": ["SUCCEEDED"] * 2})
    assert world.ledger.faults() == {}
    share.come_back()
    world.job("third")
    limit = time.monotonic() + 60
    while "third" not in world.ledger.jobs():
        assert time.monotonic() < limit
        world.step()


def test_a_tick_whose_placing_hangs_waits_for_it_alone(impatient: World, share: Share) -> None:
    world = impatient
    original = world.place

    def place(job: Job, key: str) -> tuple[Job, Path]:
        if job.name == "first":
            share.touch()  # as a scoring job whose folder of models hangs
        return original(job, key)

    world.place = place  # type: ignore[method-assign]
    world.job("first", catch_up="all")
    world.job("second", catch_up="all")
    world.step()
    share.leave()
    world.go_to(2026, 3, 1, 1)
    step_until(world, {"first": [], "second": ["SUCCEEDED"]})
    world.step(20)
    assert share.asked == 1  # one look at a time
    assert "waits: no answer within 0.2 s" in world.ledger.faults()["first", "place"]
    share.come_back()
    step_until(world, {"first": ["SUCCEEDED"]})
    assert world.ledger.faults() == {}


def test_a_submit_whose_folder_hangs_waits_alone_and_starts_once(
    impatient: World, share: Share
) -> None:
    world = impatient
    world.place = lambda job, key: place_in(world, job, key)  # type: ignore[method-assign]

    def prepare(folder: Path | None) -> None:
        if folder is not None and "first" in folder.name:
            share.touch()  # `job.yaml` cannot be written

    world.prepare = prepare  # type: ignore[method-assign]
    world.scheduler.close()
    world.scheduler = world.new_scheduler()
    world.job("first")
    world.job("second")
    world.step()
    share.leave()
    world.go_to(2026, 3, 1, 1)
    step_until(world, {"first": ["SUBMITTING"], "second": ["SUCCEEDED"]})
    assert any("first: not submitted yet: no answer" in line for line in world.said)
    assert world.cluster.ids() == [SECOND]
    share.come_back()
    time.sleep(0.1)
    assert world.cluster.ids() == [SECOND]  # a look that comes late starts nothing
    step_until(world, {"first": ["SUCCEEDED"]})
    assert world.submits.count(FIRST) == 1


def test_a_submit_whose_folder_hangs_for_its_window_is_told_and_given_up_when_it_is_back(
    impatient: World, share: Share
) -> None:
    world = impatient
    world.prepare = lambda folder: share.touch()  # type: ignore[method-assign]
    world.scheduler.close()
    world.scheduler = world.new_scheduler()
    world.job("first", window="1h", cron="0 1 * * *", on_failure={"command": ["true"]})
    world.step()
    share.leave()
    world.go_to(2026, 3, 1, 1)
    world.step(70, seconds=60)
    (run,) = world.history("first")
    # Whether it has begun is not known, so it is neither repeated nor given up.
    assert str(run.state) == "SUBMITTING"
    assert run.notice in ("pending", "sent")
    share.come_back()
    step_until(world, {"first": ["FAILED"]})
    assert "could not be submitted within 1 h" in (world.history("first")[0].reason or "")
    assert world.cluster.ids() == []
