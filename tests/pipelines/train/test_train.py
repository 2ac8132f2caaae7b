import json
import re
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from orchestrator.cluster.session import open_session
from orchestrator.config.specs import Resources, TrainSpec
from orchestrator.errors import DataError, SpecError
from orchestrator.evaluation.metrics import evaluate
from orchestrator.evaluation.wording import METRIC_TITLES, format_figure, format_range
from orchestrator.model.bundle import load_info
from orchestrator.pipelines.prepare.images import prepare_images
from orchestrator.pipelines.train.evaluated import load_evaluated
from orchestrator.pipelines.train.train import train
from orchestrator.runs.life_cycle import identify
from orchestrator.runs.run_dir import RunDir
from tests.conftest import Recorder
from tests.pipelines.train.test_tracking import read_events

pytestmark = pytest.mark.ray


def test_training_releases_a_bundle_that_verifies(trained: SimpleNamespace) -> None:
    info = load_info(trained.bundle)
    assert (info.backbone, info.weights, info.size_px) == ("tiny", "none", 64)
    assert info.threshold.rule == "youden"
    assert set(info.metrics) == {"validation", "test"}
    assert not (trained.bundle / "_unfinished.json").exists()


def test_patients_images_and_file_names_stay_in_the_runs_own_report(
    trained: SimpleNamespace,
) -> None:
    own, released = ((f / "report.html").read_text() for f in (trained.run, trained.bundle))
    assert own.count("data:image/jpeg") == 1
    assert "data:image/" not in released
    names = [row["path"] for row in pq.read_table(trained.run / "splits.parquet").to_pylist()]
    assert not any(name in released for name in names)


def test_curves_are_in_tensorboard_files(trained: SimpleNamespace) -> None:
    for name, keys in (("train", ("loss", "accuracy")), ("validation", ("val_loss", "val_auroc"))):
        events = read_events(trained.run / "tensorboard" / name)
        for key in keys:
            logged = events[f"epoch_{key.removeprefix('val_')}"]
            history = [(row["epoch"], row[key]) for row in trained.report["history"]]
            assert [step for step, _ in logged] == [epoch for epoch, _ in history]
            assert [value for _, value in logged] == pytest.approx([value for _, value in history])


def test_evaluated_rows_give_the_reports_figures(trained: SimpleNamespace) -> None:
    parts, probabilities = load_evaluated(RunDir(trained.run))
    assert list(parts) == list(probabilities) == ["validation", "test"]
    for split, rows in parts.items():
        stored = trained.report[split]
        found = evaluate(rows.labels, probabilities[split], stored["threshold"], rows.patients)
        assert found.as_dict() == stored


def test_metrics_of_bundle_and_report_agree(trained: SimpleNamespace) -> None:
    stored = json.loads((trained.run / "report.json").read_text())
    assert stored == json.loads(json.dumps(trained.report))
    figures = load_info(trained.bundle).metrics["validation"].metrics
    assert figures["auroc"].value == stored["validation"]["metrics"]["auroc"]["value"]
    best = stored["history"][stored["best_epoch"] - 1]
    assert best["val_auroc"] == max(row["val_auroc"] for row in stored["history"])
    assert figures["auroc"].value == pytest.approx(best["val_auroc"], abs=1e-6)


def test_the_cards_have_the_reports_figures_and_no_path(trained: SimpleNamespace) -> None:
    card = (trained.bundle / "README.md").read_text()
    data = json.loads((trained.bundle / "card.json").read_text())
    for result in data["model-index"][0]["results"]:
        stored = trained.report[result["dataset"]["split"]]["metrics"]
        by_title = {METRIC_TITLES[name]: stored[name] for name in METRIC_TITLES}
        for metric in result["metrics"]:
            figure = by_title[metric["name"]]
            bounds = metric["args"]["low"], metric["args"]["high"]
            assert (metric["value"], *bounds) == (figure["value"], figure["low"], figure["high"])
            shown = f"{format_figure(figure['value'])} [{format_range(figure)}]"
            assert figure["low"] is None or shown in card
    own = data["orchestrator"]
    assert own["threshold"]["value"] == trained.report["threshold"]
    assert own["evidence"]["subgroups"]["method"] == trained.report["subgroups"]["method"]
    assert own["evidence"]["layout"] == "pool" and trained.report["judged_on"] == "test"
    assert own["data"]["population"] == "phantoms" and "phantoms" in card
    for name in ("near_duplicate", "same_patient", "images_without_patient"):
        assert own["evidence"]["audit"][name] == trained.report["audit"][name]
    command = own["reproduce"]
    assert "--backbone tiny" in command and "--review-rate 0.4" in command and command in card
    names = [row["path"] for row in pq.read_table(trained.run / "splits.parquet").to_pylist()]
    texts = card + json.dumps(data)
    assert not any(name in texts for name in [*names, trained.report["recipe"]["data"]])


def test_the_bundle_keeps_the_review_rule_and_the_report_what_it_gave(
    trained: SimpleNamespace,
) -> None:
    rule = load_info(trained.bundle).review
    assert rule is not None and rule.target == ("review_rate", 0.4)
    review = trained.report["review"]
    assert review["rules"] == [rule.as_dict()]
    for split, found in review["measured"].items():
        stored = trained.report[split.lower()]
        wrong = stored["confusion"]["fp"] + stored["confusion"]["fn"]
        assert (found["num_images"], found["num_wrong"]) == (stored["num_images"], wrong)
        assert found["curve"][-1] == [1.0, wrong / stored["num_images"]]
    chosen = review["measured"]["Validation"]
    assert chosen["num_images"] == rule.num_images
    assert 0.6 <= chosen["accepted"] / rule.num_images <= 1
    for page in (trained.run / "report.html", trained.bundle / "README.md"):
        assert "on average at most 40.0% are left to a person" in page.read_text()


