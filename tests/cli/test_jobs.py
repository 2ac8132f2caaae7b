import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import OrchestratorError, SpecError
from orchestrator.jobs.client import Jobs
from orchestrator.jobs.local_head import LocalHead
from tests.schedule.fake_cluster import dump_job


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def output(*arguments: str) -> str:
    done = run(*arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def refused(*arguments: str) -> str:
    done = run(*arguments)
    assert isinstance(done.exception, OrchestratorError), done.output
    return str(done.exception)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def alone(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without a head and without jobs."""
    monkeypatch.setenv("XDG_STATE_HOME", str(work / "state"))
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return work


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_job_exits_with_its_own_code_and_is_tried_again_where_it_stopped(
    local_head: LocalHead, trained: SimpleNamespace, phantoms: Path, work: Path
) -> None:
    file = dump_job(work, "night", args={"input": "xrays", "model": str(trained.bundle)})
    done = run("submit", str(file), "--wait", "--json")
    assert done.exit_code == 3, done.output  # DataError: there is no such folder
    assert "does not exist; name a folder" in done.stderr  # the driver's own words
    failed = json.loads(done.stdout)
    shown = json.loads(output("jobs", "show", failed["submission_id"], "--json"))
    assert (shown["status"], shown["exit_code"]) == ("FAILED", 3)
    assert "does not exist; name a folder" in shown["error"]

    (work / "xrays").mkdir()
    for image in sorted(phantoms.rglob("*.jpeg"))[:4]:
        shutil.copy(image, work / "xrays")
    done = run("jobs", "retry", failed["submission_id"], "--wait", "--json")
    assert done.exit_code == 0, done.output
    second = json.loads(done.stdout)
    assert second["status"] == "SUCCEEDED"
    assert second["submission_id"] == failed["submission_id"][:-1] + "2"
    assert second["run_folder"] == failed["run_folder"]
    assert (Path(second["run_folder"]) / "_SUCCESS").exists()
    assert Path(second["run_folder"]).parent == work / "runs"
    listed = output("jobs", "list")
    assert listed.splitlines()[0].split()[:3] == [second["submission_id"], "score", "SUCCEEDED"]
    assert "is SUCCEEDED; only a job that failed" in refused(
        "jobs", "retry", second["submission_id"]
    )
    assert "was already retried as" in refused("jobs", "retry", failed["submission_id"])
    assert "had already ended: SUCCEEDED" in output("jobs", "stop", second["submission_id"])


@pytest.mark.ray
def test_stop_and_logs(local_head: LocalHead, work: Path) -> None:
    Jobs(local_head.address).submit("long-1", "echo begun; sleep 600", {"job": "long"})
    # A process of its own: the runner of the other commands captures the output of this one.
    follower = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "jobs", "logs", "-f", "long-1"],
        stdout=subprocess.PIPE,
        text=True,
    )
    limit = time.monotonic() + 60
    while "begun" not in output("jobs", "logs", "long-1"):
        assert time.monotonic() < limit
        time.sleep(0.5)
    assert output("jobs", "stop", "long-1") == "long-1: STOPPED\n"
    assert "begun\n" in follower.communicate(timeout=60)[0]
    assert follower.returncode == 0
    assert "STOPPED" in output("jobs", "show", "long-1")
    assert "was not submitted by this program" in refused("jobs", "retry", "long-1")


def test_without_a_head_nothing_is_started_to_look(alone: Path) -> None:
    assert output("jobs", "list") == "no job has been submitted yet\n"
    assert output("cluster", "stop") == "no local head node is running\n"
    for command in ("show", "logs", "stop", "retry"):
        assert "no job unknown-1 is known here" in refused("jobs", command, "unknown-1")
        assert "is not a valid job id" in refused("jobs", command, "../etc")


def test_a_wrong_job_file_is_refused_before_a_head_is_started(alone: Path) -> None:
    file = dump_job(alone, "wrong", args={"input": "/x", "batch_size": 0})
    assert "batch_size" in refused("submit", str(file))
    assert not (alone / "runs").exists()
    assert not (alone / "state").exists()


def test_a_node_with_another_version_is_told(alone: Path) -> None:
    file = dump_job(alone, "any")
    said = refused("jobs", "drive", str(file), "--expect", "0.0.0")
    assert "the job comes from 0.0.0" in said


def test_schedule_run_ends_on_sigterm(alone: Path) -> None:
    (alone / "jobs").mkdir()
    dump_job(alone / "jobs", "yearly", schedule={"cron": "0 0 1 1 *"})
    command = [sys.executable, "-m", "orchestrator", "schedule", "run", "--ledger", "l.sqlite3"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ.copy())
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in range(3)]
    assert "this scheduler is the leader" in lines[1]
    assert "yearly: scheduled: 0 0 1 1 * UTC" in lines[2]
    process.send_signal(signal.SIGTERM)
    assert process.stderr.read().strip().endswith("ended")
    assert process.wait(30) == 0
    rows = json.loads(output("schedule", "list", "--ledger", "l.sqlite3", "--json"))["jobs"]
    assert [row["job"] for row in rows] == ["yearly"]


def test_schedule_run_needs_a_folder_of_jobs(alone: Path) -> None:
    with pytest.raises(SpecError, match="is not a folder"):
        CliRunner().invoke(app, ["schedule", "run"], catch_exceptions=False)
