from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from orchestrator.cli.summaries import tune_summary
from orchestrator.config.load import build_spec, load_job
from orchestrator.config.specs import Resources, TrainSpec, TuneSpec
from orchestrator.data.splits import group_rows, split_rows
from orchestrator.errors import SpecError
from orchestrator.model.bundle import load_info
from orchestrator.pipelines.tune.data import describe_features, divide
from orchestrator.pipelines.tune.tune import tune
from orchestrator.runs.atomic import digest
from orchestrator.runs.run_dir import RunDir
from tests.conftest import Recorder
from tests.runs.finished import cut_short


class TableRecorder(Recorder):
    """A recorder that is shown tables too."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[tuple[str, ...]]] = []

    def show_table(self, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        self.tables.append(rows)


@pytest.fixture(scope="module")
def tuned(
    ray_cluster: None, phantoms: Path, tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """A small search on the phantoms, over two folds."""
    folder = tmp_path_factory.mktemp("tuned")
    spec = TuneSpec(
        data=str(phantoms),
        out=str(folder / "out"),
        backbone="tiny",
        weights="none",
        image_size=64,
        feature_dtype="float16",
        views=2,
        epochs=2,
        trials=5,
        folds=2,
        lr=(0.001, 0.004),
    )
    recorder = TableRecorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = tune(spec, Resources(workers=1), recorder)
    return SimpleNamespace(spec=spec, result=result, folder=folder, said=recorder)


@pytest.mark.ray
def test_a_search_releases_the_best_configuration(tuned: SimpleNamespace) -> None:
    report, out = tuned.result.report, tuned.result.run
    best = max(report["trials"], key=lambda trial: trial["value"])
    assert report["best"]["config"] == best["config"]
    job = load_job(out / "best.yaml")
    spec = build_spec(TrainSpec, {}, job)
    assert job.kind == "train"
    assert {name: getattr(spec, name) for name in best["config"]} == best["config"]
    info = load_info(tuned.result.bundle)
    assert {name: info.training[name] for name in best["config"]} == best["config"]
    assert set(info.metrics) == {"validation", "test"}
    assert (
        report["refit"]["test"]["metrics"]["auroc"]
        == info.metrics["test"].metrics["auroc"].as_dict()
    )
    assert (out / "_SUCCESS").exists()
    assert not (out / "_ray").exists()


@pytest.mark.ray
def test_every_trial_is_in_the_table_and_has_a_line(tuned: SimpleNamespace) -> None:
    rows = pq.read_table(tuned.result.run / "trials.parquet").to_pylist()
    assert [row["number"] for row in rows] == list(range(5))
    assert all(len(row["values"]) == 2 for row in rows)
    for row in rows:
        assert row["value"] == pytest.approx(np.mean(row["values"]))
        assert row["lr"] in (0.001, 0.004)
    assert sum(line.startswith("trial ") for line in tuned.said.lines) == 5
    best = tuned.said.tables[-1][0]
    assert float(best[-1]) == pytest.approx(max(row["value"] for row in rows), abs=1e-4)


@pytest.mark.ray
def test_the_held_out_images_are_compared_and_were_not_searched(tuned: SimpleNamespace) -> None:
    held_out = tuned.result.report["held_out"]
    rows = pq.read_table(tuned.result.run / "held_out.parquet").to_pylist()
    splits = pq.read_table(tuned.result.run / "splits.parquet")
    names = splits.column("split").to_pylist()
    assert {names[row["row"]] for row in rows} == {"train"}
    assert held_out["num_images"] == len(rows)
    difference = held_out["difference"]["auroc"]
    assert difference["low"] <= difference["value"] <= difference["high"]
    areas = {name: held_out[name]["metrics"]["auroc"] for name in ("winner", "default")}
    assert difference["num_seeds"] == len(areas["winner"]) == len(rows[0]["winner"]) == 3
    means = {name: np.mean(values) for name, values in areas.items()}
    assert difference["value"] == pytest.approx(means["winner"] - means["default"])
    page = (tuned.result.run / "report.html").read_text()
    for title in ("Optimisation history", "Parallel coordinates", "Spread over the folds"):
        assert title in page
    assert "held-out images that no trial saw" in "\n".join(tune_summary(tuned.result))


@pytest.mark.ray
def test_features_of_one_key_are_computed_once(
    tuned: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tuned.folder)
    (store,) = (tuned.folder / "runs" / "features").iterdir()
    assert {path.name for path in store.iterdir()} >= {"augmented.npy", "plain.npy", "rows.npz"}
    assert not list(store.glob("part-*"))
    assert np.load(store / "augmented.npy", mmap_mode="r").dtype == np.float16
    # A run cut short at its report goes on without decoding, computing or training again.
    cut_short(RunDir(tuned.result.run))
    recorder = Recorder()
    tune(tuned.spec, Resources(workers=1), recorder)
    assert any("reusing cached features" in line for line in recorder.lines)
    assert not any(line.startswith(("trial ", "epoch", "building")) for line in recorder.lines)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"lr": (0.1,), "trials": 7, "epochs": 9, "objective": "auprc"}, True),
        ({"seed": 1}, False),
        ({"views": 3}, False),
        ({"augmentation": "light"}, False),
        ({"backbone": "EfficientNetB0"}, False),
        ({"weights": "imagenet"}, False),
        ({"image_size": 96}, False),
        ({"feature_dtype": "float16"}, False),
        ({"folds": 3}, False),
    ],
)
def test_the_key_of_features_names_all_they_depend_on(
    change: dict[str, object], same: bool, phantom_rows: SimpleNamespace
) -> None:
    spec = TuneSpec(data="x", backbone="tiny", weights="none", views=2)
    other = TuneSpec.model_validate(spec.model_dump() | change)

    def key(spec: TuneSpec) -> str:
        division = divide(phantom_rows.table, phantom_rows.names, spec)
        return digest(describe_features(spec, phantom_rows.table, division, "openvino"))

    assert (key(spec) == key(other)) == same


def test_another_image_is_another_key(phantom_rows: SimpleNamespace) -> None:
    spec = TuneSpec(data="x", backbone="tiny", weights="none")
    table = phantom_rows.table
    division = divide(table, phantom_rows.names, spec)
    hashes = table.column("sha256").to_pylist()
    hashes[int(division.plain[0])] = "0" * 64
    changed = table.set_column(table.column_names.index("sha256"), "sha256", [hashes])
    keys = {digest(describe_features(spec, t, division, "openvino")) for t in (table, changed)}
    assert len(keys) == 2


@pytest.fixture(scope="module")
def phantom_rows(phantoms: Path) -> SimpleNamespace:
    """Rows of the phantoms as a data set has them, with their split."""
    import pyarrow as pa

    from orchestrator.data.manifest import build_manifest
    from orchestrator.runs.atomic import sha256_file

    table = build_manifest(phantoms, 64).table
    hashes = [sha256_file(phantoms / path) for path in table.column("path").to_pylist()]
    names = split_rows(table, seed=0, merge_val=False).names
    return SimpleNamespace(table=table.append_column("sha256", pa.array(hashes)), names=names)


@pytest.mark.parametrize("folds", [1, 3])
def test_no_patient_is_on_both_sides_of_any_division(
    folds: int, phantom_rows: SimpleNamespace
) -> None:
    table, names = phantom_rows.table, phantom_rows.names
    spec = TuneSpec(data="x", folds=folds)
    division = divide(table, names, spec)
    groups = group_rows(table)
    assert len(division.folds) == folds
    seen: list[np.ndarray] = []
    for fold in division.folds:
        parts = [fold.train_rows, fold.val_rows, division.held_out]
        for index, part in enumerate(parts):
            for other in parts[index + 1 :]:
                assert not set(groups[part]) & set(groups[other])
        assert set(fold.val_labels) == {0, 1}
        seen.append(fold.val_rows)
    together = np.concatenate(seen)
    assert len(together) == len(set(together.tolist()))
    share = len(division.held_out) / (np.array(names.to_pylist()) == "train").sum()
    assert share == pytest.approx(0.2, abs=0.06)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"finetune": "all"}, "add --features live"),
        ({"search": "grid", "gamma": tuple(range(20)) * 50}, "given|grid has"),
        ({"backbone": "vgg20"}, "unknown backbone 'vgg20'"),
    ],
)
def test_an_impossible_search_is_refused_before_any_folder_is_made(
    change: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given: dict[str, object] = {
        "data": "x",
        "lr": tuple(1e-4 * n for n in range(1, 101)),
        "alpha": tuple(0.009 * n for n in range(1, 101)),
    }
    with pytest.raises(SpecError, match=message):
        tune(TuneSpec.model_validate(given | change), Resources(), Recorder())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_search_on_images_trains_every_trial_with_its_workers(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = TuneSpec(
        data=str(phantoms),
        out=str(tmp_path / "out"),
        backbone="tiny",
        weights="none",
        image_size=64,
        features="live",
        finetune="all",
        epochs=1,
        finetune_epochs=2,
        trials=3,
        scheduler="none",
        lr=(0.001, 0.0003),
    )
    recorder = Recorder()
    # One CPU a worker, two workers a trial, two CPUs: one trial at a time, and none waits forever.
    result = tune(spec, Resources(workers=2, cpus_per_worker=1), recorder)
    trials = result.report["trials"]
    assert [trial["state"] for trial in trials] == ["finished"] * 3, trials
    assert all(len(trial["history"]) == 3 for trial in trials)
    assert load_job(tmp_path / "out" / "best.yaml").args["finetune_lr"] in (0.001, 0.0003)
    assert load_info(result.bundle).training["finetune"] == "all"
    assert not (tmp_path / "out" / "_live").exists()
