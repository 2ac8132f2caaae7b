import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.config.job import Job
from orchestrator.errors import ClusterError, SpecError
from orchestrator.runs.placement import place_out, place_run
from orchestrator.runs.states import Status
from orchestrator.schedule.job_folder import JobFolder, LoadedJobs
from orchestrator.schedule.ledger import Ledger
from tests.runs.finished import finish
from tests.schedule.fake_cluster import dump_job
from tests.schedule.world import World


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type]


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


# --- overlap --------------------------------------------------------------------------------------


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


# --- failures -------------------------------------------------------------------------------------


def one_tick(world: World, **keys: object) -> str:
    world.job(**keys)  # type: ignore[arg-type]
    world.step()
    world.go_to(2026, 3, 1, 1)
    world.step()
    return "nightly-20260301T010000Z-1"


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


def fail_to_the_end(world: World) -> None:
    for _ in range(8):
        world.finish_all(Status.FAILED)
        world.step()
        world.pass_time(seconds=31)
    for _ in range(200):
        world.step(seconds=2)
        if not world.ledger.notices():
            return
        time.sleep(0.02)


def test_after_the_last_try_the_command_is_called_once(world: World) -> None:
    told = world.folder / "told"
    script = f'echo "$ORCHESTRATOR_JOB $ORCHESTRATOR_TICK $ORCHESTRATOR_ATTEMPTS" >> {told}'
    one_tick(world, retries=2, on_failure={"command": ["sh", "-c", script]})
    fail_to_the_end(world)
    assert told.read_text() == "nightly 2026-03-01T01:00:00+00:00 3\n"
    assert len(world.cluster.journal()) == 3
    assert (world.history()[0].state, world.history()[0].notice) == ("FAILED", "sent")


def test_a_command_that_fails_is_given_up_and_said(world: World) -> None:
    one_tick(world, on_failure={"command": ["/nowhere/page-oncall"]})
    fail_to_the_end(world)
    assert "did not start" in (world.history()[0].notice or "")
    assert any("nobody was notified" in line for line in world.said)


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


def test_an_unreachable_cluster_is_told_of_and_the_run_is_kept(world: World) -> None:
    told = world.folder / "told"
    world.unreachable = ConnectionError("refused")
    one_tick(
        world,
        window="1h",
        cron="0 1 * * *",
        on_failure={"command": ["sh", "-c", f"echo $ORCHESTRATOR_STATE >> {told}"]},
    )
    world.step(61, seconds=60)
    fail_to_the_end(world)
    assert sorted(told.read_text().split()) == ["OVERDUE", "SUBMITTING"]
    assert world.states() == ["SUBMITTING"]
    world.unreachable = None
    world.pass_time(seconds=10)
    world.step(2)
    run = world.history()[0]
    assert str(run.state) == "FAILED"
    assert "could not be submitted within 1 h" in (run.reason or "")
    assert world.cluster.ids() == []


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


# --- edits ----------------------------------------------------------------------------------------


def test_an_edit_counts_from_the_next_tick_and_fires_no_past_one(world: World) -> None:
    world.job(cron="0 6 * * *")
    world.step()
    world.go_to(2026, 3, 1, 4)
    world.job(cron="0 3 * * *", catch_up="all")
    world.step(10)
    assert world.history() == []
    world.go_to(2026, 3, 1, 7)
    world.step()
    assert world.history() == []
    world.go_to(2026, 3, 2, 3)
    world.drain()
    assert [run.tick for run in world.history()] == [at(2026, 3, 2, 3)]


def test_an_edit_while_down_skips_what_the_old_schedule_was_owed(world: World) -> None:
    world.job(cron="0 * * * *", catch_up="all")
    world.step()
    world.restart(hours=5)
    world.job(cron="30 * * * *", catch_up="all")
    world.step()
    assert world.states() == ["SKIPPED"] * 5
    assert {run.reason for run in world.history()} == {
        "the schedule was changed before this tick ran"
    }


def test_a_tick_that_was_due_before_the_edit_was_seen_runs(world: World) -> None:
    world.job(cron="0 1 * * *")
    world.step()
    world.go_to(2026, 3, 1, 1)
    world.job(cron="0 9 * * *", retries=1)
    world.step()
    assert world.cluster.ids() == ["nightly-20260301T010000Z-1"]


