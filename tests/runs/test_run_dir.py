import json
from pathlib import Path

import pytest

from orchestrator.errors import ClusterError, DataError, SpecError
from orchestrator.runs.atomic import atomic_path, digest, write_json
from orchestrator.runs.run_dir import RunDir, new_run_id
from orchestrator.runs.states import Status


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="midway"), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise ValueError("midway")
    assert list(tmp_path.iterdir()) == []


def test_a_write_replaces_whole_and_makes_the_folder(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.json"
    write_json(target, {"n": 1})
    write_json(target, {"n": 2})
    assert json.loads(target.read_text()) == {"n": 2}
    assert [p.name for p in target.parent.iterdir()] == ["a.json"]


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a", float("nan"))
    assert json.loads((tmp_path / "a").read_text()) == 1


def test_an_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ClusterError, match=r"cannot write .*a\.json: .*; free space or choose"):
        write_json(tmp_path / "file" / "a.json", 1)


def test_digest_does_not_depend_on_key_order() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_run_ids_are_valid_job_ids_and_differ() -> None:
    ids = {new_run_id("score") for _ in range(50)}
    assert len(ids) == 50
    assert all(i.replace("-", "").isalnum() and i.startswith("score-") for i in ids)


def test_an_unfinished_run_of_the_same_spec_resumes(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "r")
    assert run.start("spec1", overwrite=False) is False
    (run.path / "work").touch()
    assert run.start("spec1", overwrite=False) is True
    assert (run.path / "work").exists()


def test_another_spec_and_a_finished_run_are_refused_or_replaced(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "r")
    run.start("spec1", overwrite=False)
    with pytest.raises(SpecError, match="holds a run of another spec"):
        run.start("spec2", overwrite=False)
    run.finish()
    with pytest.raises(SpecError, match="holds a finished run"):
        run.start("spec1", overwrite=False)
    assert run.start("spec1", overwrite=True) is False
    assert not run.success.exists()


def test_a_folder_that_is_not_a_runs_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(SpecError, match="not empty and holds no run"):
        RunDir(tmp_path).start("spec", overwrite=True)
    assert (tmp_path / "thesis.txt").exists()
    with pytest.raises(SpecError, match="is a file"):
        RunDir(tmp_path / "thesis.txt").start("spec", overwrite=True)


@pytest.mark.parametrize(
    ("error", "status"), [(DataError("why"), "FAILED"), (KeyboardInterrupt(), "STOPPED")]
)
def test_failures_are_recorded(tmp_path: Path, error: BaseException, status: str) -> None:
    run = RunDir(tmp_path / "r")
    run.start("spec", overwrite=False)
    with pytest.raises(type(error)), run.recording_failure():
        raise error
    assert run.load_status()["status"] == status
    assert run.start("spec", overwrite=False) is True


def test_the_note_names_the_run_that_was_asked_for_and_how_it_goes_on(tmp_path: Path) -> None:
    outer, inner = RunDir(tmp_path / "search"), RunDir(tmp_path / "refit")
    with pytest.raises(ClusterError) as alone, inner.recording_failure("--resume"):
        raise ClusterError("lost")
    assert alone.value.__notes__ == [
        f"what is done is kept in {inner.path}: --resume {inner.path} goes on"
    ]
    with (
        pytest.raises(ClusterError) as both,
        outer.recording_failure(),
        inner.recording_failure("--resume"),
    ):
        raise ClusterError("lost")
    assert both.value.__notes__ == [
        f"what is done is kept in {outer.path}: --out {outer.path} goes on"
    ]


def test_status_keeps_fields_and_times(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.write_status(Status.RUNNING, spec_digest="d")
    run.write_status(Status.SUCCEEDED)
    stored = run.load_status()
    assert (stored["status"], stored["spec_digest"]) == ("SUCCEEDED", "d")
    assert {"running_at", "succeeded_at"} <= set(stored)


def test_a_finished_run_keeps_nothing_of_writers_that_were_killed(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.start("digest", overwrite=False)
    (run.path / ".tmp-0123abcd-rejected.parquet").write_text("half")
    run.predictions.mkdir()
    (run.predictions / ".tmp-0123abcd-part-00000.parquet").write_text("half")
    (run.path / ".tmp-features").mkdir()
    run.finish()
    assert {path.name for path in run.path.rglob("*")} == {"predictions", "status.json", "_SUCCESS"}
