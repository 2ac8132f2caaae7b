from pathlib import Path

import pytest

from orchestrator.config.job import Job
from orchestrator.errors import ClusterError, SpecError
from orchestrator.jobs.client import JobInfo
from orchestrator.jobs.run import run_job
from orchestrator.jobs.view import JobView
from orchestrator.runs.states import Status

FAILED, SUCCEEDED, RUNNING = Status.FAILED, Status.SUCCEEDED, Status.RUNNING


class Cluster:
    """A connection and the cluster behind it: tries end as they are told to."""

    cluster = "here"

    def __init__(self, *ends: Status, exit_code: int = 5) -> None:
        self.ends = list(ends)
        self.exit_code = exit_code
        self.states: dict[str, Status] = {}
        self.answer_lost = False
        self.refuses = False
        self.said = "error: there is no such model"

    def get(self, *, start: bool) -> "Cluster":
        return self

    def submit(self, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> None:
        if self.refuses:
            raise ClusterError("full")
        self.states[submission_id] = self.ends.pop(0)
        if self.answer_lost:
            raise ClusterError("the answer was lost")

    def look_up(self, submission_id: str) -> JobInfo | None:
        if submission_id not in self.states:
            return None
        status = self.states[submission_id]
        code = self.exit_code if status is FAILED else None
        return JobInfo(submission_id, status, code, {}, None, None)

    def stop(self, submission_id: str) -> None:
        self.states[submission_id] = Status.STOPPED

    def logs(self, submission_id: str) -> str:
        return self.said

    def follow(self, submission_id: str, write: object) -> None:
        pass


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("orchestrator.jobs.run.POLL_S", 0.01)
    monkeypatch.setattr("orchestrator.jobs.run._FIRST_LOOK_S", 0.05)
    return tmp_path / "state" / "orchestrator" / "jobs"


def start(cluster: Cluster, folder: Path, wait: bool = True, **keys: object) -> JobView:
    job = Job.model_validate({"name": "a", "kind": "score", "args": {"input": "/x"}} | keys)
    return run_job(
        cluster,  # type: ignore[arg-type]
        "a-1",
        job,
        folder / "run",
        wait=wait,
        say=lambda line: None,
    )


@pytest.mark.parametrize(
    ("ends", "retries", "tries", "code"),
    [
        ([SUCCEEDED], 2, 1, 0),
        ([FAILED, FAILED, SUCCEEDED], 2, 3, 0),
        ([FAILED, FAILED, FAILED], 2, 3, 5),
        ([FAILED], 0, 1, 5),
        ([Status.STOPPED], 2, 1, 130),  # by hand: not tried again
    ],
)
def test_tries_follow_one_another_until_one_succeeds(
    tmp_path: Path, ends: list[Status], retries: int, tries: int, code: int
) -> None:
    cluster = Cluster(*ends)
    assert start(cluster, tmp_path, retries=retries).code == code
    assert list(cluster.states) == [f"a-{number + 1}" for number in range(tries)]


@pytest.mark.parametrize("code", [2, 3, 4])
def test_what_another_try_cannot_help_is_not_tried_again(tmp_path: Path, code: int) -> None:
    cluster = Cluster(FAILED, exit_code=code)
    assert start(cluster, tmp_path, retries=2).code == code
    assert list(cluster.states) == ["a-1"]


def test_a_try_over_its_time_is_stopped_and_counts_as_failed(tmp_path: Path) -> None:
    cluster = Cluster(RUNNING, SUCCEEDED)
    assert start(cluster, tmp_path, retries=1, timeout="1s").code == 0
    assert cluster.states == {"a-1": Status.STOPPED, "a-2": SUCCEEDED}
    late = start(Cluster(RUNNING), tmp_path, timeout="1s")
    assert (late.status, late.reason, late.code) == (FAILED, "ran longer than its timeout", 5)


def test_a_submit_whose_answer_was_lost_is_waited_for(tmp_path: Path) -> None:
    cluster = Cluster(SUCCEEDED)
    cluster.answer_lost = True
    assert start(cluster, tmp_path).code == 0


def test_a_submit_that_was_refused_leaves_no_record(tmp_path: Path, state: Path) -> None:
    cluster = Cluster()
    cluster.refuses = True
    with pytest.raises(ClusterError, match="full"):
        start(cluster, tmp_path)
    assert list(state.iterdir()) == []


def test_without_waiting_the_state_is_told_at_once(tmp_path: Path) -> None:
    assert start(Cluster(RUNNING), tmp_path, wait=False).status is RUNNING


def test_a_folder_that_the_cluster_does_not_see_is_told_at_the_submit(tmp_path: Path) -> None:
    cluster = Cluster(FAILED)
    cluster.said = "sh: cd: no such folder\nerror: the cluster does not see /home/me; submit from"
    with pytest.raises(SpecError, match=r"^the cluster does not see /home/me; submit from$"):
        start(cluster, tmp_path, wait=False)


def test_what_fails_for_another_reason_is_told_as_ever(tmp_path: Path) -> None:
    assert start(Cluster(FAILED), tmp_path, wait=False).status is FAILED