def test_splits_keep_patients_whole_and_the_audit_is_said(trained: SimpleNamespace) -> None:
    table = pq.read_table(trained.run / "splits.parquet").to_pylist()
    assert len(table) == 160
    splits_of: dict[str, set[str]] = {}
    for row in table:
        splits_of.setdefault(row["patient_id"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in splits_of.values())
    said = "\n".join(trained.said.lines)
    assert "same patient" in said
    assert "NORMAL" in said
    assert "epoch   1" in said
    assert said.endswith("and writing the bundle")


def test_working_files_are_gone_after_success(trained: SimpleNamespace) -> None:
    assert {p.name for p in trained.run.iterdir()} == {
        "_SUCCESS",
        "audit.json",
        "evaluated.parquet",
        "history.json",
        "manifest.parquet",
        "rejected.parquet",
        "report.html",
        "report.json",
        "spec.yaml",
        "splits.parquet",
        "status.json",
        "tensorboard",
    }
    assert json.loads((trained.run / "status.json").read_text())["status"] == "SUCCEEDED"


def test_a_finished_bundle_is_not_overwritten_unasked(
    trained: SimpleNamespace, phantoms: Path
) -> None:
    spec = TrainSpec(data=str(phantoms), out=str(trained.bundle), backbone="tiny", weights="none")
    with pytest.raises(SpecError, match="holds a bundle; name another or add --overwrite"):
        train(spec, Resources(), Recorder())
    load_info(trained.bundle)


def test_a_foreign_folder_is_left_alone(tmp_path: Path, phantoms: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    spec = TrainSpec(
        data=str(phantoms), out=str(tmp_path), backbone="tiny", weights="none", overwrite=True
    )
    with pytest.raises(SpecError, match="not empty and holds no bundle"):
        train(spec, Resources(), Recorder())
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.usefixtures("ray_cluster")
def test_proven_leakage_stops_training_before_the_backbone(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = sorted(phantoms.rglob("*.jpeg"))
    lines = ["path,label,patient_id,split"]
    for index, path in enumerate(files):
        split = ("train", "val", "test")[index % 3]
        lines.append(f"{path},{path.parent.name},same-patient-{index // 2},{split}")
    table = tmp_path / "leaky.csv"
    table.write_text("\n".join(lines))
    recorder = Recorder()
    spec = TrainSpec(data=str(table), out="b", backbone="tiny", weights="none", image_size=64)
    with pytest.raises(DataError, match=r"leak between the splits.*--allow-leakage"):
        train(spec, Resources(workers=1), recorder)
    assert not any("building" in line for line in recorder.lines)


@pytest.mark.usefixtures("ray_cluster")
def test_files_that_cannot_be_used_are_said_and_stored(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    for number, path in enumerate(sorted(phantoms.rglob("*.jpeg"))):
        kept = data / path.parent.name / f"scan{number}.jpeg"  # tells no patient
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(path.read_bytes())
    (data / "NORMAL" / "Thumbs.db").touch()
    (data / "NORMAL" / "letter.jpeg").write_text("Dear colleague")
    (data / "NORMAL" / "empty.jpeg").touch()
    (data / "NORMAL" / "empty too.jpeg").touch()
    (data / "NORMAL" / "again.jpeg").write_bytes((data / "NORMAL" / "scan0.jpeg").read_bytes())
    recorder = Recorder()
    spec = TrainSpec(data=str(data), backbone="tiny", weights="none", image_size=64)
    with open_session(Resources(workers=1), reads=[], writes=[]) as session:
        run = RunDir(tmp_path / "run")
        prepared = prepare_images(spec, session, run, recorder)
    counts, audit = prepared.counts, prepared.audit
    assert audit["files"] == {
        "found": 164,
        "rejected": 3,
        "rejected_by_code": {"empty_file": 2, "not_an_image": 1},
        "ignored": 1,
    }
    assert json.loads(run.audit.read_text())["leakage"]["files"] == audit["files"]
    assert counts["unused"]["NORMAL"] == 3
    said = "\n".join(recorder.lines)
    assert "ignored 1 name: Thumbs.db (1)" in said
    assert "3 of 164 files cannot be used: 2 of 164: empty_file, not_an_image 1; the first" in said
    assert "across splits: patients unknown, so one patient's images may be on both sides" in said
    assert "within a split: 1 groups, 2 images" in said
    assert audit["repeated"] == 1
    assert audit["images_without_patient"] == 161

    strict = spec.model_copy(update={"max_rejected_fraction": 0.01})
    assert identify(strict) == identify(spec)  # so that a run that was refused goes on
    expected = r"3 of 164 files were rejected, over the allowed fraction 0.01; (\S+) lists them"
    with pytest.raises(DataError, match=expected) as refused:
        prepare_images(strict, session, run, recorder)
    listed = re.search(expected, str(refused.value))
    assert listed is not None
    assert pq.read_metadata(listed[1]).num_rows == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "resnet9000"}, "unknown backbone 'resnet9000'; expected one of"),
        ({"weights": "offline"}, "weights 'offline' are not offered for tiny"),
        ({"backbone": "InceptionV3", "weights": "none", "image_size": 64}, "too small"),
    ],
)
def test_an_impossible_spec_is_refused_before_any_folder_is_made(
    change: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = TrainSpec.model_validate({"data": "x", "backbone": "tiny", "weights": "none"} | change)
    with pytest.raises(SpecError, match=message):
        train(spec, Resources(), Recorder())
    assert list(tmp_path.iterdir()) == []
