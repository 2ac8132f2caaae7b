import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from orchestrator.config.load import build_spec, dump_yaml, load_job
from orchestrator.config.specs import Resources, TrainSpec
from orchestrator.errors import SpecError
from orchestrator.model.bundle import load_info
from orchestrator.pipelines.prepare.features import prepare_backbone
from orchestrator.pipelines.train import train as training
from orchestrator.pipelines.train.train import train
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.states import Status
from tests.conftest import ROOT, Recorder
from tests.runs.finished import finish

pytestmark = pytest.mark.ray
HEAD_EPOCHS, FINETUNE_EPOCHS = 4, 8


def live_spec(phantoms: Path, folder: Path) -> TrainSpec:
    """A live run of both stages; 160 phantoms leave a row count that no batch divides."""
    return TrainSpec(
        data=str(phantoms),
        out=str(folder / "bundle"),
        backbone="tiny",
        weights="none",
        image_size=64,
        features="live",
        augmentation="light",
        epochs=HEAD_EPOCHS,
        patience=100,
        batch_size=25,
        lr=0.003,
        dropout=0.0,
        finetune="all",
        finetune_epochs=FINETUNE_EPOCHS,
        finetune_lr=0.003,
        ema=0.8,
        test_time_views=3,
        threshold="youden-shifted",
    )


def weights_of(bundle: Path) -> list[np.ndarray]:
    from orchestrator.model.bundle import load_network

    return load_network(bundle).get_weights()


def history_of(run: Path) -> list[dict[str, float]]:
    try:
        return json.loads((run / "history.json").read_text())
    except FileNotFoundError:
        return []


