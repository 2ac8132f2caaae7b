"""Two models on the same images: pairing, accounting, verdict, page. What scores is a stand-in."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import orchestrator.pipelines.replacement.compare_models as comparing
from orchestrator.cli.summaries import models_compare_summary
from orchestrator.config.replacement import ModelsCompareSpec
from orchestrator.config.specs import Resources, ScoreSpec
from orchestrator.data.manifest import build_manifest, write_manifest
from orchestrator.data.parquet import write_parquet
from orchestrator.data.schema import PREDICTIONS, REJECTED
from orchestrator.errors import BundleError, ClusterError, DataError
from orchestrator.evaluation.figures import Calibration
from orchestrator.evaluation.report.replacement import render_replacement_html
from orchestrator.model.bundle import load_info
from orchestrator.pipelines.replacement.compare_models import compare_models
from orchestrator.runs.run_dir import RunDir
from tests.conftest import Recorder
from tests.registry.bundles import make_bundle

THRESHOLD = 0.5
Outputs = Callable[[dict[str, Any], str], dict[str, Any] | None]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """240 patients at two sites, one image each, and a file without a label."""
    for number in range(240):
        folder = tmp_path / "data" / f"site{number % 2}" / ("NORMAL", "PNEUMONIA")[number // 120]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:08d}_000.png").write_bytes(b"")
    (tmp_path / "data" / "00000999_000.png").write_bytes(b"")
    return tmp_path / "data"


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """Bundles of a live model and a candidate; the calibration of the candidate is its own."""
    given = {"threshold": {"value": THRESHOLD, "rule": "fixed"}}
    live = make_bundle(tmp_path / "live", calibration={"slope": 1.0, "intercept": 0.0}, **given)
    other = {"slope": 2.0, "intercept": -0.5}
    return live, make_bundle(tmp_path / "candidate", seed=7, calibration=other, **given)


def stand_in(skills: dict[str, float], change: Outputs | None = None) -> Any:
    """What stands for a scoring run: logits by the skill of each model, the noise the same."""

    def score(spec: ScoreSpec, resources: Resources, reporter: Any) -> None:
        name = Path(str((spec.model or ("",))[0])).name
        run = RunDir(Path(str(spec.out)))
        manifest = build_manifest(Path(spec.input[0]), spec.shard_rows)
        scored, rejected = [], []
        reporter.begin("scoring", manifest.table.num_rows, "images")
        for row in manifest.table.to_pylist():
            noise = np.random.default_rng(row["row"]).normal()
            logit = skills[name] * (2 * (row["label"] or 0) - 1) + noise
            row |= {"sha256": row["path"], "logit": logit}
            kept = change(row, name) if change else row
            (rejected if kept is None else scored).append(kept or row | {"code": "bad"})
        reporter.advance(100)
        reporter.advance(len(scored) - 100)
        reporter.end()
        logits = np.array([row["logit"] for row in scored], np.float32)
        probabilities = load_info(Path(str((spec.model or ("",))[0]))).calibration.apply(logits)
        table = pa.Table.from_pylist(scored, PREDICTIONS)
        place = table.column_names.index("probability")
        table = table.set_column(place, "probability", pa.array(probabilities))
        write_parquet(run.predictions / "part-00000.parquet", table)
        write_parquet(run.rejected, pa.Table.from_pylist(rejected, REJECTED))
        write_manifest(manifest, run.manifest)
        run.success.touch()

    return score


@pytest.fixture
def compare(
    data: Path, models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Compares the two models by their skills, in `out`; with few resamples and no page."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
    few = functools.partial(comparing.measure_pair, num_resamples=100)
    monkeypatch.setattr(comparing, "measure_pair", few)
    monkeypatch.setattr(comparing, "render_replacement_html", lambda *_: "")

    def run(live: float, candidate: float, change: Any = None, /, **given: Any) -> Any:
        score = stand_in({"live": live, "candidate": candidate}, change)
        monkeypatch.setattr(comparing, "score", score)
        fields = {"live": str(models[0]), "candidate": str(models[1]), "data": str(data)}
        spec = ModelsCompareSpec(**fields | {"out": str(tmp_path / "out")} | given)
        return compare_models(spec, Resources(), Recorder())

    return run


def test_a_better_candidate_is_promoted_and_all_is_said(
    compare: Any, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "render_replacement_html", render_replacement_html)
    result = compare(0.7, 1.6, out=None, margin=0.05)
    report = result.report
    assert result.run.name.startswith("models-compare-")
    assert report["verdict"]["word"] == "promote"
    assert report["kind"] == "models-compare"
    for role, folder in zip(("live", "candidate"), models, strict=True):
        info = load_info(folder)
        assert report[role]["sha256"] == info.sha256
        assert report[role]["name"] == role
    assert report["files"] == {
        "compared": 240,
        "without a label": 1,
        "rejected by both": 0,
        "rejected by the live model alone": 0,
        "rejected by the candidate alone": 0,
        "changed between the two": 0,
        "found by one alone": 0,
    }
    assert (report["num_images"], report["num_patients"]) == (240, 240)
    # Logits of skill 0.7 and variance 1 fit a curve of slope 2 x 0.7; calibrated ones of 1.6 / 2
    slopes = [of["fitted"]["slope"] for of in report["calibration"]]
    assert slopes == pytest.approx([1.4, 1.6], abs=0.35)
    assert [d["name"] for d in report["groups"]["dimensions"]] == ["site_folder"]
    assert report["speed"]["live"]["num_images"] == 241
    assert report["speed"]["candidate"]["images_per_s"] > 0
    page = (result.run / "report.html").read_text()
    for text in ("Verdict", ">Promote<", "McNemar", "DeLong", "Site folder", "site1", "Slope"):
        assert text in page
    assert str(models[0].parent) not in page
    said = "\n".join(models_compare_summary(result))
    assert "verdict   promote" in said
    assert "left out  1 without a label" in said
    stored = json.loads((result.run / "report.json").read_text())
    assert stored == report
    assert (result.run / "_SUCCESS").exists()


def test_every_file_is_compared_or_counted(compare: Any) -> None:
    def change(row: dict[str, Any], name: str) -> dict[str, Any] | None:
        number = int(Path(row["path"]).name[:8])
        bad = {1: "live", 2: "candidate", 3: name, 4: name}
        if bad.get(number) == name:
            return None
        if number == 5 and name == "candidate":
            return row | {"sha256": "other bytes"}
        if number == 6 and name == "candidate":
            return row | {"path": "renamed.png"}
        return row

    result = compare(1.0, 1.0, change)
    assert result.report["files"] == {
        "compared": 240 - 6,
        "without a label": 1,
        "rejected by both": 2,
        "rejected by the live model alone": 1,
        "rejected by the candidate alone": 1,
        "changed between the two": 1,
        "found by one alone": 2,  # under either name
    }
    assert result.report["num_images"] == 234
    assert "2 rejected by both" in "\n".join(models_compare_summary(result))


def test_the_pairs_are_of_one_image_each(compare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    measure = comparing.measure_pair

    def spy(pair: Any, **given: Any) -> Any:
        seen.append(pair)
        return measure(pair, **given)

    monkeypatch.setattr(comparing, "measure_pair", spy)
    compare(1.0, 1.5)
    (pair,) = seen
    signs = 2.0 * pair.labels - 1
    # The same noise: calibrated log-odds of the one follow from those of the other
    noise = pair.logits[0] - signs
    np.testing.assert_allclose(pair.logits[1], 2 * (1.5 * signs + noise) - 0.5, atol=1e-5)
    found = Calibration(2.0, -0.5).apply(1.5 * signs + noise)
    np.testing.assert_allclose(pair.probabilities[1], found, atol=1e-6)
    assert len(set(pair.patients)) == 240


def test_a_bundle_against_itself_is_kept(compare: Any, models: tuple[Path, Path]) -> None:
    report = compare(1.0, 1.0, candidate=str(models[0])).report
    assert report["verdict"] == {"word": "keep", "reasons": ["both are the same bundle"]}


def test_images_of_a_training_judge_nothing(
    compare: Any, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "fingerprint", lambda rows: "f" * 16)  # that of both bundles
    verdict = compare(0.5, 2.0).report["verdict"]
    assert verdict["word"] == "undecided"
    assert verdict["reasons"] == [
        "these are the images that the live model was trained on",
        "these are the images that the candidate was trained on",
    ]


def test_few_patients_judge_nothing(compare: Any, data: Path) -> None:
    for path in sorted(data.rglob("NORMAL/*.png"))[:110]:
        path.unlink()
    report = compare(0.5, 2.0, data=str(data)).report
    assert report["verdict"]["word"] == "undecided"
    assert "are too few patients; a verdict needs 20 of each" in report["verdict"]["reasons"][0]
    assert report["grounds"]["endpoints"] == {}


def test_a_comparison_that_was_stopped_goes_on(
    compare: Any, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise ClusterError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(comparing, "pair_runs", fail)
        with pytest.raises(ClusterError, match="no space"):
            compare(1.0, 1.0)
    monkeypatch.setattr(comparing, "score", fail)  # both are scored
    spec = ModelsCompareSpec(
        live=str(models[0]),
        candidate=str(models[1]),
        data=str(models[0].parent / "data"),
        out=str(models[0].parent / "out"),
    )
    assert compare_models(spec, Resources(), Recorder()).report["num_images"] == 240


def test_what_cannot_be_compared_is_told_before_anything_is_scored(
    compare: Any, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="no image has a label; expected class folders"):
        compare(1.0, 1.0, data=str(tmp_path / "flat"))
    with pytest.raises(BundleError, match="does not exist; expected a bundle"):
        compare(1.0, 1.0, candidate=str(tmp_path / "nothing"))
    with pytest.raises(DataError, match="no labelled image was scored by both models"):
        compare(1.0, 1.0, lambda row, name: None if row["label"] is not None else row, out=None)
