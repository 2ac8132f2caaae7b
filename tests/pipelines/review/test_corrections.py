import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.data.manifest import build_manifest
from orchestrator.data.schema import CLASS_NAMES, escape_path
from orchestrator.errors import DataError
from orchestrator.evaluation.metrics import point_metrics
from orchestrator.pipelines.review.corrections import import_corrections, load_answers
from orchestrator.runs.run_dir import RunDir
from tests.pipelines.review.make_run import make_run

Given = tuple[int, str]


def export(run: RunDir, answers: Sequence[Given], name: str = "corrections.csv") -> Path:
    """What the worklist exports."""
    rows = pq.read_table(run.predictions).to_pylist()
    lines = ['"row","path","sha256","answer","reviewed_at"']
    for row, answer in answers:
        cells = (row, f"'{rows[row]['path']}", rows[row]["sha256"], answer, "2026-01-31T02:00:00Z")
        lines.append(",".join(f'"{cell}"' for cell in cells))
    path = run.path.with_name(name)
    path.write_text("\r\n".join(lines) + "\r\n")
    return path


def test_answers_correct_the_labels_the_metrics_and_the_table_for_training(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tmp_path / "in")
    rows = pq.read_table(run.predictions).to_pylist()
    labels = [row["label"] for row in rows]
    answers = [(0, "PNEUMONIA"), (1, "normal"), (2, "NORMAL"), (15, "PNEUMONIA"), (16, "UNSURE")]
    result = import_corrections(run.path, export(run, answers))
    report = result.report
    assert report == json.loads(run.corrections_json.read_text())
    assert (report["num_answers"], report["num_unsure"]) == (5, 1)
    assert labels[0] == labels[1] == labels[2] == 0 and labels[15] == 1
    assert report["num_changed"] == 1
    # Of 0, 0, 0, 1 the reader calls the first ill: 3 of 4 agree; by chance (2·3 + 2·1)/16.
    found = report["agreement"]["labels"]
    assert (found["num_images"], found["num_agreed"]) == (4, 3)
    assert found["kappa"]["value"] == pytest.approx((0.75 - 0.5) / 0.5)
    called = [row["predicted"] for row in rows]
    assert report["agreement"]["model"]["num_agreed"] == sum(
        called[row] == answer for row, answer in ((0, 1), (1, 0), (2, 0), (15, 1))
    )
    probabilities = [row["probability"] for row in rows]
    corrected = [1, *labels[1:]]
    for name, values in (("before", labels), ("after", corrected)):
        expected = point_metrics(values, probabilities, 0.5)
        for metric in ("sensitivity", "auroc"):
            assert report[name]["metrics"][metric]["value"] == pytest.approx(expected[metric])
    stored = pq.read_table(run.corrections).to_pylist()
    assert [(row["row"], row["answer"]) for row in stored] == [
        (0, 1), (1, 0), (2, 0), (15, 1), (16, None)
    ]  # fmt: skip
    # The table lists every image but the unsure one, under its reader's label.
    table = build_manifest(run.corrected, 100).table.to_pylist()
    assert len(table) == 19
    by_name = {Path(row["path"]).name: row for row in table}
    assert by_name[Path(rows[0]["path"]).name]["label"] == 1
    assert Path(rows[16]["path"]).name not in by_name
    assert {row["code"] for row in table} == {None}
    assert {row["patient_id"] for row in table} <= {row["patient_id"] for row in rows}


def test_without_labels_the_reader_is_compared_with_the_model_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tmp_path / "in", labelled=False)
    answers = [(row, CLASS_NAMES[row >= 10]) for row in range(20)]
    arguments = ["review", str(run.path), "--import", str(export(run, answers))]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    assert "20 answers, 0 of them unsure; 0 labels changed" in said.output
    assert "reader and model agree on 13 of 20 images, Cohen's kappa 0.300, 95% i" in said.output
    report = json.loads(run.corrections_json.read_text())
    assert set(report["agreement"]) == {"model"}
    assert report["before"] is None
    assert report["after"]["num_images"] == pq.read_table(run.corrected).num_rows == 20


def test_a_name_that_is_no_utf8_is_found_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tmp_path / "in", 8)
    rows = pq.read_table(run.predictions)
    name = b"NORMAL/=1+\xff.jpeg"
    paths = [escape_path(name), *rows["path"].to_pylist()[1:]]
    for part in run.predictions.iterdir():
        part.unlink()
    pq.write_table(
        rows.set_column(rows.schema.get_field_index("path"), "path", [paths]),
        run.predictions / "part-00000.parquet",
    )
    import_corrections(run.path, export(run, [(0, "PNEUMONIA")]))
    first = pq.read_table(run.corrected)["path"][0].as_py()
    assert first == bytes(tmp_path / "in") + b"/" + name


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("999,x,{sha},NORMAL,", "line 2: row '999' is no row of this run's predictions"),
        ("=1,x,{sha},NORMAL,", "line 2: row '=1' is no row"),
        ("0,x,abc,NORMAL,", "line 2: row 0 has another sha256 in this run"),
        ("0,x,{sha},ill,", "line 2: answer 'ill'; expected NORMAL, PNEUMONIA, UNSURE or nothing"),
        ("0,x,{sha},NORMAL,,1", "line 2: received 1 values too many"),
        ("0,x,{sha}", "line 2: received 2 values too few"),
        ("0,x,{sha},NORMAL,\n0,x,{sha},NORMAL,", "line 3: row 0 appears twice"),
        ("0,x,{sha},,", "holds no answer"),
    ],
)
def test_a_line_that_is_no_answer_is_named(line: str, message: str, tmp_path: Path) -> None:
    source = tmp_path / "c.csv"
    source.write_text("row,path,sha256,answer,reviewed_at\n" + line.format(sha="ab") + "\n")
    with pytest.raises(DataError, match=message):
        load_answers(source, pa.table({"row": [0, 1], "sha256": ["ab", "cd"]}))


def test_a_spreadsheets_semicolons_are_read_and_other_tables_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tmp_path / "in", 8)
    source = export(run, [(0, "PNEUMONIA")])
    source.write_text("\ufeff" + source.read_text().replace(",", ";"))
    assert import_corrections(run.path, source).report["num_changed"] == 1
    assert run.corrections.exists()
    source.write_text("path,label\na,1\n")
    with pytest.raises(
        DataError, match="has no columns row, sha256, answer; columns found: 'path'"
    ):
        import_corrections(run.path, source)
