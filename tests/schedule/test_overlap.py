"""A tick that comes while the run before it is still open."""

from orchestrator.runs.states import Status
from tests.schedule.world import World


def two_ticks(world: World, overlap: str) -> None:
    world.job(overlap=overlap)
    world.step()
    for hour in (1, 2):
        world.go_to(2026, 3, 1, hour)
        world.step(2)


def test_overlap_skip_records_why(world: World) -> None:
    two_ticks(world, "skip")
    assert world.states() == ["PENDING", "SKIPPED"]
    assert world.history()[1].reason == (
        "overlap is skip; the run of 2026-03-01 01:00 UTC was PENDING"
    )
    world.drain()
    assert world.cluster.journal() == ["nightly-20260301T010000Z-1"]


def test_overlap_queue_runs_one_after_the_other(world: World) -> None:
    two_ticks(world, "queue")
    assert world.states() == ["PENDING", "QUEUED"]
    assert len(world.cluster.ids()) == 1
    world.finish_all()
    world.step(2)
    assert world.states() == ["SUCCEEDED", "PENDING"]
    world.drain()
    assert world.states() == ["SUCCEEDED", "SUCCEEDED"]


def test_overlap_replace_stops_the_old_run_before_the_new_one_starts(world: World) -> None:
    two_ticks(world, "replace")
    old = "nightly-20260301T010000Z-1"
    assert (world.folder / "cluster" / "stopped" / old).exists()
    assert world.states() == ["PENDING", "QUEUED"]
    assert world.cluster.ids() == [old]
    world.cluster.report(old, Status.STOPPED)
    world.step(2)
    assert world.states() == ["STOPPED", "PENDING"]
    assert world.history()[0].reason == "replaced by the tick of 2026-03-01 02:00 UTC"


def test_replace_drops_what_still_waits(world: World) -> None:
    two_ticks(world, "replace")
    world.go_to(2026, 3, 1, 3)
    world.step(2)
    assert world.states() == ["PENDING", "SKIPPED", "QUEUED"]
    world.cluster.report("nightly-20260301T010000Z-1", Status.STOPPED)
    world.drain()
    assert world.states() == ["STOPPED", "SKIPPED", "SUCCEEDED"]


def test_nothing_of_a_paused_job_starts(world: World) -> None:
    two_ticks(world, "queue")
    world.ledger.pause("nightly", world.now)
    world.finish_all()
    world.step(5)
    assert world.states() == ["SUCCEEDED", "QUEUED"]
    world.ledger.resume("nightly", world.now)
    world.drain()
    assert world.states() == ["SUCCEEDED", "SUCCEEDED"]
