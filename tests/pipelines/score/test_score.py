import csv
import json
import math
import os
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyarrow import BufferReader

import orchestrator.pipelines.score.score as scoring
from orchestrator.cli.summaries import score_summary
from orchestrator.config.specs import IngestSpec, Resources, ScoreSpec
from orchestrator.errors import BundleError, DataError, SpecError
from orchestrator.model.bundle import load_info
from orchestrator.model.bundle_folder import newest_bundle
from orchestrator.pipelines.prepare.ingest import ingest
from orchestrator.pipelines.score.score import score
from tests.conftest import Recorder
from tests.data.s3_server import serve_s3
from tests.processes import descendants

pytestmark = pytest.mark.ray
ONE = Resources(workers=1)
HERE = Resources()  # in this process, where the images fit one shard


def predictions(run: Path) -> list[dict[str, Any]]:
    return pq.read_table(run / "predictions").to_pylist()


def run_score(
    trained: SimpleNamespace,
    source: Path,
    out: Path,
    resources: Resources = HERE,
    **fields: Any,
) -> Any:
    spec = ScoreSpec(input=str(source), model=str(trained.bundle), out=str(out), **fields)
    return score(spec, resources, Recorder())


@pytest.fixture(scope="module")
def scored(
    trained: SimpleNamespace, phantoms: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """By a worker of the cluster, in four shards: what all other runs are compared to."""
    out = tmp_path_factory.mktemp("scored") / "run"
    return run_score(trained, phantoms, out, ONE, shard_rows=50)


def test_every_image_has_one_row(scored: Any, phantoms: Path) -> None:
    rows = predictions(scored.run)
    expected = {str(p.relative_to(phantoms)) for p in phantoms.rglob("*.jpeg")}
    assert len(rows) == 160
    assert {row["path"] for row in rows} == expected
    assert scored.report["counts"]["found"] == scored.report["counts"]["scored"] == 160
    assert all(0 <= row["probability"] <= 1 for row in rows)
    assert (scored.run / "_SUCCESS").exists()
    assert not (scored.run / "_shards").exists()


def test_calls_follow_the_bundles_threshold(scored: Any) -> None:
    threshold = scored.report["threshold"]
    for row in predictions(scored.run):
        assert row["predicted"] == int(row["probability"] >= threshold)


def drop_decision(row: dict[str, Any]) -> str | None:
    """Takes the columns of the review rule out of a row; returns the decision."""
    del row["margin"], row["review_reason"]
    decision: str | None = row.pop("decision")
    return decision


def test_a_person_is_left_what_is_near_the_threshold_and_another_target_leaves_more(
    scored: Any, trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    info = load_info(trained.bundle)
    assert info.review is not None and info.review.margin is not None
    border = math.log(info.threshold.value / (1 - info.threshold.value))
    rows = predictions(scored.run)
    for row in rows:
        odds = info.calibration.slope * row["logit"] + info.calibration.intercept
        assert row["margin"] == pytest.approx(abs(odds - border), abs=1e-5)
        near = row["margin"] < info.review.margin
        expected = ("review", "near_threshold") if near else ("accept", None)
        assert (row["decision"], row["review_reason"]) == expected
    counts = Counter(row["decision"] for row in rows)
    review = scored.report["review"]
    assert review["counts"] == counts and counts["review"]
    assert review["reasons"] == {"near_threshold": counts["review"]}
    found = review["measured"]["Labelled images"]
    kept = [row for row in rows if row["decision"] == "accept"]
    wrong = sum(row["predicted"] != row["label"] for row in kept)
    assert (found["accepted"], found["wrong"]) == (len(kept), wrong)
    said = f"{counts['review']} of 160 images are left to a person."
    assert said in (scored.run / "report.html").read_text()
    more = run_score(trained, phantoms, tmp_path / "more", review_rate=0.6)
    assert more.report["review"]["counts"]["review"] > counts["review"]
    assert more.report["review"]["rules"][0]["target"] == ["review_rate", 0.6]


def test_report_counts_the_confusion_of_the_table(scored: Any) -> None:
    report = json.loads((scored.run / "report.json").read_text())
    rows = predictions(scored.run)
    cells = {
        name: sum(r["label"] == label and r["predicted"] == call for r in rows)
        for name, label, call in (("tn", 0, 0), ("fp", 0, 1), ("fn", 1, 0), ("tp", 1, 1))
    }
    assert report["confusion"] == cells
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(
        (cells["tn"] + cells["tp"]) / 160
    )


def test_a_second_run_gives_the_same_tables_and_a_given_threshold_other_calls(
    scored: Any, trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    middle = sorted(row["probability"] for row in predictions(scored.run))[80]
    again = run_score(trained, phantoms, tmp_path / "again", shard_rows=50, threshold=middle)
    found, expected = predictions(again.run), predictions(scored.run)
    called, before = ([row.pop("predicted") for row in rows] for rows in (found, expected))
    reviewed, without = ([drop_decision(row) for row in rows] for rows in (expected, found))
    assert found == expected
    assert "review" in reviewed and set(without) == {None}  # a rule holds at its own threshold
    assert called == [int(row["probability"] >= middle) for row in found]
    assert called != before
    assert (again.report["threshold"], again.report["threshold_rule"]) == (middle, "fixed")
    own = {"value": scored.report["threshold"], "rule": scored.report["threshold_rule"]}
    assert again.report["overridden_threshold"] == own
    assert scored.report["overridden_threshold"] is None
    assert "was given for this run" in (again.run / "report.html").read_text()
    assert "was given for this run" not in (scored.run / "report.html").read_text()
    said = f"threshold    {middle:.4f}, given for this run; the model's own is {own['value']:.4f}"
    assert said in score_summary(again)


def test_a_run_without_a_cluster_and_with_a_shadow_gives_the_same_tables_and_says_so(
    scored: Any, trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    before = set(descendants(os.getpid()))
    recorder = Recorder()
    calibration = {"slope": 0.5, "intercept": 1.0}
    shadow = make_member(trained.bundle, tmp_path / "shadow", calibration=calibration)
    spec = ScoreSpec(
        input=str(phantoms),
        model=str(trained.bundle),
        out=str(tmp_path / "run"),
        shadow=str(shadow),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "open_session", lambda *_, **__: pytest.fail("a cluster"))
        result = score(spec, HERE, recorder)
    assert predictions(result.run) == predictions(scored.run)
    rows = pq.read_table(result.run / "shadow.parquet").to_pylist()
    assert [row["logit"] for row in rows] == [row["logit"] for row in predictions(scored.run)]
    for row in rows:
        assert row["probability"] == pytest.approx(1 / (1 + math.exp(-(0.5 * row["logit"] + 1))))
    said = "scoring in this process: one shard holds all; --workers starts a cluster"
    assert recorder.lines == [said]
    assert recorder.counts == [160]
    assert set(descendants(os.getpid())) <= before  # the decoders have ended


def test_keras_workers_and_several_shards_keep_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "ORCHESTRATOR_CLUSTER"):
        monkeypatch.delenv(name, raising=False)

    def fits(num_shards: int, engine: str, **asked: Any) -> bool:
        source = SimpleNamespace(num_shards=num_shards)
        spec = ScoreSpec(input="x", engine=engine)
        return scoring._fit_here(spec, Resources(**asked), source) is not None  # type: ignore

    assert fits(1, "openvino")
    assert not fits(2, "openvino")
    assert not fits(1, "keras")
    assert not fits(1, "openvino", workers=1)


def test_flat_table_and_ingested_inputs_score_alike_and_bad_files_are_rejected(
    scored: Any, trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in phantoms.rglob("*.jpeg"):
        (flat / path.name).write_bytes(path.read_bytes())
    (flat / "empty.jpg").touch()
    (flat / "letter.jpg").write_text("Dear colleague")
    table = tmp_path / "list.csv"
    with table.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["path", "label", "patient_id"])
        for path in flat.iterdir():
            writer.writerow([path, "PNEUMONIA" if "person" in path.name else "0", path.name[:9]])
    spec = IngestSpec(input=str(flat), out=str(tmp_path / "set"), image_size=64, shard_rows=40)
    with pytest.raises(DataError, match="2 of 162 files were rejected, over the allowed fracti"):
        ingest(spec.model_copy(update={"max_rejected_fraction": 0.01}), ONE, Recorder())
    assert not (tmp_path / "set" / "dataset.json").exists()
    described = ingest(spec, ONE, Recorder())  # goes on
    assert (described["num_found"], described["num_rejected"]) == (162, 2)

    expected = {Path(r["path"]).name: r["probability"] for r in predictions(scored.run)}
    for number, source in enumerate((flat, table, tmp_path / "set")):
        result = run_score(trained, source, tmp_path / f"run{number}")
        rows = predictions(result.run)
        assert {Path(r["path"]).name: r["probability"] for r in rows} == expected
        rejected = pq.read_table(result.run / "rejected.parquet").to_pylist()
        assert {Path(r["path"]).name: r["code"] for r in rejected} == {
            "empty.jpg": "empty_file",
            "letter.jpg": "not_an_image",
        }
        assert result.report["counts"]["rejected_by_code"] == {"empty_file": 1, "not_an_image": 1}
        labelled = {row["label"] for row in rows}
        assert labelled == ({0, 1} if source == table else {None})
        assert bool(result.report["metrics"]) == (source == table)


def test_too_many_rejected_is_an_error_that_loses_nothing(
    trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good = next(phantoms.rglob("*.jpeg"))
    (folder / "good.jpeg").write_bytes(good.read_bytes())
    (folder / "bad.jpeg").touch()
    with pytest.raises(DataError, match="1 of 2 files were rejected, over the allowed fraction 0"):
        run_score(trained, folder, tmp_path / "run", max_rejected_fraction=0.1)
    assert len(predictions(tmp_path / "run")) == 1
    assert not (tmp_path / "run" / "_SUCCESS").exists()
    # With the limit raised the same folder finishes without scoring again.
    result = run_score(trained, folder, tmp_path / "run", max_rejected_fraction=0.5)
    assert result.report["counts"]["scored"] == 1


def test_a_finished_run_is_refused_and_overwritten_when_asked(
    trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    run_score(trained, phantoms / "NORMAL", tmp_path / "run")
    with pytest.raises(SpecError, match="holds a finished run"):
        run_score(trained, phantoms / "NORMAL", tmp_path / "run")
    result = run_score(trained, phantoms / "PNEUMONIA", tmp_path / "run", overwrite=True)
    assert result.report["counts"]["found"] == len(list((phantoms / "PNEUMONIA").iterdir()))


def test_an_ingested_set_of_another_size_is_refused(
    trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    spec = IngestSpec(input=str(phantoms), out=str(tmp_path / "set"), image_size=48)
    ingest(spec, ONE, Recorder())
    with pytest.raises(DataError, match="images of 48 px and the model takes 64 px"):
        run_score(trained, tmp_path / "set", tmp_path / "run")


def test_without_a_model_the_newest_bundle_is_taken(
    trained: SimpleNamespace, tmp_path: Path
) -> None:
    assert newest_bundle(trained.folder / "models") == trained.bundle
    with pytest.raises(SpecError, match="no model was named and there is none under"):
        newest_bundle(tmp_path)


def test_progress_covers_every_image(
    trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    recorder = Recorder()
    spec = ScoreSpec(
        input=str(phantoms), model=str(trained.bundle), out=str(tmp_path / "r"), shard_rows=64
    )
    score(spec, ONE, recorder)
    assert recorder.bars == [("scoring", 160)]
    assert recorder.counts == [160]


def test_several_folders_are_one_run(
    scored: Any, trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    spec = ScoreSpec(
        input=(str(phantoms / "PNEUMONIA"), str(phantoms / "NORMAL")),
        model=str(trained.bundle),
        out=str(tmp_path / "run"),
    )
    rows = predictions(score(spec, HERE, Recorder()).run)
    found = {(("PNEUMONIA", "NORMAL")[r["root"]] + "/" + r["path"]): r["logit"] for r in rows}
    assert found == {row["path"]: row["logit"] for row in predictions(scored.run)}


def test_objects_of_a_store_score_like_files_and_the_run_is_copied_to_one(
    scored: Any,
    trained: SimpleNamespace,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = {row["path"]: row["logit"] for row in predictions(scored.run)}
    with serve_s3() as bucket:
        for path in phantoms.rglob("*.jpeg"):
            bucket.objects[f"in/{path.relative_to(phantoms)}"] = path.read_bytes()
        bucket.objects["in/refused.jpeg"] = b"x"
        bucket.refused.add("in/refused.jpeg")
        spec = ScoreSpec(
            input=bucket.address("in"), model=str(trained.bundle), out=bucket.address("out")
        )
        result = score(spec, HERE, Recorder())
        with pytest.raises(SpecError, match="is not empty; name another address"):
            score(spec, HERE, Recorder())
    copied = {key[4:] for key in bucket.objects if key.startswith("out/")}
    assert copied == {
        *("predictions/part-00000.parquet", "manifest.parquet", "rejected.parquet"),
        *("report.json", "report.html", "spec.yaml", "_SUCCESS"),
    }
    assert bucket.puts[-1] == "out/_SUCCESS"
    table = pq.read_table(BufferReader(bucket.objects["out/predictions/part-00000.parquet"]))
    assert table.to_pylist() == predictions(result.run)
    assert f"copied to    {bucket.address('out')}" in score_summary(result)
    assert {row["path"]: row["logit"] for row in predictions(result.run)} == expected
    assert result.report["counts"]["rejected_by_code"] == {"unreadable": 1}


def make_member(bundle: Path, folder: Path, **changes: Any) -> Path:
    """Copies a bundle under another calibration or threshold, which its files do not depend on."""
    shutil.copytree(bundle, folder)
    described = folder / "bundle.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | changes))
    return folder


def test_several_models_are_averaged_and_each_has_its_column(
    scored: Any, trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    calibration = {"slope": 0.5, "intercept": 1.0}
    second = make_member(
        trained.bundle,
        tmp_path / "second",
        calibration=calibration,
        threshold={"value": 0.9, "rule": "fixed"},
    )
    models = (str(trained.bundle), str(second))
    spec = ScoreSpec(input=str(phantoms), model=models, out=str(tmp_path / "run"))
    result = score(spec, HERE, Recorder())
    threshold = (scored.report["threshold"] + 0.9) / 2
    assert result.report["threshold"] == pytest.approx(threshold)
    assert result.report["threshold_rule"] == "mean of 2 models' thresholds"
    assert len(set(result.report["model"]["sha256"])) == 2
    alone = {row["path"]: row for row in predictions(scored.run)}
    rows = predictions(result.run)
    assert len(rows) == 160
    for row in rows:
        single = alone[row["path"]]
        shifted = 1 / (1 + math.exp(-(0.5 * single["logit"] + 1.0)))
        assert row["probability_1"] == single["probability"]
        assert row["probability_2"] == pytest.approx(shifted, abs=1e-6)
        mean = (row["probability_1"] + row["probability_2"]) / 2
        assert row["probability"] == pytest.approx(mean, abs=1e-6)
        assert row["predicted"] == int(row["probability"] >= result.report["threshold"])
        assert row["logit"] is None
        alike = (row["probability_1"] >= scored.report["threshold"]) == (
            row["probability_2"] >= 0.9
        )
        assert alike or "models_disagree" in row["review_reason"]
        assert single["decision"] == "accept" or row["decision"] == "review"


def test_a_model_that_is_replaced_while_a_run_lasts_ends_it(
    trained: SimpleNamespace, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Path(shutil.copytree(trained.bundle, tmp_path / "model"))
    run_shards = scoring.run_shards_here

    def replace_and_run(*given: Any) -> None:
        info = json.loads((bundle / "bundle.json").read_text())
        (bundle / "bundle.json").write_text(json.dumps(info | {"seed": info["seed"] + 1}))
        run_shards(*given)

    monkeypatch.setattr(scoring, "run_shards_here", replace_and_run)
    spec = ScoreSpec(input=str(phantoms), model=str(bundle), out=str(tmp_path / "run"))
    with pytest.raises(BundleError, match=r"model holds the bundle .* and the run began with"):
        score(spec, HERE, Recorder())
    assert not list((tmp_path / "run" / "_shards").glob("part-*"))
