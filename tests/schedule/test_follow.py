"""Runs that fail, submits that go wrong, and a cluster that forgets: nothing runs twice."""

from orchestrator.errors import ClusterError, SpecError
from orchestrator.runs.states import Status
from tests.runs.finished import finish
from tests.schedule.world import World, one_tick

# --- failures -------------------------------------------------------------------------------------


def test_a_failed_run_is_tried_again_in_the_same_folder(world: World) -> None:
    first = one_tick(world, retries=2)
    world.finish_all(Status.FAILED)
    world.step()
    assert world.states() == ["RETRYING"]
    world.step(5)
    assert world.cluster.ids() == [first]  # it waits a little
    world.pass_time(seconds=30)
    world.step()
    assert world.cluster.ids() == [first, first[:-1] + "2"]
    assert world.cluster.job(first).args == world.cluster.job(first[:-1] + "2").args
    world.drain()
    run = world.history()[0]
    assert (run.state, run.attempt) == ("SUCCEEDED", 2)
    states = [str(state) for _, state, _ in world.ledger.attempts("nightly", run.tick)]
    assert states == ["FAILED", "SUCCEEDED"]


def test_a_run_over_its_time_is_stopped_and_tried_again(world: World) -> None:
    found = one_tick(world, retries=1, timeout="30m", cron="0 */12 * * *")
    world.go_to(2026, 3, 1, 12)
    world.step()
    found = "nightly-20260301T120000Z-1"
    world.cluster.begin(found)
    world.pass_time(minutes=29)
    world.step()
    world.pass_time(jump=True, hours=3)
    world.step()
    assert not (world.folder / "cluster" / "stopped" / found).exists()  # a jump is no run time
    world.pass_time(minutes=2)
    world.step()
    assert (world.folder / "cluster" / "stopped" / found).exists()
    world.cluster.report(found, Status.STOPPED)
    world.step()
    run = world.history()[0]
    assert (str(run.state), run.reason) == ("RETRYING", "ran longer than its timeout")


def test_a_run_stopped_by_hand_is_not_tried_again(world: World) -> None:
    found = one_tick(world, retries=3, on_failure={"command": ["false"]})
    world.cluster.report(found, Status.STOPPED)
    world.step(50, seconds=10)
    run = world.history()[0]
    assert (str(run.state), run.reason, run.notice) == ("STOPPED", "stopped by hand", None)
    assert len(world.cluster.ids()) == 1


# --- submits that go wrong ------------------------------------------------------------------------


def test_a_submit_that_raises_after_it_was_taken_is_looked_up(world: World) -> None:
    world.submit_error = TimeoutError("read timed out")
    found = one_tick(world)
    assert world.states() == ["PENDING"]
    world.drain()
    assert world.submits == [found]
    assert world.states() == ["SUCCEEDED"]


def test_a_submit_that_was_not_taken_is_repeated_under_its_id(world: World) -> None:
    world.refusal = ClusterError("no head at this address")
    found = one_tick(world)
    world.step(25)
    assert set(world.submits) == {found}
    assert 2 <= len(world.submits) <= 4
    assert world.states() == ["SUBMITTING"]
    world.refusal = None
    world.pass_time(seconds=10)
    world.drain()
    assert world.states() == ["SUCCEEDED"]


def test_an_impossible_job_fails_at_once(world: World) -> None:
    world.refusal = SpecError("asks for 8 GPUs; the cluster has 0")
    one_tick(world, retries=3)
    world.step(3)
    run = world.history()[0]
    assert (str(run.state), run.reason) == (
        "FAILED",
        "cannot be submitted: asks for 8 GPUs; the cluster has 0",
    )
    assert len(world.submits) == 1


def test_a_silent_cluster_changes_nothing(world: World) -> None:
    found = one_tick(world)
    world.cluster.begin(found)
    world.step()
    world.unreachable = ConnectionError("refused")
    world.step(20)
    assert world.states() == ["RUNNING"]
    assert sum("cannot look up runs: refused" in line for line in world.said) == 1
    world.cluster.end(found, Status.SUCCEEDED)
    world.unreachable = None
    world.step()
    assert world.states() == ["SUCCEEDED"]


# --- reconciliation -------------------------------------------------------------------------------


def test_a_head_that_forgot_makes_nothing_run_twice(world: World) -> None:
    found = one_tick(world, retries=3)
    world.cluster.begin(found)
    world.step()
    world.cluster.forget()
    world.restart(seconds=0)
    world.step(50, seconds=10)
    run = world.history()[0]
    assert str(run.state) == "FAILED"  # and not RUNNING: its driver is gone
    assert "lost" in (run.reason or "")
    assert world.cluster.ids() == []
    assert world.cluster.journal() == [found]


def test_a_head_that_forgot_a_finished_run_leaves_it_succeeded(world: World) -> None:
    found = one_tick(world, retries=3)
    world.cluster.begin(found)
    world.cluster.end(found, Status.SUCCEEDED)
    world.cluster.forget()
    world.restart(seconds=0)
    world.step(5)
    assert world.states() == ["SUCCEEDED"]


def test_a_run_that_wrote_success_is_never_shown_as_failed(world: World) -> None:
    found = one_tick(world, retries=3)
    world.cluster.begin(found)
    finish(world.cluster.run_dir(found))
    world.cluster.report(found, Status.FAILED)  # the driver died on its way out
    world.step(2)
    assert world.states() == ["SUCCEEDED"]
    assert len(world.cluster.ids()) == 1


def test_an_intent_whose_run_began_is_not_repeated_on_a_head_that_forgot(world: World) -> None:
    world.submit_error = TimeoutError("read timed out")
    original = world._look_up
    world._look_up = world._submit  # type: ignore[method-assign, assignment]  # look-ups fail too
    world.scheduler = world.new_scheduler()
    found = one_tick(world)
    assert world.states() == ["SUBMITTING"]
    world.cluster.begin(found)
    world.cluster.forget()
    world._look_up = original  # type: ignore[method-assign]
    world.restart(seconds=0)
    world.step(30)
    assert world.states() == ["FAILED"]
    assert world.cluster.ids() == []
    assert world.cluster.journal() == [found]


def test_an_intent_that_never_arrived_is_submitted_after_a_restart(world: World) -> None:
    world.refusal = ClusterError("away")
    found = one_tick(world)
    world.refusal = None
    world.restart(hours=2)
    world.drain()
    assert world.cluster.journal()[0] == found
