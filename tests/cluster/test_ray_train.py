import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from ray import cloudpickle

from orchestrator.cluster.ray_train import _forget_torn, _is_whole, run_training
from orchestrator.cluster.worker_context import WorkerContext
from orchestrator.config.workers import Session
from orchestrator.errors import DataError
from orchestrator.runs.atomic import sha256_file

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def refuse_on_the_last(worker: WorkerContext, marks: Path) -> None:
    """One worker meets an error of the user's; the others wait for it at a barrier."""
    (marks / str(worker.rank)).write_text(" ".join(process_titles()))
    if worker.rank == worker.size - 1:
        raise DataError("received x; expected y; do z")
    worker.report({})


def process_titles() -> set[str]:
    """What the processes of this node's Ray are busy with, `TrainController` among them."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = process.joinpath("stat").read_text().rpartition(")")[2].split()[1]
            title = process.joinpath("cmdline").read_text().rstrip("\0")
        except OSError:
            continue
        if int(parent) == os.getppid() and title.startswith("ray::"):
            found.add(title.removeprefix("ray::").partition(".")[0])
    return found


def count_to_three(worker: WorkerContext, marks: Path) -> list[str]:
    """Reports a checkpoint a count; the first process dies at two."""
    counts = (worker.checkpoint / "counts").read_text().split() if worker.checkpoint else []
    while len(counts) < 3:
        counts.append(f"{len(counts) + 1}")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "counts").write_text(" ".join(counts))
            worker.report({"count": len(counts)}, Path(folder))
        if len(counts) == 2 and not (marks / "died").exists():
            (marks / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return [*counts, f"rank {worker.rank} of {worker.size}"]


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_error_of_one_worker_ends_all_and_arrives_as_it_was(
    num_workers: int, tmp_path: Path
) -> None:
    session = Session(num_workers, 1.0, 0.0)
    with pytest.raises(DataError) as caught:
        run_training(
            refuse_on_the_last,
            (tmp_path,),
            tmp_path / "storage",
            (num_workers, num_workers),
            session,
            lambda: None,
            print,
        )
    assert type(caught.value) is DataError
    assert str(caught.value) == "received x; expected y; do z"
    busy = [set(path.read_text().split()) for path in tmp_path.glob("[01]")]
    assert len(busy) == num_workers
    for titles in busy:  # Ray's own trainer starts four more, each at seconds of a CPU
        assert {"TrainController", "RayTrainWorker"} <= titles
        assert not titles & {"PlacementGroupCleaner", "_AutoscalingCoordinatorActor"}
        assert not titles & {"DatasetManager", "PreemptionWatcher"}


@pytest.mark.slow
def test_a_worker_that_died_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    found = run_training(
        count_to_three,
        (tmp_path,),
        tmp_path / "storage",
        (1, 1),
        Session(1, 1.0, 0.0),
        lambda: None,
        print,
    )
    assert (tmp_path / "died").exists()
    assert found == ["1", "2", "3", "rank 0 of 1"]


def test_a_torn_list_of_checkpoints_starts_over(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    checkpoint = storage / "checkpoint_1"
    listed = storage / "checkpoint_manager_snapshot.json"
    whole = json.dumps({"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_1"}]})
    for text, has_folder, stays in (
        (whole, True, True),
        (whole, False, False),  # the checkpoint that it names is not there
        (whole[:20], True, False),
        ("", True, False),
    ):
        checkpoint.mkdir(parents=True)
        listed.write_text(text)
        if not has_folder:
            checkpoint.rmdir()
        _forget_torn(storage)
        assert storage.exists() == stays
        shutil.rmtree(storage, ignore_errors=True)
    _forget_torn(storage)  # nothing there


def test_a_torn_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "state.npz").write_bytes(b"weights")
    assert _is_whole(tmp_path)  # of an earlier version
    (tmp_path / "sums.json").write_text(
        json.dumps({"state.npz": sha256_file(tmp_path / "state.npz")})
    )
    assert _is_whole(tmp_path)
    (tmp_path / "state.npz").write_bytes(b"weigh\0\0")
    assert not _is_whole(tmp_path)
    (tmp_path / "state.npz").unlink()
    assert not _is_whole(tmp_path)
    (tmp_path / "sums.json").write_text("")
    assert not _is_whole(tmp_path)
