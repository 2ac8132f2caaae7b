from pathlib import Path

import pytest

from orchestrator.config.specs import Resources, ScoreSpec
from orchestrator.errors import ClusterError, DataError, DriftError
from orchestrator.runs.life_cycle import open_run
from orchestrator.runs.reconcile import TIMEOUT, ClusterAnswer, Evidence, look_at, settle
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.states import Status, TickState
from tests.runs.finished import finish

NONE = Evidence()
BEGAN = Evidence(status="RUNNING", mark="new")
DONE = Evidence(succeeded=True, status="SUCCEEDED", mark="new")
BROKE = Evidence(status="FAILED", mark="new")


@pytest.mark.parametrize(
    ("seen", "evidence", "state", "stop", "expected", "retry"),
    [
        # What the cluster says of a run that it has.
        ("PENDING", NONE, "SUBMITTING", None, "PENDING", False),
        ("RUNNING", BEGAN, "PENDING", None, "RUNNING", False),
        ("RUNNING", DONE, "RUNNING", None, "RUNNING", False),
        ("SUCCEEDED", NONE, "RUNNING", None, "SUCCEEDED", False),
        ("FAILED", BROKE, "RUNNING", None, "FAILED", True),
        ("FAILED", BEGAN, "RUNNING", None, "FAILED", True),
        ("STOPPED", BEGAN, "RUNNING", None, "STOPPED", False),
        ("STOPPED", BEGAN, "RUNNING", TIMEOUT, "FAILED", True),
        ("FAILED", BEGAN, "RUNNING", TIMEOUT, "FAILED", True),
        ("STOPPED", BEGAN, "RUNNING", "replaced", "STOPPED", False),
        ("FAILED", BEGAN, "RUNNING", "replaced", "STOPPED", False),
        # A run that wrote _SUCCESS is never shown as failed.
        ("FAILED", DONE, "RUNNING", None, "SUCCEEDED", False),
        ("STOPPED", DONE, "RUNNING", TIMEOUT, "SUCCEEDED", False),
        ("STOPPED", DONE, "RUNNING", "replaced", "SUCCEEDED", False),
        (None, DONE, "RUNNING", None, "SUCCEEDED", False),
        (None, DONE, "SUBMITTING", None, "SUCCEEDED", False),
        # A cluster that has forgotten.
        (None, NONE, "PENDING", None, "FAILED", False),
        (None, BEGAN, "RUNNING", None, "FAILED", False),
        (None, BROKE, "RUNNING", None, "FAILED", True),
        (None, BROKE, "RUNNING", "replaced", "STOPPED", False),
        (None, BROKE, "RUNNING", TIMEOUT, "FAILED", True),
        # An intent that nobody has confirmed.
        (None, NONE, "SUBMITTING", None, "SUBMITTING", False),
        (None, NONE, "SUBMITTING", "replaced", "STOPPED", False),
        (None, BEGAN, "SUBMITTING", None, "FAILED", False),
        (None, BROKE, "SUBMITTING", None, "FAILED", True),
    ],
)
def test_settle(
    seen: str | None, evidence: Evidence, state: str, stop: str | None, expected: str, retry: bool
) -> None:
    finding = settle(
        ClusterAnswer(Status(seen)) if seen else None,
        evidence,
        state=TickState(state),
        mark=None,
        stop_reason=stop,
    )
    assert (str(finding.state), finding.retry) == (expected, retry)
    assert finding.reason or expected not in ("FAILED", "STOPPED")


@pytest.mark.parametrize(
    ("code", "stored", "mark", "retry"),
    [
        (1, None, "new", True),
        (2, None, "new", False),
        (3, None, "new", False),
        (4, None, "new", False),
        (5, None, "new", True),
        (127, None, "new", True),
        (-9, 3, "new", True),  # the cluster's word counts before the folder's
        (None, None, "new", True),
        (None, 3, "new", False),
        (None, 5, "new", True),
        (None, 3, "old", True),  # of an earlier try
    ],
)
def test_what_another_try_cannot_help_is_not_tried_again(
    code: int | None, stored: int | None, mark: str, retry: bool
) -> None:
    shown = Evidence(status="FAILED", mark=mark, exit_code=stored)
    answer = ClusterAnswer(Status.FAILED, code)
    finding = settle(answer, shown, state=TickState.RUNNING, mark="old", stop_reason=None)
    assert (finding.state, finding.retry) == (TickState.FAILED, retry)
    assert ("so not tried again" in (finding.reason or "")) == (not retry)
    late = settle(answer, shown, state=TickState.RUNNING, mark="old", stop_reason=TIMEOUT)
    assert late.retry  # it was stopped: its code says nothing


def test_a_head_that_forgot_leaves_the_exit_code_in_the_run_folder() -> None:
    for code, retry in ((3, False), (5, True), (None, True)):
        shown = Evidence(status="FAILED", mark="new", exit_code=code)
        finding = settle(None, shown, state=TickState.RUNNING, mark="old", stop_reason=None)
        assert (finding.state, finding.retry) == (TickState.FAILED, retry)


def test_a_status_left_by_an_earlier_try_does_not_count_for_this_one() -> None:
    left = Evidence(status="FAILED", mark="old")
    finding = settle(None, left, state=TickState.SUBMITTING, mark="old", stop_reason=None)
    assert finding.state is TickState.SUBMITTING


def test_a_run_folder_is_read_as_a_run_leaves_it(tmp_path: Path) -> None:
    assert look_at(None) == Evidence()
    assert look_at(tmp_path / "absent") == Evidence()
    run = RunDir(tmp_path / "run")
    run.write_status(Status.RUNNING)
    began = look_at(run.path)
    assert (began.succeeded, began.status) == (False, "RUNNING")
    assert look_at(run.path) == began
    run.write_status(Status.RUNNING)
    assert look_at(run.path).mark != began.mark
    finish(run)
    assert (look_at(run.path).succeeded, look_at(run.path).status) == (True, "SUCCEEDED")
    run.status.write_text("{")
    assert look_at(run.path).status is None


@pytest.mark.parametrize(("error", "code"), [(DataError, 3), (ClusterError, 5), (ValueError, None)])
def test_a_failed_run_keeps_its_exit_code_until_it_is_taken_up_again(
    tmp_path: Path, error: type[Exception], code: int | None
) -> None:
    spec, folder = ScoreSpec(input=("/x",)), tmp_path / "run"
    with pytest.raises(error), open_run("score", folder, spec, Resources()):
        raise error("planted")
    assert look_at(folder).exit_code == code
    with open_run("score", folder, spec, Resources()) as opened:
        assert opened.resumed
        assert look_at(folder).exit_code is None


def test_a_folder_that_cannot_be_read_decides_nothing(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        look_at(tmp_path / "loop")


def test_a_run_that_finished_and_drifted_has_failed_and_is_not_repeated() -> None:
    answer = ClusterAnswer(Status.FAILED, DriftError.exit_code)
    finding = settle(answer, DONE, state=TickState.RUNNING, mark="old", stop_reason=None)
    assert (finding.state, finding.retry) == (TickState.FAILED, False)
    assert "drifted (exit code 6)" in str(finding.reason)
