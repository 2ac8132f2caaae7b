"""What is handed to an auditor: it names no person and no file, and is the same each time."""

import hashlib
import io
import json
import shutil
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.data.parquet import open_parquet, write_parquet
from orchestrator.errors import BundleError, DataError
from orchestrator.hospital.audit import anonymise, write_audit_bundle
from orchestrator.runs.run_dir import RunDir
from tests.fixtures.stored import unpack

CANARIES = ("canary", "person1", "bacteria", "IM-0001", "broken.jpeg")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A finished run of an earlier version, with canaries in its report; its bundle beside it."""
    unpack(tmp_path)
    run = RunDir(tmp_path / "score_finished")
    report = json.loads(run.report_json.read_text())
    report["listing"] = {"folders": ["canary"]}
    report["scope"] = {
        "populations": [],
        "judged": 1,
        "out_of_scope": 0,
        "by_code": {},
        "by_root": [{"root": 0, "name": "/canary", "counts": {"in_scope": 1}}],
    }
    report["heatmaps"] = [{"path": "canary.dcm"}]
    report["shadow"] = {"images": [{"path": "canary"}]}
    report["run"]["run_id"] = "canary"
    run.report_json.write_text(json.dumps(report))
    return run


def test_nothing_in_it_names_a_person_or_a_file(run: RunDir, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["export", str(run.path), "--bundle-for-audit", str(tmp_path / "audit.zip"), "--json"]
    )
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)["audit"]
    data = (tmp_path / "audit.zip").read_bytes()
    assert made["sha256"] == hashlib.sha256(data).hexdigest()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}
    assert sorted(files) == [
        "environment.json",
        "hashes.json",
        "model-1/README.md",
        "predictions.parquet",
        "rejected.parquet",
        "report.html",
        "report.json",
    ]
    own = [str(tmp_path), *CANARIES]
    shas = open_parquet(next(run.predictions.glob("*.parquet"))).read()["sha256"].to_pylist()
    for name, content in files.items():
        if name != "model-1/README.md":
            assert not [word for word in [*own, *shas] if word.encode() in content], name
    predictions = pq.read_table(io.BytesIO(files["predictions.parquet"]))
    named = {"root", "path", "patient_id", "sha256"}
    assert not named & set(predictions.column_names)
    whole = pq.read_table(run.predictions)
    assert predictions["probability"] == whole["probability"]
    pairs = set(
        zip(whole["patient_id"].to_pylist(), predictions["patient"].to_pylist(), strict=True)
    )
    assert len(pairs) == len({patient for patient, _ in pairs}) > 1
    assert pq.read_table(io.BytesIO(files["rejected.parquet"])).column_names == [
        "row",
        "label",
        "code",
    ]
    hashes = json.loads(files["hashes.json"])
    assert hashes["files"]["report.html"] == hashlib.sha256(files["report.html"]).hexdigest()
    assert b"row 0" in files["report.html"] and b"AUROC" in files["report.html"]


def test_the_same_run_gives_the_same_bytes(run: RunDir, tmp_path: Path) -> None:
    first = write_audit_bundle(run.path, tmp_path / "a.zip")
    assert write_audit_bundle(run.path, tmp_path / "b.zip").sha256 == first.sha256


def test_without_its_bundle_or_its_tables_there_is_none(run: RunDir, tmp_path: Path) -> None:
    report = json.loads(run.report_json.read_text())
    report["model"]["sha256"] = "00" * 32
    run.report_json.write_text(json.dumps(report))
    with pytest.raises(BundleError, match="not the one that it was scored with"):
        write_audit_bundle(run.path, tmp_path / "a.zip")
    (tmp_path / "bundle" / "README.md").write_text("another card")
    with pytest.raises(BundleError, match=r"README.md"):
        write_audit_bundle(run.path, tmp_path / "a.zip")
    shutil.rmtree(tmp_path / "bundle")
    unpack(tmp_path)
    write_parquet(run.rejected, open_parquet(run.rejected).read().drop_columns(["code"]))
    with pytest.raises(DataError, match=r"rejected.parquet cannot be read"):
        write_audit_bundle(run.path, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_groups_that_are_named_by_folders_or_devices_stay() -> None:
    worst = {"dimension": "site_folder", "group": "canary"}
    dimensions = [{"name": name, "groups": [{"name": "canary"}]} for name in ("root", "device")]
    kept = {"name": "sex", "groups": [{"name": "female"}]}
    report = {
        "run": {"run_id": "canary"},
        "subgroups": {"dimensions": [*dimensions, kept], "worst": worst, "method": {}},
        "drift": {"groups": [{"kind": "device", "name": "canary"}, {"kind": "all", "name": "all"}]},
    }
    shown = anonymise(report, "0123")
    assert "canary" not in json.dumps(shown)
    assert shown["subgroups"]["dimensions"] == [kept]
    assert [group["kind"] for group in shown["drift"]["groups"]] == ["all"]
