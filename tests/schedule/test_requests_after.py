"""Jobs that follow others: each success starts what comes after it, once."""

from datetime import timedelta

from orchestrator.runs.states import Status, TickState
from tests.schedule.world import World


def test_each_success_starts_what_follows_it_once(world: World) -> None:
    world.job("first", retries=1)
    world.job("second", after="first")
    world.job("third", after="second")
    world.step()
    assert world.ledger.jobs()["second"].cron == "after first"
    assert "second: scheduled: after first" in world.said
    world.go_to(2026, 3, 1, 1)
    world.step()
    world.finish_all(Status.FAILED)
    world.step()
    assert world.history("second") == []  # another try is to come
    world.pass_time(seconds=31)
    world.drain()
    world.restart(minutes=10)
    world.drain()
    assert world.cluster.journal() == [
        "first-20260301T010000Z-1",
        "first-20260301T010000Z-2",
        "second-20260301T010000Z-1",
        "third-20260301T010000Z-1",
    ]
    assert world.outcomes("second") == [("after first-20260301T010000Z", "SUCCEEDED")]
    assert world.outcomes("third") == [("after second-20260301T010000Z", "SUCCEEDED")]
    world.go_to(2026, 3, 1, 2)
    for _ in range(3):  # it fails for good
        world.step()
        world.finish_all(Status.FAILED, 2)
    world.step(3)
    assert len(world.history("second")) == 1


def test_a_success_and_its_request_are_one_transaction(world: World) -> None:
    world.job("first")
    world.job("second", after="first")
    world.step()
    world.go_to(2026, 3, 1, 1)
    world.step()
    world.finish_all()
    world.scheduler._follower.follow(everything=True)  # and then it is killed
    assert world.states("first") == ["SUCCEEDED"]
    assert world.states("second") == ["REQUESTED"]
    world.restart(minutes=1)
    world.drain()
    assert world.states("second") == ["SUCCEEDED"]


def test_what_follows_queues_and_meets_its_own_triggers(world: World) -> None:
    world.job("first", cron="* * * * *", overlap="queue")
    world.job("second", after="first")
    world.step()
    # A trigger of the second in the second that the first's success would take.
    tick = world.ledger.trigger("first", world.now)
    assert world.ledger.trigger("second", world.now) == tick
    world.step()
    world.finish_all()
    world.step(2)
    assert [run.tick - tick for run in world.history("second")] == [
        timedelta(),
        timedelta(seconds=1),
    ]
    for _ in range(4):
        world.pass_time(minutes=1)
        world.step()
        for found in world.cluster.ids():
            known = world.cluster.look_up(found)
            if found.startswith("first") and known and known.status is Status.PENDING:
                world.cluster.begin(found)
                world.cluster.end(found, Status.SUCCEEDED)
        world.step()
    world.drain()
    firsts = [run for run in world.history("first") if run.state is TickState.SUCCEEDED]
    seconds = [run for run in world.history("second") if run.origin != "trigger"]
    assert len(firsts) >= 5
    assert sorted(run.origin for run in seconds) == sorted(
        f"after first-{run.tick:%Y%m%dT%H%M%SZ}" for run in firsts
    )
    assert {str(run.state) for run in seconds} == {"SUCCEEDED"}


def test_what_is_paused_does_not_start(world: World) -> None:
    world.job("first")
    world.job("second", after="first")
    world.job("third", after="first", overlap="skip")
    world.step()
    world.ledger.pause("second", world.now)
    world.go_to(2026, 3, 1, 1)
    world.drain()
    assert [run.reason for run in world.history("second")] == ["paused"]
    assert world.states("third") == ["SUCCEEDED"]


def test_a_broken_chain_keeps_its_last_good_version(world: World) -> None:
    world.job("first")
    world.job("second", after="first")
    world.step()
    world.job("first", after="second")
    world.step()
    problem = "after: first -> second -> first is a circle; begin it with a job that has a cron"
    assert world.ledger.faults()["first", "file"] == problem
    world.job("first", after="nobody")
    world.step()
    problem = "after: no scheduled job is named nobody; known: second"
    assert world.ledger.faults() == {("first", "file"): problem}
    world.go_to(2026, 3, 1, 1)
    world.drain()
    assert world.states("first") == world.states("second") == ["SUCCEEDED"]
    world.job("first", cron="30 * * * *")
    world.step()
    assert world.ledger.faults() == {}
    world.job("second", after="second")
    world.step()
    assert "second -> second is a circle" in world.ledger.faults()["second", "file"]


def test_a_fault_of_the_job_before_is_not_told_of_the_one_that_follows(world: World) -> None:
    (world.jobs / "first.yaml").write_text("name: [")
    world.job("second", after="first")
    world.step()
    assert [source for source, _ in world.ledger.faults()] == ["first.yaml"]
    world.job("first")
    world.step()
    assert world.ledger.faults() == {}
    world.go_to(2026, 3, 1, 1)
    world.drain()
    assert world.states("second") == ["SUCCEEDED"]
