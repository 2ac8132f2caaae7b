from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from orchestrator.config.job import Job
from orchestrator.config.load import load_job
from orchestrator.errors import ClusterError, SpecError
from orchestrator.jobs.records import Record, load_record, load_records, remove_record, write_record
from orchestrator.jobs.submit import fix_model, new_run_key, next_try, start_job, store_job
from orchestrator.runs.run_dir import RunDir
from tests.registry.test_history import make_registry

SECRET = "https://hooks.example/secret-token"


class Taker:
    """Receives what is submitted."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str, dict[str, str]]] = []

    def submit(self, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> None:
        self.taken.append((submission_id, entrypoint, metadata))


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state" / "orchestrator" / "jobs"


def build_job(**args: object) -> Job:
    return Job.model_validate(
        {
            "name": "nightly",
            "kind": "score",
            "args": {"input": "/wards/Jane Doe/xrays", "out": "/runs/a"} | args,
            "on_failure": {"webhook": SECRET},
            "schedule": {"cron": "0 2 * * *"},
        }
    )


def submit(tmp_path: Path, job: Job) -> Taker:
    taker = Taker()
    record = store_job("http://head:8265", "nightly-1", job, tmp_path / "run", None)
    start_job(taker, record)  # type: ignore[arg-type]
    return taker


def test_the_driver_gets_the_job_and_the_cluster_sees_no_more_than_its_folder(
    tmp_path: Path,
) -> None:
    taker = submit(tmp_path, build_job())
    ((found, entrypoint, metadata),) = taker.taken
    stored = RunDir(tmp_path / "run").job
    assert load_job(stored).args["input"] == "/wards/Jane Doe/xrays"
    assert str(stored) in entrypoint
    for shown in (found, entrypoint, *metadata.values()):
        assert "Jane" not in shown
        assert "secret" not in shown
    assert metadata == {
        "job": "nightly",
        "kind": "score",
        "run": str(tmp_path / "run"),
        "mark": "",
    }


def test_who_is_told_of_a_failure_stays_on_this_machine(tmp_path: Path, state: Path) -> None:
    submit(tmp_path, build_job())
    assert SECRET not in RunDir(tmp_path / "run").job.read_text()
    assert SECRET not in (state / "nightly-1.json").read_text()
    assert set(yaml.safe_load(RunDir(tmp_path / "run").job.read_text())) == {
        "name",
        "kind",
        "args",
        "resources",
        "retries",
        "timeout",
    }


def test_the_record_is_the_owners_and_can_be_submitted_again(tmp_path: Path, state: Path) -> None:
    submit(tmp_path, build_job(batch_size=8))
    assert (state / "nightly-1.json").stat().st_mode & 0o777 == 0o600
    record = load_record("nightly-1")
    assert record is not None
    assert record.load_job().args["batch_size"] == 8
    with pytest.raises(SpecError, match="another version of the program"):
        replace(record, job={"name": "x"}).load_job()
    remove_record("nightly-1")
    assert load_record("nightly-1") is None


def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="batch_size"):
        submit(tmp_path, build_job(batch_size=0))
    assert not (tmp_path / "run").exists()


def test_records_are_listed_newest_first_and_others_files_are_passed_over(state: Path) -> None:
    base = Record("a-1", "local", "/r", "/", None, "2026-03-01T02:00:00+00:00", {"name": "a"})
    for name in ("a-1", "b-1", "c-1"):
        write_record(replace(base, submission_id=name))
    write_record(replace(base, submission_id="d-1", cluster="http://x"))
    (state / "spoilt.json").write_text("{")
    (state / "no id.json").write_text("{}")
    assert [record.submission_id for record in load_records("local", 2)] == ["c-1", "b-1"]
    assert len(load_records("local", 10)) == 3


def test_a_state_folder_that_cannot_be_written_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(ClusterError, match="set XDG_STATE_HOME"):
        submit(tmp_path, build_job())


@pytest.mark.parametrize(
    ("found", "following"),
    [
        ("nightly-20260301T020000Z-1", "nightly-20260301T020000Z-2"),
        ("nightly-20260301T020000Z-9", "nightly-20260301T020000Z-10"),
        ("by-hand", "by-hand-2"),
        ("alone", "alone-2"),
    ],
)
def test_the_next_try_counts_on(found: str, following: str) -> None:
    assert next_try(found) == following


def test_ids_of_runs_by_hand_differ() -> None:
    keys = {new_run_key("n" * 60) for _ in range(20)}
    assert len(keys) == 20
    assert all(len(f"{key}-99") <= 100 for key in keys)


def test_all_tries_take_the_model_that_was_newest(tmp_path: Path) -> None:
    job = build_job()
    assert "model" not in fix_model(job).args  # the run itself says that there is none
    (tmp_path / "models" / "one").mkdir(parents=True)
    (tmp_path / "models" / "one" / "bundle.json").write_text("{}")
    assert fix_model(job).args["model"] == str(tmp_path / "models" / "one")
    assert fix_model(build_job(model="/m")).args["model"] == "/m"


def test_all_tries_take_the_version_that_was_live(tmp_path: Path) -> None:
    place = make_registry(tmp_path)
    job = fix_model(build_job(model=[f"{place}:production", "/m"]))
    assert job.args["model"] == [f"{place}:lite@2", "/m"]
    assert fix_model(build_job(model=f"{place}:staging")).args["model"] == f"{place}:staging"
    named = {"live": f"{place}:production", "candidate": f"{place}:lite@3", "data": "/held-out"}
    pair = Job.model_validate({"name": "weekly", "kind": "models-compare", "args": named})
    assert fix_model(pair).args == named | {"live": f"{place}:lite@2"}
