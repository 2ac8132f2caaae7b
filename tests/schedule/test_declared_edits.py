"""Job files that are edited: from which tick on the new version counts."""

from orchestrator.schedule.job_folder import JobFolder, LoadedJobs
from tests.schedule.fake_cluster import dump_job
from tests.schedule.world import World, at


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
