import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.model.bundle import INFO_FILE, MODEL_FILE
from orchestrator.pipelines.prepare import feature_set
from orchestrator.runs.lock import hold
from orchestrator.runs.outputs import MOST_ENTRIES, is_output
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.states import Status


def names_in(folder: Path) -> list[bytes]:
    return [os.fsencode(path.name) for path in folder.iterdir()]


@pytest.mark.ray
def test_what_a_training_writes_is_told(trained: SimpleNamespace) -> None:
    for folder in (trained.run, trained.bundle):
        assert is_output(names_in(folder))
        assert len(names_in(folder)) < MOST_ENTRIES / 4


def test_a_run_is_told_from_its_first_files_on(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    assert not is_output(names_in(run.path))
    run.job.touch()
    assert is_output(names_in(run.path))  # submitted, and not begun
    with hold(run.path):
        assert is_output(names_in(run.path))
    run.write_status(Status.RUNNING)
    assert is_output(names_in(run.path))
    run.job.unlink()
    run.spec.touch()
    assert is_output(names_in(run.path))


def test_copies_of_results_are_told() -> None:
    run = RunDir(Path("x"))
    kept = (run.manifest, run.predictions, run.report_json)  # as at an address, without a status
    assert is_output([os.fsencode(path.name) for path in kept])
    dataset = run.dataset
    names = (dataset.described, dataset.manifest, dataset.images)
    assert is_output([os.fsencode(path.name) for path in names])
    assert is_output([INFO_FILE.encode(), MODEL_FILE.encode(), b"notes.txt"])
    assert is_output([feature_set._ROWS.encode(), feature_set._AUGMENTED.encode()])


@pytest.mark.parametrize(
    "names",
    [
        [],
        [b"dataset.json", b"images"],  # many people's data sets
        [b"status.json", b"NORMAL", b"PNEUMONIA"],
        [b"job.yaml", b"NORMAL"],
        [b"predictions", b"images"],
        [b"model.keras"],
        [b"manifest.parquet", b"images"],
    ],
)
def test_other_peoples_folders_are_not(names: list[bytes]) -> None:
    assert not is_output(names)
