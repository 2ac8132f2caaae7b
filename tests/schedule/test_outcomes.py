"""Schedules that pause after a failure, with `pause_on_failure`."""

from orchestrator.runs.states import Status
from tests.schedule.world import World


def test_a_schedule_pauses_after_a_run_that_failed_for_good_and_goes_on_when_resumed(
    world: World,
) -> None:
    world.job(pause_on_failure=True, retries=1, on_failure={"command": ["true"]})
    world.step()
    world.go_to(2026, 3, 1, 1)
    world.step()
    world.finish_all(Status.FAILED)
    world.step()
    assert world.ledger.paused() == set()  # another try is to come
    world.pass_time(seconds=31)
    world.step()
    world.finish_all(Status.FAILED)
    world.step()
    assert world.ledger.paused() == {"nightly"}
    says = "the schedule is paused until `orchestrator schedule resume nightly`"
    (run,) = world.history()
    assert (run.reason or "").endswith(f"status.json say why; {says}")
    assert any(says in line for line in world.said)
    assert run.notice in ("pending", "sent")
    world.restart(hours=3)
    world.step()
    assert world.states() == ["FAILED", *["SKIPPED"] * 3]
    assert world.history()[-1].reason == "paused"
    world.ledger.resume("nightly", world.now)
    world.go_to(2026, 3, 1, 5)
    world.drain()
    assert world.states()[4:] == ["SUCCEEDED"]
    assert world.ledger.paused() == set()


def test_a_run_that_is_stopped_or_of_a_job_without_it_pauses_nothing(
    world: World,
) -> None:
    world.job(pause_on_failure=True)
    world.job("other")
    world.step()
    world.go_to(2026, 3, 1, 1)
    world.step()
    first, second = world.cluster.ids()
    world.cluster.begin(first)
    world.cluster.report(first, Status.STOPPED)
    world.cluster.begin(second)
    world.cluster.end(second, Status.FAILED)
    world.step()
    assert (world.states(), world.states("other")) == (["STOPPED"], ["FAILED"])
    assert world.ledger.paused() == set()
