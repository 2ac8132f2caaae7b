from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.jobs.client import JobInfo
from orchestrator.jobs.records import Record, write_record
from orchestrator.jobs.view import JobView, list_jobs, view_job
from orchestrator.runs.reconcile import look_at
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.states import Status
from tests.runs.finished import finish

ID = "nightly-20260301T020000Z-1"


class Answers:
    """What a cluster says, as a test sets it."""

    def __init__(self, *infos: JobInfo) -> None:
        self._infos = {info.submission_id: info for info in infos}

    def look_up(self, submission_id: str) -> JobInfo | None:
        return self._infos.get(submission_id)

    def logs(self, submission_id: str) -> str:
        return "loading\nerror: the model is gone; train it again\n"

    def list_all(self) -> list[JobInfo]:
        return list(self._infos.values())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return RunDir(tmp_path / "run")


def remember(run: RunDir, submission_id: str = ID, cluster: str = "local") -> None:
    write_record(
        Record(
            submission_id=submission_id,
            cluster=cluster,
            run=str(run.path),
            cwd="/",
            mark=look_at(run.path).mark,
            submitted_at="2026-03-01T02:00:01+00:00",
            job={"name": "nightly", "kind": "score", "args": {"input": "/x"}},
        )
    )


def said(status: Status, code: int | None = None, **metadata: str) -> Any:
    at = datetime(2026, 3, 1, 2, tzinfo=UTC)
    return Answers(JobInfo(ID, status, code, metadata, at, None))


def view(cluster: Any) -> JobView:
    return view_job(cluster, ID)


def test_a_run_that_wrote_success_is_never_shown_as_failed(run: RunDir) -> None:
    remember(run)
    finish(run)
    for cluster in (said(Status.FAILED, 1), said(Status.STOPPED), Answers(), None):
        assert view(cluster).status is Status.SUCCEEDED
        assert view(cluster).code == 0


def test_a_run_whose_driver_is_gone_is_not_shown_as_running(run: RunDir) -> None:
    remember(run)
    run.write_status(Status.RUNNING)
    assert view(said(Status.RUNNING)).status is Status.RUNNING
    assert "no record of it" in (view(None).reason or "")
    for cluster in (Answers(), None, said(Status.FAILED)):
        assert view(cluster).status is Status.FAILED
    assert view(said(Status.STOPPED)).status is Status.STOPPED


def test_a_run_that_was_stopped_with_its_head_is_shown_as_stopped(run: RunDir) -> None:
    remember(run)
    run.write_status(Status.STOPPED)
    assert view(None).status is Status.STOPPED


def test_a_job_that_had_failed_keeps_its_reason_when_the_head_forgets_it(run: RunDir) -> None:
    remember(run)
    run.write_status(Status.FAILED, exit_code=3, error="no image is left; see rejected.parquet")
    forgotten = view(Answers())
    assert (forgotten.status, forgotten.code) == (Status.FAILED, 3)
    assert "no image is left; see rejected.parquet" in (forgotten.reason or "")


@pytest.mark.parametrize("see", [view, lambda cluster: list_jobs(cluster, "local", 9)[0]])
def test_so_does_one_that_ended_before_it_had_a_folder(run: RunDir, see: Any) -> None:
    remember(run)
    assert "its log" in see(said(Status.FAILED, 4)).reason
    for forgotten in (see(Answers()), see(None)):
        assert (forgotten.status, forgotten.code) == (Status.FAILED, 4)
        assert forgotten.reason == "the model is gone; train it again"
    finish(run)
    assert see(None).status is Status.SUCCEEDED


def test_what_another_run_left_in_the_folder_does_not_count(run: RunDir) -> None:
    finish(run)
    remember(run)  # a job with overwrite, submitted over a finished run
    assert view(said(Status.PENDING)).status is Status.PENDING
    assert view(said(Status.FAILED, 3)).status is Status.FAILED
    assert view(None).status is Status.FAILED
    finish(run)
    assert view(said(Status.FAILED, 3)).status is Status.SUCCEEDED


def test_a_later_success_belongs_to_the_later_try(run: RunDir) -> None:
    remember(run)
    run.write_status(Status.FAILED)
    remember(run, ID[:-1] + "2")
    finish(run)
    assert view(said(Status.FAILED, 3)).status is Status.FAILED
    assert view_job(None, ID[:-1] + "2").status is Status.SUCCEEDED


def test_a_job_of_another_machine_is_told_by_the_cluster(run: RunDir) -> None:
    shown = view(said(Status.FAILED, 3, job="nightly", kind="score", run=str(run.path)))
    assert (shown.job, shown.kind, shown.run, shown.code) == ("nightly", "score", run.path, 3)
    finish(run)
    assert view(said(Status.FAILED, 3, run=str(run.path), mark="")).status is Status.SUCCEEDED


@pytest.mark.parametrize(
    ("status", "exit_code", "code"),
    [
        (Status.FAILED, 4, 4),
        (Status.FAILED, None, 5),
        (Status.FAILED, -9, 5),
        (Status.STOPPED, None, 130),
        (Status.SUCCEEDED, 0, 0),
    ],
)
def test_the_exit_code_is_the_jobs_own(
    run: RunDir, status: Status, exit_code: int | None, code: int
) -> None:
    assert view(said(status, exit_code)).code == code


def test_a_forgotten_job_is_listed_with_its_own_cluster_only(run: RunDir) -> None:
    remember(run)
    remember(run, "other-1", cluster="http://other")
    listed = list_jobs(said(Status.RUNNING), "local", 10)  # type: ignore[arg-type]
    assert [found.submission_id for found in listed] == [ID]
    listed = list_jobs(None, "local", 10)
    assert [(found.submission_id, found.status) for found in listed] == [(ID, Status.FAILED)]
    assert list_jobs(None, "http://elsewhere", 10) == []


def test_an_unknown_id_is_one_clear_line(run: RunDir) -> None:
    with pytest.raises(SpecError, match="no job nobody is known here"):
        view_job(None, "nobody")
