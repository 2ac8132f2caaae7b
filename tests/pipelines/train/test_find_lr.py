import json
from pathlib import Path

import pytest

from orchestrator.config.specs import Resources, TrainSpec
from orchestrator.pipelines.train.find_lr import find_lr
from tests.conftest import Recorder

pytestmark = pytest.mark.ray


@pytest.mark.usefixtures("ray_cluster")
def test_find_lr_leaves_a_rate_a_curve_and_a_page(phantoms: Path, tmp_path: Path) -> None:
    spec = TrainSpec(
        data=str(phantoms),
        out=str(tmp_path / "out"),
        backbone="tiny",
        weights="none",
        image_size=64,
    )
    recorder = Recorder()
    result = find_lr(spec, Resources(workers=1), recorder)
    stored = json.loads((tmp_path / "out" / "lr.json").read_text())
    assert stored["rate"] == result.report["rate"]
    ends = {row["rate"]: row["loss"] for row in stored["trials"] if row["loss"] is not None}
    assert ends[stored["rate"]] == pytest.approx(min(ends.values()), rel=0.01)
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"suggested {stored['rate']:.2g}" in page
    assert any(f"learning rate {stored['rate']:.2g}" in line for line in recorder.lines)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "_SUCCESS",
        "audit.json",
        "lr.json",
        "manifest.parquet",
        "rejected.parquet",
        "report.html",
        "report.json",
        "spec.yaml",
        "splits.parquet",
        "status.json",
    }
