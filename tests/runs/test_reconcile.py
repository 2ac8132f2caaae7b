from pathlib import Path

import pytest

from orchestrator.runs.reconcile import TIMEOUT, Evidence, look_at, settle
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
        Status(seen) if seen else None,
        evidence,
        state=TickState(state),
        mark=None,
        stop_reason=stop,
    )
    assert (str(finding.state), finding.retry) == (expected, retry)
    assert finding.reason or expected not in ("FAILED", "STOPPED")


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


def test_a_folder_that_cannot_be_read_decides_nothing(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        look_at(tmp_path / "loop")