def test_a_tick_that_came_due_while_the_edit_was_read_runs(world: World) -> None:
    world.job(cron="0 1 * * *")
    world.step()
    world.go_to(2026, 3, 1, 0, 59, 59)
    files = JobFolder(world.jobs)
    late = []

    def load() -> LoadedJobs:
        if late:
            late.clear()
            world.pass_time(seconds=1)  # after the decisions of this step
            world.job(cron="0 9 * * *", retries=1)
        return files.load()

    world.load_jobs = load
    world.scheduler.close()
    world.scheduler = world.new_scheduler()
    world.scheduler.step()
    late.append(True)
    world.scheduler.step()
    assert world.now == at(2026, 3, 1, 1)
    world.step(2)
    assert world.cluster.ids() == ["nightly-20260301T010000Z-1"]
    assert world.ledger.jobs()["nightly"].cron == "0 9 * * *"


def test_other_edits_keep_the_ticks_and_serve_the_next_run(world: World) -> None:
    world.job(args={"input": "/data/old"})
    world.step()
    world.job(args={"input": "/data/new"})
    world.step()
    world.go_to(2026, 3, 1, 1)
    world.step()
    (found,) = world.cluster.ids()
    assert world.cluster.job(found).args["input"] == "/data/new"


def test_a_spoilt_file_leaves_the_last_good_version_in_force(world: World) -> None:
    world.job()
    world.step()
    (world.jobs / "nightly.yaml").write_text("name: [")
    world.step()
    assert any("nightly.yaml, line 1: not valid YAML" in line for line in world.said)
    world.go_to(2026, 3, 1, 1)
    world.drain()
    assert world.states() == ["SUCCEEDED"]


def test_a_removed_job_stops_and_comes_back_without_a_past(world: World) -> None:
    world.job(catch_up="all")
    world.step()
    (world.jobs / "nightly.yaml").unlink()
    world.step(2, seconds=61)
    world.go_to(2026, 3, 1, 5)
    world.job(catch_up="all")
    world.step(5)
    assert world.history() == []
    world.go_to(2026, 3, 1, 6)
    world.drain()
    assert [run.tick for run in world.history()] == [at(2026, 3, 1, 6)]


def test_two_files_of_one_name_are_told_and_one_runs(world: World) -> None:
    world.job()
    (world.jobs / "other.yaml").write_text((world.jobs / "nightly.yaml").read_text())
    world.step()
    assert any("the name nightly is nightly.yaml's" in line for line in world.said)


def test_a_scheduled_scoring_job_with_a_fixed_out_is_refused(world: World) -> None:
    dump_job(world.jobs, "fixed", args={"input": "/x", "out": "/y"}, schedule={"cron": "0 * * * *"})
    world.step()
    assert any("give out_root in place of out" in line for line in world.said)


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


# --- pausing --------------------------------------------------------------------------------------


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


def test_nothing_of_a_paused_job_starts(world: World) -> None:
    two_ticks(world, "queue")
    world.ledger.pause("nightly", world.now)
    world.finish_all()
    world.step(5)
    assert world.states() == ["SUCCEEDED", "QUEUED"]
    world.ledger.resume("nightly", world.now)
    world.drain()
    assert world.states() == ["SUCCEEDED", "SUCCEEDED"]


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


def test_the_ledger_of_the_package_is_where_the_loop_looks(tmp_path: Path) -> None:
    """The default run folder is under `runs`, absolute, one for each tick."""
    job = Job(name="a", kind="score", args={"input": "/x"})
    placed, folder = place_run(job, "a-20260301T010000Z")
    assert folder == Path("runs/a-20260301T010000Z").absolute()
    assert placed.args == {"input": "/x", "out": str(folder)}
    nightly = job.model_copy(update={"args": {"input": "/x", "out_root": "/p", "only_new": True}})
    placed, folder = place_run(nightly, "tick")
    assert folder == Path("/p/tick")
    assert placed.args == nightly.args | {"out": "/p/tick"}  # the run looks for earlier ones there


@pytest.mark.parametrize(
    ("kind", "args", "out", "folder"),
    [
        ("train", {"data": "/x"}, "models/KEY", "runs/KEY"),
        ("compare", {"data": "/x"}, "runs/KEY", "runs/KEY"),
        ("score", {"input": "/x"}, "runs/KEY", "runs/KEY"),
    ],
)
def test_each_kind_has_its_result_and_its_run_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    args: dict[str, str],
    out: str,
    folder: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    job = Job.model_validate({"name": "a", "kind": kind, "args": args})
    placed, found = place_run(job, "KEY")
    assert placed.args == args | {"out": str(tmp_path / out)}
    assert found == tmp_path / folder
    fixed = job.model_copy(update={"args": args | {"out": "/results"}})
    with pytest.raises(SpecError, match="a folder for every tick"):
        place_run(fixed, "KEY")
    # By hand one result is as good as another.
    placed, found = place_out(fixed, "KEY")
    assert placed.args["out"] == "/results"
    assert found == (tmp_path / folder if kind == "train" else Path("/results"))
