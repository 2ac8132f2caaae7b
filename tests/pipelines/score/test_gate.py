"""What scoring does with images that the model was not made for; the rules are in `scope.py`."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.cli.summaries import score_summary
from orchestrator.config.specs import Resources, ScoreSpec
from orchestrator.data.terms import scoring_terms
from orchestrator.errors import DriftError
from orchestrator.pipelines.score.score import score
from tests.conftest import Recorder, keep_in_process
from tests.data.make_images import make_dataset, to_bytes
from tests.data.make_out_of_scope import crop, invert

pytestmark = pytest.mark.ray
CHESTS = 6
PLANTED = {
    "cut.png": "out_of_scope_aspect",
    "inverted.png": "out_of_scope_inverted",
    "lateral.dcm": "out_of_scope_view",
    "raw.dcm": "out_of_scope_intent",
    "slice.dcm": "out_of_scope_modality",
}
HEADERS = {
    "lateral.dcm": {"ViewPosition": "LL", "Modality": "DX"},
    "raw.dcm": {"PresentationIntentType": "FOR PROCESSING", "Modality": "DX"},
    "slice.dcm": {"Modality": "CT"},
    "frontal.dcm": {
        "ViewPosition": "PA",
        "Modality": "DX",
        "PresentationIntentType": "FOR PRESENTATION",
    },
}
FOUND = CHESTS + len(PLANTED) + 1


@pytest.fixture(scope="module")
def mixed(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six phantoms, and one cut, inverted, or as DICOM with headers of one sort and another."""
    folder = tmp_path_factory.mktemp("mixed")
    paths = sorted(phantoms.rglob("*.jpeg"))[:CHESTS]
    for number, path in enumerate(paths):
        (folder / f"{number}.jpeg").write_bytes(path.read_bytes())
    grey = np.asarray(Image.open(paths[0]).convert("L"))
    Image.fromarray(crop(np.random.default_rng(0), grey)).save(folder / "cut.png")
    Image.fromarray(invert(grey)).save(folder / "inverted.png")
    for name, header in HEADERS.items():
        (folder / name).write_bytes(to_bytes(make_dataset(grey, 8, **header)))
    return folder


def run(trained: SimpleNamespace, folder: Path, out: Path, **fields: Any) -> Any:
    spec = ScoreSpec(input=(str(folder),), model=(str(trained.bundle),), out=str(out), **fields)
    return score(spec, Resources(), Recorder())


def test_images_out_of_scope_are_scored_marked_and_counted(
    trained: SimpleNamespace, mixed: Path, tmp_path: Path
) -> None:
    result = run(trained, mixed, tmp_path / "run")
    rows = {row["path"]: row for row in pq.read_table(result.run / "predictions").to_pylist()}
    assert len(rows) == FOUND and all(row["probability"] is not None for row in rows.values())
    for name, code in PLANTED.items():
        assert code in rows.pop(name)["scope"].split(",")
    assert [row["scope"] for row in rows.values()] == ["in_scope"] * (CHESTS + 1)
    scope = result.report["scope"]
    assert scope == json.loads((result.run / "report.json").read_text())["scope"]
    assert (scope["judged"], scope["populations"]) == (FOUND, ["phantoms"])
    assert scope["out_of_scope"] == len(PLANTED)
    (root,) = scope["by_root"]
    assert root["name"] == str(mixed)
    assert root["counts"]["in_scope"] == CHESTS + 1
    assert all(root["counts"][code] for code in PLANTED.values())
    page = (result.run / "report.html").read_text()
    assert "trained on images of: <strong>phantoms</strong>" in page
    assert all(f">{code}<" in page.replace("<wbr>", "") for code in PLANTED.values())
    said = "\n".join(score_summary(result))
    assert "out of scope" in said and "out_of_scope_aspect" in said and "phantoms" in said


def test_they_are_rejected_where_that_is_asked_for(
    trained: SimpleNamespace, mixed: Path, tmp_path: Path
) -> None:
    result = run(trained, mixed, tmp_path / "run", out_of_scope="reject", hash_paths=True)
    counts, scope = result.report["counts"], result.report["scope"]
    assert counts["found"] == FOUND == counts["scored"] + counts["rejected"]
    assert counts["rejected"] == scope["out_of_scope"] == len(PLANTED)
    rejected = pq.read_table(result.run / "rejected.parquet").to_pylist()
    assert all(row["code"].startswith("out_of_scope_") for row in rejected)
    assert all("with --out-of-scope mark it is scored" in row["message"] for row in rejected)
    assert all(len(row["sha256"]) == 64 for row in rejected)  # by which a patient is forgotten
    assert scope["by_root"][0]["name"] is None  # as the tables, which name no file


def test_an_earlier_run_counts_only_where_it_did_the_same_with_images_out_of_scope() -> None:
    marked = scoring_terms(ScoreSpec(input=("x",)), ["a"])
    rejected = scoring_terms(ScoreSpec(input=("x",), out_of_scope="reject"), ["a"])
    assert "out_of_scope" not in marked  # as runs of earlier versions stored it
    assert marked != rejected


def test_images_of_another_machine_drift_and_the_same_ones_do_not(
    trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    paths = sorted(phantoms.rglob("*.jpeg"))
    for name, gamma in (("same", 1.0), ("other", 2.2)):
        (tmp_path / name).mkdir()
        for number, path in enumerate(paths[:: 2 if gamma == 1 else 3]):
            grey = np.asarray(Image.open(path).convert("L")) / 255.0
            changed = Image.fromarray(np.rint(255 * grey**gamma).astype(np.uint8))
            changed.save(tmp_path / name / f"{number}.png")

    def scored(*inputs: str) -> Any:
        given = ["score", *inputs, "--model", str(trained.bundle), "--fail-on-drift"]
        return CliRunner().invoke(app, [*given, "--out", f"run-{len(inputs)}"])

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        keep_in_process(patch)
        assert scored("same").exit_code == 0
        drifted = scored("same", "other")
    assert isinstance(drifted.exception, DriftError)
    told = str(drifted.exception)
    assert "mean grey level" in told and f"(root {tmp_path / 'other'})" in told
    assert "predictions  " in drifted.output  # all is told, and the run is whole
    run = tmp_path / "run-2"
    assert (run / "_SUCCESS").exists()
    drift = json.loads((run / "report.json").read_text())["drift"]
    moved = {
        (group["kind"], Path(group["name"]).name)
        for group in drift["groups"]
        if any(of["drifted"] for of in group["figures"])
    }
    assert ("root", "other") in moved and ("root", "same") not in moved
    assert "Drifted: " in (run / "report.html").read_text()
    calm = json.loads((tmp_path / "run-1" / "report.json").read_text())["drift"]
    assert not calm["drifted"] and calm["groups"][0]["images"] == 80
    assert {of["name"] for of in calm["groups"][0]["figures"]} >= {"logit", "rejected", "distance"}
