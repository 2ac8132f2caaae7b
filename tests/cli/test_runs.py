import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from click.testing import Result
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import DataError, SpecError
from orchestrator.runs.atomic import write_json
from tests.data.known.runs import make_nights
from tests.data.test_predictions import make_run
from tests.pipelines.forget.scored import InputFile, make_scored


def prune(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["runs", "prune", *arguments])


def test_prune_names_what_goes_before_it_goes(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    make_nights(root, tmp_path / "in", 14)
    done = prune("--keep", "2", str(root))
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == f"removing {root / 'r1'}"
    assert lines[-2:] == [
        f"removing 2 more, the last of them {root / 'r12'}",
        "12 finished scoring runs go, 2 stay",
    ]
    assert "indexing what 14 runs" in done.stderr
    assert sorted(path.name for path in root.iterdir()) == ["_known", "r13", "r14"]
    assert prune("--keep", "2", str(root)).stdout == "0 finished scoring runs go, 2 stay\n"


def test_prune_keeps_one_at_least_and_needs_a_folder(tmp_path: Path) -> None:
    make_nights(tmp_path / "runs", tmp_path / "in", 2)
    assert prune(str(tmp_path / "runs")).exit_code == 2  # how many to keep is never guessed
    assert prune("--keep", "0", str(tmp_path / "runs")).exit_code == 2
    assert (tmp_path / "runs" / "r1").is_dir()
    assert isinstance(prune("--keep", "1", str(tmp_path / "none")).exception, DataError)


def test_report_draws_the_last_nights_and_writes_metrics_of_the_newest(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for day, rejected in enumerate((2, 0, 3, 1), 1):
        stored = stored_report(10 * day, rejected, drifted=day == 4)
        if day == 1:  # as an earlier version has it
            stored = {"counts": stored["counts"]}
        if day == 4:
            stored["shadow"] = stored_shadow()
        write_json(make_run(root / f"r{day}", day, {"a": 0.9}).report_json, stored)
    metrics = tmp_path / "orchestrator.prom"
    done = CliRunner().invoke(
        app, ["runs", "report", str(root), "--last", "3", "--metrics-file", str(metrics)]
    )
    assert done.exit_code == 0, done.output
    page = (root / "report.html").read_text()
    assert [name in page for name in ("r1", "r2", "r3", "r4")] == [False, True, True, True]
    assert page.index("r4") < page.index("r2")
    assert "damaged" in page and "mean grey level" in page
    said = (
        "lite@3 calls 5 of 30 images differently: 4 PNEUMONIA and 1 NORMAL; 9 not scored (a fault)"
    )
    assert said in page
    lines = dict(line.rsplit(" ", 1) for line in metrics.read_text().splitlines() if line[0] != "#")
    label = f'root="{root}"'
    assert lines[f"orchestrator_images_scored{{{label}}}"] == "39"
    assert lines[f'orchestrator_files_rejected{{{label},code="damaged"}}'] == "1"
    assert lines[f"orchestrator_images_out_of_scope{{{label}}}"] == "2"
    assert lines[f"orchestrator_drifted{{{label}}}"] == "1"
    assert lines[f"orchestrator_images_shadow_differs{{{label}}}"] == "5"
    assert lines[f"orchestrator_images_shadow_missing{{{label}}}"] == "9"
    assert "orchestrator_images_to_review" not in metrics.read_text()  # no rule, no figure
    assert float(lines[f"orchestrator_ended_timestamp_seconds{{{label}}}"]) > 1.7e9
    whole = CliRunner().invoke(app, ["runs", "report", str(root), "--out", str(tmp_path / "all")])
    assert whole.exit_code == 0 and "r1" in (tmp_path / "all").read_text()
    its_own = root / "r3" / "report.html"
    its_own.write_text("the run's own")
    refused = CliRunner().invoke(app, ["runs", "report", str(root / "r3")])
    assert isinstance(refused.exception, SpecError)
    assert its_own.read_text() == "the run's own"
    (root / "r2" / "report.json").write_text("{")
    for folder in (root, tmp_path / "none"):
        failed = CliRunner().invoke(app, ["runs", "report", str(folder)])
        assert isinstance(failed.exception, DataError)


def stored_report(found: int, rejected: int, drifted: bool) -> dict[str, Any]:
    figures = [{"name": "brightness", "drifted": drifted}, {"name": "logit", "drifted": False}]
    return {
        "counts": {
            "found": found,
            "scored": found - rejected,
            "rejected": rejected,
            "scored_before": 0,
            "rejected_before": 0,
            "rejected_by_code": {"damaged": rejected} if rejected else {},
            "called": {"NORMAL": found - rejected - 1, "PNEUMONIA": 1},
        },
        "scope": {"judged": found - rejected, "out_of_scope": 2},
        "drift": {
            "drifted": drifted,
            "groups": [{"kind": "all", "name": "", "images": found, "figures": figures}],
        },
    }


def stored_shadow() -> dict[str, Any]:
    return {
        "name": "/shared/models:staging",
        "model": {"version": "lite@3"},
        "fault": None,
        "num_images": 30,
        "not_scored": {"a fault": 9},
        "calls": {"both_normal": 20, "shadow_only": 4, "live_only": 1, "both": 5},
    }


def test_nights_without_a_shadow_have_no_column_of_it(tmp_path: Path) -> None:
    write_json(make_run(tmp_path / "r1", 1, {"a": 0.9}).report_json, stored_report(9, 0, False))
    done = CliRunner().invoke(app, ["runs", "report", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "Shadow" not in (tmp_path / "report.html").read_text()


def test_forget_says_what_goes_and_ends_badly_where_rows_may_remain(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef")
    root = tmp_path / "runs"
    files = [InputFile("1.dcm", "doe", "4711"), InputFile("2.dcm", "roe", "4712")]
    files.append(InputFile("3.dcm", "", code="damaged"))
    make_scored(root / "r1", files, key=key.read_bytes(), key_file=key)
    told = ["runs", "forget", "-", str(root), "--patient-key", str(key)]
    done = CliRunner().invoke(app, told, input="4711\n")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "r1: removing 1 scored",
        "1 of 1 finished scoring run had rows of this patient",
        "rejected files that name no patient: 1 in 1 run; name those of this one by --path",
    ]
    record = (root / "r1" / "forgotten.json").read_text()
    assert "4711" not in record and "on request" in record
    make_scored(root / "r2", files, key=b"fedcba9876543210", kept=False)
    (root / "r2" / "predictions" / "part-00000.parquet").rename(tmp_path / "kept")
    pq.write_table(pq.read_table(tmp_path / "kept")[1:], root / "r2/predictions/part-00000.parquet")
    done = CliRunner().invoke(app, told, input="4711\n")
    assert isinstance(done.exception, DataError)
    assert "1 folder: r2: its key was random and was not kept" in str(done.exception)
    done = CliRunner().invoke(app, [*told, "--path", str(tmp_path), "--json"], input="4711\n")
    assert done.exit_code == 0 and json.loads(done.stdout)["removed"] == {}
