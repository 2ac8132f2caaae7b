"""The training loop of the head, run as a plain function: Ray cannot be imported here."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.cluster.worker_context import ReportEpoch, WorkerContext
from orchestrator.config.specs import TrainSpec
from orchestrator.data.shard_files import part_path, write_part
from orchestrator.evaluation.scope_images import ScopeImages
from orchestrator.model.bundle import load_info, load_scope
from orchestrator.pipelines.prepare.feature_set import open_features, pack_features
from orchestrator.pipelines.train.head_loop import train_head
from orchestrator.pipelines.train.scope import ScopeSample
from orchestrator.pipelines.train.task import ReleaseTask, TrainingTask
from orchestrator.runs.run_dir import RunDir

EPOCHS = 4
SPLITS = ["train"] * 40 + ["val"] * 16 + ["test"] * 8
LABELS = np.arange(len(SPLITS)) % 2


class Killed(Exception):
    """In place of the end of the process."""


class Reports:
    """Keeps what a loop reports; the process is killed after a number of epochs."""

    def __init__(self, folder: Path, last: int = EPOCHS) -> None:
        self.folder, self.last = folder, last
        self.epochs: list[float] = []

    def __call__(self, row: Mapping[str, float], checkpoint: Path | None = None) -> None:
        assert checkpoint is not None
        self.epochs.append(row["epoch"])
        shutil.copytree(checkpoint, self.folder, dirs_exist_ok=True)
        if row["epoch"] == self.last < EPOCHS:
            raise Killed


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ray", "ray.train"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises ImportError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to its training: splits, the tiny backbone and features that tell the classes."""
    from orchestrator.model.backbones import build_backbone

    run = RunDir(tmp_path_factory.mktemp("prepared"))
    rows = np.arange(len(SPLITS))
    table = {
        "row": rows,
        "label": pa.array(LABELS, pa.int8()),
        "patient_id": [f"patient {row // 2}" for row in rows],
        "split": SPLITS,
    }
    pq.write_table(pa.table(table), run.splits)
    features = np.random.default_rng(0).normal(size=(len(rows), 32)) + LABELS[:, None]
    stored = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel().astype(np.float32)), 32)
    view = pa.array(np.zeros(len(rows)), pa.int16())
    write_part(part_path(run.features, 0), pa.table({"row": rows, "view": view, "feature": stored}))
    pack_features(run.features, 1, rows[:40], rows[40:], views=1)
    run.backbone.parent.mkdir()
    build_backbone("tiny", "none", 64).save(run.backbone)
    return run.path


def shown(number: int) -> ScopeImages:
    noise = np.random.default_rng(1).integers(0, 256, (number, 32, 32), dtype=np.uint8)
    return ScopeImages(noise, np.full(number, 80), np.full(number, 64))


def build_task(prepared: Path, folder: Path, **changes: object) -> ReleaseTask:
    shutil.copytree(prepared, folder / "run")
    splits = {name: np.flatnonzero(np.array(SPLITS) == name) for name in ("train", "val")}
    spec = TrainSpec(
        data="x", backbone="tiny", weights="none", image_size=64, views=1, epochs=EPOCHS
    )
    return ReleaseTask(
        TrainingTask(
            spec=spec.model_copy(update=changes),
            run=folder / "run",
            alpha=0.5,
            lr=0.003,
            num_threads=1,
        ),
        bundle=folder / "bundle",
        fingerprint="0",
        counts={"train": {"NORMAL": 20, "PNEUMONIA": 20}},
        audit={
            "blocking": False,
            **dict.fromkeys(("same_patient", "same_bytes", "near_duplicate", "possible"), 0),
        },
        scope=ScopeSample(splits, {name: shown(len(rows)) for name, rows in splits.items()}),
        samples=None,
    )


def alone(report: ReportEpoch, checkpoint: Path | None = None) -> WorkerContext:
    return WorkerContext(rank=0, size=1, checkpoint=checkpoint, report=report)


def test_a_head_is_trained_and_released(prepared: Path, tmp_path: Path) -> None:
    task = build_task(prepared, tmp_path, population="phantoms")
    reports = Reports(tmp_path / "checkpoint")

    report = train_head(alone(reports), task)

    assert reports.epochs == [1, 2, 3, 4]
    assert len(report["history"]) == EPOCHS
    assert report["validation"]["num_images"] == 16
    assert report["validation"]["metrics"]["auroc"]["value"] > 0.9
    info = load_info(task.bundle)
    assert info.threshold.value == report["threshold"]
    assert info.data.population == "phantoms"
    scope = load_scope(task.bundle)
    assert scope is not None
    assert (scope.num_images, scope.num_held_out) == (40, 16)
    features = open_features(task.training.run / "_features").take(np.arange(40, 56))[0]
    beyond = scope.distances(features) > scope.max_distance
    assert not beyond.any()
    farthest = scope.distances(features).max()
    assert scope.max_distance == pytest.approx(1.15 * farthest)
    assert info.num_trainable == 32 * 512 + 512 + 32_832 + 2_080 + 33


def test_a_loop_that_was_killed_goes_on_to_the_same_weights(prepared: Path, tmp_path: Path) -> None:
    calm = build_task(prepared, tmp_path / "calm", finetune="all")
    assert train_head(alone(Reports(tmp_path / "unused")), calm) == {}  # fine-tuning is to follow
    killed = build_task(prepared, tmp_path / "killed", finetune="all")
    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(Killed):
        train_head(alone(Reports(checkpoint, last=2)), killed)

    reports = Reports(tmp_path / "rest")
    train_head(alone(reports, checkpoint), killed)

    assert reports.epochs == [3, 4]
    with (
        np.load(RunDir(calm.training.run).head) as ours,
        np.load(RunDir(killed.training.run).head) as theirs,
    ):
        assert ours.files == theirs.files
        for name in ours.files:
            np.testing.assert_array_equal(ours[name], theirs[name])