def descendants(root: int) -> Iterator[tuple[int, str]]:
    """Process ids under a process, with their command lines."""
    parents, lines = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text()
                lines[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    for pid in parents:
        above = pid
        while above in parents and above != root:
            above = parents[above]
        if above == root and pid != root:
            yield pid, lines[pid]


def kill_one_worker(runs: Path, after: int, killed: list[int]) -> None:
    """Kills a training worker of this process's Ray once some epochs are done."""
    limit = time.monotonic() + 200
    while time.monotonic() < limit:
        if any(len(history_of(run)) >= after for run in runs.glob("train-*")):
            workers = [p for p, line in descendants(os.getpid()) if "RayTrainWorker" in line]
            os.kill(max(workers), signal.SIGKILL)
            killed.append(max(workers))
            return
        time.sleep(0.02)


def train_with_a_killed_worker(
    spec: TrainSpec, folder: Path, workers: int, after: int, monkeypatch: pytest.MonkeyPatch
) -> SimpleNamespace:
    monkeypatch.chdir(folder)
    killed: list[int] = []
    killer = threading.Thread(target=kill_one_worker, args=(folder / "runs", after, killed))
    killer.start()
    result = train(spec, Resources(workers=workers), Recorder())
    killer.join()
    assert len(killed) == 1
    return SimpleNamespace(history=history_of(result.run), weights=weights_of(result.bundle))


def assert_same_end(run: SimpleNamespace, undisturbed: SimpleNamespace) -> None:
    for ours, theirs in zip(run.history, undisturbed.history, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    for ours, theirs in zip(run.weights, undisturbed.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def undisturbed(
    ray_cluster: None, phantoms: Path, tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """The run of one worker that nothing happened to."""
    folder = tmp_path_factory.mktemp("live")
    recorder, engines = Recorder(), []

    def prepare_and_note(*given: Any, **named: Any) -> None:
        engines.append(named["engines"])
        prepare_backbone(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(training, "prepare_backbone", prepare_and_note)
        result = train(live_spec(phantoms, folder), Resources(workers=1), recorder)
    return SimpleNamespace(
        bundle=result.bundle,
        report=result.report,
        said=recorder.lines,
        bars=dict(zip(recorder.bars, recorder.counts, strict=True)),
        history=history_of(result.run),
        weights=weights_of(result.bundle),
        engines=engines,
    )


def test_live_training_releases_a_bundle_of_its_best_epoch(undisturbed: SimpleNamespace) -> None:
    info = load_info(undisturbed.bundle)
    assert undisturbed.engines == [True]  # its head learns from the scoring engine's features
    report, history = undisturbed.report, undisturbed.history
    assert [row["epoch"] for row in history] == list(range(1, HEAD_EPOCHS + FINETUNE_EPOCHS + 1))
    assert history[-1]["lr"] < history[HEAD_EPOCHS + 2]["lr"]
    best = history[report["best_epoch"] - 1]
    late = history[HEAD_EPOCHS + FINETUNE_EPOCHS * 3 // 4 :]
    assert best["val_auroc"] == max(row["val_auroc"] for row in late)
    assert info.training["finetune"] == "all"
    assert (info.test_time_views, info.threshold.rule) == (3, "youden-shifted")
    (total, done), *_ = [(bar[1], n) for bar, n in undisturbed.bars.items() if "evalu" in bar[0]]
    assert done == total > 10 * sum(report["splits"]["val"].values())


@pytest.mark.slow
def test_a_run_that_lost_its_worker_ends_with_the_same_weights(
    undisturbed: SimpleNamespace,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = train_with_a_killed_worker(
        live_spec(phantoms, tmp_path), tmp_path, 1, HEAD_EPOCHS + 2, monkeypatch
    )
    assert_same_end(run, undisturbed)


@pytest.mark.slow
def test_two_workers_of_which_one_is_lost_end_as_two_undisturbed_ones_do(
    undisturbed: SimpleNamespace,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "calm").mkdir()
    monkeypatch.chdir(tmp_path / "calm")
    result = train(live_spec(phantoms, tmp_path / "calm"), Resources(workers=2), Recorder())
    calm = SimpleNamespace(history=history_of(result.run), weights=weights_of(result.bundle))
    (tmp_path / "lost").mkdir()
    lost = live_spec(phantoms, tmp_path / "lost")
    assert_same_end(train_with_a_killed_worker(lost, tmp_path / "lost", 2, 3, monkeypatch), calm)
    # One worker sums in another order, and Adam divides by the root of tiny second moments: after
    # eight epochs of fine-tuning single weights are up to 1e-4 apart. What they predict is not.
    for ours, theirs in zip(calm.history, undisturbed.history, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.slow
def test_a_run_whose_driver_was_killed_resumes_to_the_same_weights(
    undisturbed: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    job = tmp_path / "job.yaml"
    spec = live_spec(phantoms, tmp_path)
    job.write_text(dump_yaml("train", "killed", spec, Resources(workers=1)))
    command = [sys.executable, "-c", "from orchestrator.cli.app import main; main()", "train"]
    driver = subprocess.Popen([*command, "-c", str(job)], cwd=tmp_path)
    limit = time.monotonic() + 200
    while not any(len(history_of(r)) >= 4 for r in (tmp_path / "runs").glob("train-*")):
        assert driver.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    (run,) = (tmp_path / "runs").glob("train-*")
    assert not (run / "_SUCCESS").exists()

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    resumed = subprocess.run(
        [*command, "--resume", str(run)], cwd=elsewhere, capture_output=True, text=True
    )

    assert resumed.returncode == 0, resumed.stderr
    assert "epoch   1" in resumed.stderr  # what was done is said again, from the history
    assert list(elsewhere.iterdir()) == []
    assert_same_end(
        SimpleNamespace(history=history_of(run), weights=weights_of(Path(spec.out or ""))),
        undisturbed,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_fine_tuning_starts_from_the_head_trained_on_cached_features(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change = {"features": "cached", "views": 2, "finetune": "top:1", "test_time_views": 1}
    spec = live_spec(phantoms, tmp_path).model_copy(update=change)
    recorder = Recorder()

    result = train(spec, Resources(workers=2), recorder)

    assert ("features", 160 + 112) in recorder.bars
    history = history_of(result.run)
    assert len(history) == HEAD_EPOCHS + FINETUNE_EPOCHS
    best = result.report["best_epoch"]
    assert best > HEAD_EPOCHS
    # The bundle scores validation as the best epoch did: the averaged weights were kept.
    scored = result.report["validation"]["metrics"]["auroc"]["value"]
    assert scored == pytest.approx(history[best - 1]["val_auroc"], abs=1e-6)
    head = load_info(result.bundle).num_trainable
    # The last convolution of the tiny backbone: 3 x 3 x 16 x 32.
    assert head == 32 * 512 + 512 + 32_832 + 2_080 + 33 + 4_608


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (Resources(workers=2, gpus_per_worker=0.5), "training on images takes one"),
        (Resources(workers=1, gpus_per_worker=2), "training on images takes one"),
    ],
)
def test_workers_that_cannot_train_together(resources: Resources, message: str) -> None:
    from orchestrator.config.workers import Session
    from orchestrator.pipelines.train.check import check_workers

    gpus = resources.gpus_per_worker
    assert not isinstance(gpus, str)
    with pytest.raises(SpecError, match=message):
        check_workers(Session(resources.workers or 1, 1, gpus))


def test_several_workers_need_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.config.workers import Session
    from orchestrator.pipelines.train.check import check_workers

    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(SpecError, match="2 workers cannot train under KERAS_BACKEND=jax"):
        check_workers(Session(2, 1, 0))
    check_workers(Session(1, 1, 0))


@pytest.mark.parametrize("name", ["train-paper", "train-offline"])
def test_job_files_of_the_recipes_are_valid(name: str) -> None:
    job = load_job(ROOT / "jobs" / f"{name}.yaml")
    spec = build_spec(TrainSpec, {}, job)
    assert job.name == name
    assert Path(spec.data).is_absolute()
    assert (spec.features, spec.augmentation, spec.finetune) == {
        "train-paper": ("live", "paper", "none"),
        "train-offline": ("cached", "light", "all"),
    }[name]


@pytest.mark.parametrize("part", ["top:0", "top", "some", "top:-1"])
def test_parts_that_cannot_be_fine_tuned(part: str) -> None:
    with pytest.raises(SpecError, match="finetune="):
        build_spec(TrainSpec, {"data": "x", "finetune": part})


@pytest.mark.parametrize("change", [{"test_time_views": 3}, {"threshold": "youden-shifted"}])
def test_what_needs_images_is_refused_for_a_head_on_features(
    change: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = TrainSpec.model_validate({"data": "x", "backbone": "tiny", "weights": "none"} | change)
    with pytest.raises(SpecError, match="need the images: add --features live"):
        train(spec, Resources(), Recorder())
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no run"):
        RunDir(tmp_path).unfinished_spec()
    run = RunDir(tmp_path / "run")
    run.write_status(Status.FAILED)
    run.spec.write_text("name: x\n")
    assert run.unfinished_spec() == run.spec
    finish(run)
    with pytest.raises(SpecError, match="is finished; there is nothing to resume"):
        run.unfinished_spec()
