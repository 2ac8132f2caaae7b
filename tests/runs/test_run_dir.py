import json
from pathlib import Path

import pytest

from orchestrator.errors import ClusterError
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


def test_status_keeps_fields_and_times(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.write_status(Status.RUNNING, spec_digest="d")
    run.write_status(Status.SUCCEEDED)
    stored = run.load_status()
    assert (stored["status"], stored["spec_digest"]) == ("SUCCEEDED", "d")
    assert {"running_at", "succeeded_at"} <= set(stored)
