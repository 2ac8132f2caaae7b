import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import orchestrator.pipelines.recalibrate as recalibration
from orchestrator.cli.summaries import bundle_summary, recalibrate_summary
from orchestrator.config.specs import RecalibrateSpec, Resources, ScoreSpec
from orchestrator.data.schema import PREDICTIONS
from orchestrator.data.splits import group_rows
from orchestrator.errors import BundleError, ClusterError, DataError, SpecError
from orchestrator.evaluation.metrics import point_metrics
from orchestrator.evaluation.operating_point import choose_point, cross_validate
from orchestrator.model.bundle import load_info
from orchestrator.pipelines.recalibrate import recalibrate
from orchestrator.runs.run_dir import RunDir
from tests.conftest import Recorder

pytestmark = pytest.mark.ray
ONE = Resources(workers=1)
RULE = "sensitivity@0.97"
NETWORK = ("model.keras", "openvino.xml", "openvino.bin")


def run(trained: SimpleNamespace, data: Path, out: Path, **fields: Any) -> Any:
    spec = RecalibrateSpec(
        **{"model": str(trained.bundle), "data": str(data), "out": str(out), "threshold": RULE}
        | fields
    )
    recorder = Recorder()
    result = recalibrate(spec, ONE, recorder, run_folder=out.with_name(f"{out.name}-run"))
    return SimpleNamespace(**vars(result), info=load_info(result.bundle))


