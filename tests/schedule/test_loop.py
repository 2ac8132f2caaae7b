"""The ordinary night, two schedulers of one ledger, and many jobs of one minute."""

import time

from orchestrator.runs.states import Status
from orchestrator.schedule.ledger import Ledger
from tests.schedule.world import World, at

# --- the ordinary night ---------------------------------------------------------------------------


def test_a_tick_runs_once_and_its_result_is_recorded(world: World) -> None:
    world.job(cron="0 2 * * *")
    world.step()
    assert world.history() == []
    world.go_to(2026, 3, 1, 1, 59, 59)
    world.step(3)
    (found,) = world.cluster.ids()
    assert found == "nightly-20260301T020000Z-1"
    world.cluster.begin(found)
    world.step()
    assert world.states() == ["RUNNING"]
    world.cluster.end(found, Status.SUCCEEDED)
    world.step(100, seconds=60)
    assert world.states() == ["SUCCEEDED"]
    assert world.cluster.journal() == [found]
    assert world.history()[0].folder == world.folder / "runs" / "nightly-20260301T020000Z"


def test_the_intent_is_on_disk_before_the_cluster_is_asked(world: World) -> None:
    world.job()
    world.step()
    seen = []

    def submit(submission_id: str, job: object, folder: object) -> None:
        other = Ledger(world.folder / "ledger.sqlite3")
        seen.extend((run.submission_id, str(run.state)) for run in other.open_runs())
        other.close()

    world._submit = submit  # type: ignore[method-assign]
    world.scheduler.close()
    world.scheduler = world.new_scheduler()
    world.go_to(2026, 3, 1, 1)
    world.step()
    assert seen == [("nightly-20260301T010000Z-1", "SUBMITTING")]


def test_the_hour_that_comes_twice_runs_once(world: World) -> None:
    world.now = at(2026, 10, 24, 12)
    world.job(cron="30 2 * * *", timezone="Europe/Berlin")
    for _ in range(48 * 4):
        world.step(seconds=900)
        world.finish_all()
    assert [run.tick for run in world.history()] == [
        at(2026, 10, 25, 0, 30),
        at(2026, 10, 26, 1, 30),
    ]


# --- two schedulers, and many jobs ----------------------------------------------------------------


def test_one_of_two_schedulers_leads_and_the_other_takes_over(world: World) -> None:
    world.job()
    world.step()
    second = world.new_scheduler(Ledger(world.folder / "ledger.sqlite3"))
    world.go_to(2026, 3, 1, 0, 59, 50)
    world.step()
    assert not second.step()
    world.pass_time(seconds=12)
    world.step(seconds=0)
    second.step()
    assert len(world.submits) == 1
    world.pass_time(seconds=30)  # the first one is silent for longer than its lead
    second.step()
    world.step()
    assert sum("this scheduler is the leader" in line for line in world.said) == 2
    assert any("another scheduler has taken over" in line for line in world.said)
    assert len(world.submits) == 1


def test_a_leader_suspended_before_its_submit_asks_for_nothing(world: World) -> None:
    world.job("first")
    world.job("second")
    world.step()
    second = world.new_scheduler(Ledger(world.folder / "ledger.sqlite3"))
    original = world._submit
    asked = []

    def submit(submission_id: str, job: object, folder: object) -> None:
        asked.append(submission_id)
        if len(asked) == 1:  # while the cluster is slow, the lead runs out and is taken
            world.pass_time(seconds=20)
            second.step()
        original(submission_id, job, folder)  # type: ignore[arg-type]

    world._submit = submit  # type: ignore[method-assign]
    world.scheduler.close()
    world.scheduler = world.new_scheduler()
    world.go_to(2026, 3, 1, 1)
    world.step()
    first, other = "first-20260301T010000Z-1", "second-20260301T010000Z-1"
    assert asked == [first]  # the superseded one asks for nothing more
    assert world.submits == [first, other, first]  # and its late submit was refused
    assert world.cluster.ids() == [first, other]
    world.pass_time(seconds=20)
    world.drain()
    assert sorted(world.cluster.journal()) == [first, other]


def test_a_thousand_schedules_of_one_minute_are_committed_within_ten_seconds(world: World) -> None:
    for number in range(1000):
        world.job(f"job-{number:04}", cron="0 1 * * *")
    world.step()
    took = []

    def submit(submission_id: str, job: object, folder: object) -> None:
        if not took:
            took.append(time.monotonic() - began)
            other = Ledger(world.folder / "ledger.sqlite3")
            assert [str(run.state) for run in other.open_runs()] == ["SUBMITTING"] * 1000
            other.close()

    world._submit = submit  # type: ignore[method-assign]
    world.scheduler.close()
    world.scheduler = world.new_scheduler()
    world.go_to(2026, 3, 1, 1)
    began = time.monotonic()
    world.scheduler.step()
    assert took[0] < 10.0
    assert len(world.ledger.open_runs()) == 1000
