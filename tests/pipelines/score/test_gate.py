"""What scoring does with images that the model was not made for; the rules are in `scope.py`."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from orchestrator.cli.summaries import score_summary
from orchestrator.config.specs import Resources, ScoreSpec
from orchestrator.pipelines.score.incremental import _terms
from orchestrator.pipelines.score.score import score
from tests.conftest import Recorder
from tests.data.make_out_of_scope import crop, invert

pytestmark = pytest.mark.ray
CHESTS, PLANTED = 6, {"cut.png": "out_of_scope_aspect", "inverted.png": "out_of_scope_inverted"}


@pytest.fixture(scope="module")
def mixed(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six phantoms, a half of one, and one with black and white exchanged."""
    folder = tmp_path_factory.mktemp("mixed")
    paths = sorted(phantoms.rglob("*.jpeg"))[:CHESTS]
    for number, path in enumerate(paths):
        (folder / f"{number}.jpeg").write_bytes(path.read_bytes())
    grey = np.asarray(Image.open(paths[0]).convert("L"))
    Image.fromarray(crop(np.random.default_rng(0), grey)).save(folder / "cut.png")
    Image.fromarray(invert(grey)).save(folder / "inverted.png")
    return folder


def run(trained: SimpleNamespace, folder: Path, out: Path, **fields: Any) -> Any:
    spec = ScoreSpec(input=(str(folder),), model=(str(trained.bundle),), out=str(out), **fields)
    return score(spec, Resources(), Recorder())


def test_images_out_of_scope_are_scored_marked_and_counted(
    trained: SimpleNamespace, mixed: Path, tmp_path: Path
) -> None:
    result = run(trained, mixed, tmp_path / "run")
    rows = {row["path"]: row for row in pq.read_table(result.run / "predictions").to_pylist()}
    assert len(rows) == CHESTS + 2 and all(row["probability"] is not None for row in rows.values())
    for name, code in PLANTED.items():
        assert code in rows.pop(name)["scope"].split(",")
    assert [row["scope"] for row in rows.values()].count("in_scope") >= CHESTS - 1
    scope = result.report["scope"]
    assert scope == json.loads((result.run / "report.json").read_text())["scope"]
    assert (scope["judged"], scope["populations"]) == (CHESTS + 2, ["phantoms"])
    assert scope["out_of_scope"] >= 2
    (root,) = scope["by_root"]
    assert root["name"] == str(mixed)
    assert root["counts"]["in_scope"] == CHESTS + 2 - scope["out_of_scope"]
    assert all(root["counts"][code] for code in PLANTED.values())
    page = (result.run / "report.html").read_text()
    assert "trained on images of: <strong>phantoms</strong>" in page
    assert all(f">{code}<" in page for code in PLANTED.values())
    said = "\n".join(score_summary(result))
    assert "out of scope" in said and "out_of_scope_aspect" in said and "phantoms" in said


def test_they_are_rejected_where_that_is_asked_for(
    trained: SimpleNamespace, mixed: Path, tmp_path: Path
) -> None:
    result = run(trained, mixed, tmp_path / "run", out_of_scope="reject", hash_paths=True)
    counts, scope = result.report["counts"], result.report["scope"]
    assert counts["found"] == CHESTS + 2 == counts["scored"] + counts["rejected"]
    assert counts["rejected"] == scope["out_of_scope"] >= 2
    rejected = pq.read_table(result.run / "rejected.parquet").to_pylist()
    assert all(row["code"].startswith("out_of_scope_") for row in rejected)
    assert all("with --out-of-scope mark it is scored" in row["message"] for row in rejected)
    assert scope["by_root"][0]["name"] is None  # as the tables, which name no file


def test_an_earlier_run_counts_only_where_it_did_the_same_with_images_out_of_scope() -> None:
    marked = _terms(ScoreSpec(input=("x",)), ["a"])
    rejected = _terms(ScoreSpec(input=("x",), out_of_scope="reject"), ["a"])
    assert "out_of_scope" not in marked  # as runs of earlier versions stored it
    assert marked != rejected