@pytest.fixture(scope="module")
def done(trained: SimpleNamespace, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A recalibration on the images of the training that was stopped once they were scored."""
    out = tmp_path_factory.mktemp("recalibrated") / "bundle"

    def fail(*args: Any, **fields: Any) -> None:
        raise ClusterError("no space")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recalibration, "copy_bundle", fail)
        with pytest.raises(ClusterError, match="no space"):
            run(trained, phantoms, out)
    assert not (out / "bundle.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recalibration, "score", fail)  # goes on without scoring again
        return run(trained, phantoms, out)


def test_the_network_stays_and_the_operating_point_is_new(
    done: Any, trained: SimpleNamespace
) -> None:
    before, after = load_info(trained.bundle), done.info
    assert {name: after.files[name] for name in NETWORK} == {n: before.files[n] for n in NETWORK}
    assert after.parent == before.sha256
    (trained_one,) = after.ancestors
    assert trained_one.sha256 == before.sha256
    assert (trained_one.date, trained_one.threshold) == (before.created, before.threshold)
    assert after.sha256 != before.sha256
    assert (after.threshold.value, after.threshold.rule) == (done.report["threshold"], RULE)
    assert after.calibration != before.calibration
    assert list(after.metrics) == ["recalibration"]
    found = after.recalibration
    assert found is not None
    assert (found.num_images, sum(found.counts.values())) == (160, 160)
    assert found.rule == RULE
    assert found.fingerprint == before.data.fingerprint
    # What training said stays: data, recipe, date.
    for name in ("data", "training", "created", "seed"):
        assert getattr(after, name) == getattr(before, name)
    assert {path.name for path in done.bundle.iterdir()} == {*after.files, "bundle.json"}
    assert (done.run / "_SUCCESS").exists()


def test_the_figures_after_are_those_of_held_out_patients(
    done: Any, trained: SimpleNamespace
) -> None:
    rows = pq.read_table(done.run / "scored" / "predictions")
    labels = rows["label"].to_numpy()
    own = point_metrics(
        labels, rows["probability"].to_numpy(), load_info(trained.bundle).threshold.value
    )
    logits = rows["logit"].to_numpy().astype(np.float64)
    held = cross_validate(
        labels,
        logits,
        group_rows(rows),
        lambda some: choose_point(labels[some], logits[some], RULE),
        seed=0,
    )
    outside = point_metrics(labels, held.calls.astype(float), 0.5)
    loss = point_metrics(labels, held.probabilities, 0.5)["log_loss"]
    before, after = (done.report[name]["metrics"] for name in ("before", "after"))
    for name in ("accuracy", "precision", "recall", "specificity", "f1"):
        assert before[name]["value"] == own[name]
        assert after[name]["value"] == outside[name]
        assert after[name]["low"] <= after[name]["value"] <= after[name]["high"]
    assert after["auroc"] == before["auroc"]
    assert before["log_loss"]["value"] == pytest.approx(own["log_loss"])
    assert after["log_loss"]["value"] == pytest.approx(loss)
    assert done.info.metrics["recalibration"].metrics["recall"].value == outside["recall"]


def test_images_of_the_training_and_a_floor_that_cannot_be_held_are_warned_of(done: Any) -> None:
    assert len(done.report["warnings"]) == 2
    assert "images that the model was trained on" in done.report["warnings"][0]
    assert "it needs PNEUMONIA images of 99 patients, and there are" in done.report["warnings"][1]
    shown = "\n".join(recalibrate_summary(done))
    assert "warning: these are the images" in shown
    assert "warning: on other patients the floor of 0.97 may not be met" in shown
    assert f"the bundle's is {done.report['parent']['threshold']:.4f}" in shown


def test_page_and_card_say_what_was_done_and_name_no_file(
    done: Any, trained: SimpleNamespace, phantoms: Path
) -> None:
    page, card = ((done.bundle / name).read_text() for name in ("report.html", "README.md"))
    assert "Warning:" in page
    assert "A floor of 0.970 needs PNEUMONIA images of 99 different patients" in page
    assert f"the network is that of the bundle `{done.info.parent}`" in card
    assert f"- `{done.info.parent}`: trained on {done.info.created}" in card
    own = json.loads((done.bundle / "card.json").read_text())["orchestrator"]
    assert (own["parent"], own["ancestors"][0]["sha256"]) == (done.info.parent,) * 2
    assert own["threshold"]["value"] == done.report["threshold"]
    assert "curve and threshold were chosen on 160 labelled images" in card
    for text in (page, card, (done.bundle / "bundle.json").read_text()):
        assert str(phantoms) not in text
        assert str(trained.folder) not in text
    assert any(done.info.parent in line for line in bundle_summary(done.bundle, done.info))


def scored_as(labels: list[int | None], logits: Any) -> Any:
    """What stands for the scoring run: rows with these labels and logits."""

    def score(spec: ScoreSpec, *args: Any) -> None:
        rows = [
            {
                "row": row,
                "label": label,
                "logit": logit,
                "patient_id": f"p{row}",
                "sha256": str(row),
            }
            for row, (label, logit) in enumerate(zip(labels, logits, strict=True))
        ]
        folder = RunDir(Path(str(spec.out))).predictions
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, PREDICTIONS), folder / "part-00000.parquet")

    return score


def test_unlabelled_images_count_for_nothing_and_a_calibration_may_stay(
    trained: SimpleNamespace, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = [0, 1] * 100
    own = load_info(trained.bundle).calibration
    spread = np.random.default_rng(0).normal(size=200) + 2 * np.array(labels) - 1
    logits = (spread - own.intercept) / own.slope
    score = scored_as([*labels, None], [*logits, 99.0])
    monkeypatch.setattr(recalibration, "score", score)
    found = run(trained, phantoms, tmp_path / "bundle", calibration="none", threshold="youden")
    assert found.report["num_images"] == 200
    assert found.report["counts"] == {"NORMAL": 100, "PNEUMONIA": 100, "no label": 1}
    assert found.report["warnings"] == []
    assert found.report["need"] is None
    # The old bundle's target on this site, judged by what other patients chose
    rule = found.info.review
    assert rule.target == ("review_rate", 0.4)
    assert (rule.num_images, rule.num_patients) == (200, 200)
    review = found.report["review"]["measured"]["Labelled images"]
    matrix = found.report["after"]["confusion"]
    assert review["num_wrong"] == matrix["fp"] + matrix["fn"]
    assert 0 < 200 - review["accepted"] <= 0.4 * 201
    assert "on average at most 40.0%" in (found.bundle / "report.html").read_text()
    assert found.info.calibration == load_info(trained.bundle).calibration
    bounds = found.report["threshold_interval"]
    assert bounds["low"] < found.report["threshold"] < bounds["high"]
    assert (
        "the threshold was chosen on 200 labelled images"
        in (found.bundle / "README.md").read_text()
    )


def test_what_cannot_be_recalibrated_is_told_before_anything_is_scored(
    trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new"
    (tmp_path / "flat").mkdir()
    shutil.copy(next(phantoms.rglob("*.jpeg")), tmp_path / "flat")
    with pytest.raises(DataError, match="no image has a label; expected class folders"):
        run(trained, tmp_path / "flat", out)
    shutil.copytree(phantoms / "NORMAL", tmp_path / "one" / "NORMAL")
    with pytest.raises(DataError, match="all labelled images are NORMAL; expected images of both"):
        run(trained, tmp_path / "one", tmp_path / "new2")
    assert not list(out.glob("bundle.json"))
    with pytest.raises(SpecError, match="is the bundle itself; name another folder"):
        run(trained, phantoms, trained.bundle, overwrite=True)
    assert (trained.bundle / "bundle.json").exists()
    taken = Path(shutil.copytree(trained.bundle, tmp_path / "taken"))
    with pytest.raises(SpecError, match="holds a bundle; name another or add --overwrite"):
        run(trained, phantoms, taken)
    (taken / "openvino.bin").write_bytes(b"")
    with pytest.raises(BundleError, match="differs from what bundle"):
        run(trained, phantoms, tmp_path / "new3", model=str(taken))


def test_a_network_that_changes_while_it_is_copied_is_refused(
    trained: SimpleNamespace, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = Path(shutil.copytree(trained.bundle, tmp_path / "parent"))
    stand_in = scored_as([0, 1] * 20, np.arange(40.0))

    def score(*args: Any) -> None:
        stand_in(*args)
        (parent / "openvino.bin").write_bytes(b"another")

    monkeypatch.setattr(recalibration, "score", score)
    with pytest.raises(BundleError, match=r"openvino\.bin was changed meanwhile"):
        run(trained, phantoms, tmp_path / "new", model=str(parent))
    assert not (tmp_path / "new" / "bundle.json").exists()
    assert json.loads((tmp_path / "new-run" / "status.json").read_text())["exit_code"] == 4
