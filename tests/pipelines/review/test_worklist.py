import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from orchestrator.errors import DataError
from orchestrator.evaluation.report.worklist_page import render_worklist
from orchestrator.pipelines.review.scored_run import open_scored
from orchestrator.pipelines.review.worklist import write_worklist
from orchestrator.runs.states import Status
from tests.conftest import Recorder
from tests.pipelines.review.make_run import make_run


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_page_holds_the_least_clear_images_first_and_runs_one_script(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tmp_path / "in", 8)
    run.heatmaps.mkdir()
    Image.new("RGB", (60, 48)).save(run.heatmaps / "00000004.png")
    (tmp_path / "in" / open_scored(run.path).table["path"][3].as_py()).write_bytes(b"other bytes")
    recorder = Recorder()
    result = write_worklist(run.path, 4, recorder)
    assert (result.page, result.num_images, result.num_missing) == (run.worklist, 3, 1)
    assert recorder.counts == [4]
    page = run.worklist.read_text()
    data = data_of(page)
    # Row 3 lies on the threshold; its file has changed. Row 2 and 4 are as near as each other.
    assert [item["row"] for item in data["items"]] == [2, 4, 1]
    assert data["key"] == "orchestrator-worklist-0123abcd"
    assert all(item["picture"].startswith("data:image/jpeg;base64,") for item in data["items"])
    assert [item["heatmap"] is not None for item in data["items"]] == [False, True, False]
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1 and f"script-src &#39;sha256-{digest}&#39;" in page
    assert "default-src &#39;none&#39;" in page
    assert "://" not in page.partition("<script")[0]


def test_left_to_a_person_comes_before_what_is_nearer_and_accepted(tmp_path: Path) -> None:
    scored = open_scored(make_run(tmp_path / "run", tmp_path / "in", 8).path)
    assert scored.least_clear(3).tolist() == [3, 2, 4]
    decision = scored.table["decision"].to_pylist()
    decision[7] = "review"
    place = scored.table.schema.get_field_index("decision")
    other = type(scored)(
        scored.run, scored.report, scored.table.set_column(place, "decision", [decision])
    )
    assert other.least_clear(3).tolist() == [3, 7, 2]
    without = open_scored(make_run(tmp_path / "old", tmp_path / "in2", 8, rule=False).path)
    assert without.least_clear(3).tolist() == [3, 2, 4]


def test_text_of_files_ends_no_script(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>.png"
    item = dict.fromkeys(("label", "reasons", "heatmap")) | {"row": 0, "path": evil}
    item |= {"sha256": "a", "picture": "data:,", "probability": 0.5, "called": "NORMAL"}
    page = render_worklist({"run": {"run_id": evil}, "intended_use": "x"}, "key", [item])
    assert page.count("<script") == 2
    assert data_of(page)["items"][0]["path"] == evil


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a finished scoring run; name the folder"):
        write_worklist(tmp_path, 5, Recorder())
    run = make_run(tmp_path / "run", tmp_path / "in", 8)
    for path in (tmp_path / "in").rglob("*.jpeg"):
        path.write_bytes(b"other bytes")
    with pytest.raises(DataError, match="none of the 5 images can be read any more"):
        write_worklist(run.path, 5, Recorder())


def test_a_damaged_table_is_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tmp_path / "in", 8)
    part = next(run.predictions.glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-40] + b"x" * 40)
    with pytest.raises(DataError, match="cannot be read"):
        open_scored(run.path)


def test_a_file_is_read_within_the_limits_that_it_was_scored_with(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tmp_path / "in", 8)
    run.write_status(Status.SUCCEEDED, limits={"max_pixels": 64})
    with pytest.raises(DataError, match="can be read any more"):
        write_worklist(run.path, 4, Recorder())
