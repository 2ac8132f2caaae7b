from pathlib import Path

from orchestrator.runs.run_dir import RunDir, new_run_id
from orchestrator.runs.states import Status


def test_run_ids_are_valid_job_ids_and_differ() -> None:
    ids = {new_run_id("score") for _ in range(50)}
    assert len(ids) == 50
    assert all(i.replace("-", "").isalnum() and i.startswith("score-") for i in ids)


def test_status_keeps_fields_and_times(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.write_status(Status.RUNNING, spec_digest="d")
    run.write_status(Status.SUCCEEDED)
    stored = run.load_status()
    assert (stored["status"], stored["spec_digest"]) == ("SUCCEEDED", "d")
    assert {"running_at", "succeeded_at"} <= set(stored)
