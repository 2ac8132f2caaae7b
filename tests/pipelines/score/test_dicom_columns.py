"""`--dicom-columns`: what headers say stands in every table of a run, if it is asked for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.config.specs import IngestSpec, Resources, ScoreSpec
from orchestrator.data.decode.dicom_facts import FACT_NAMES
from orchestrator.data.decode.images import decode
from orchestrator.data.limits import Limits
from orchestrator.data.manifest import load_manifest
from orchestrator.data.predictions import read_predictions
from orchestrator.data.schema import MANIFEST, PREDICTIONS, REJECTED, dicom_fields
from orchestrator.errors import SpecError
from orchestrator.pipelines.prepare.ingest import forget_hashed_patients, ingest
from orchestrator.pipelines.score.score import score
from tests.conftest import Recorder
from tests.data.decode.test_dicom_facts import FULL, written
from tests.data.make_images import make_chest, write_picture

pytestmark = pytest.mark.ray

KEY = b"0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(written(**FULL))
    (folder / "b.dcm").write_bytes(written(**FULL, BitsAllocated=32))
    (folder / "c.dcm").write_bytes(written(**FULL | {"PatientSex": "M", "PatientAge": "004Y"}))
    (folder / "d.png").write_bytes(write_picture(make_chest(), "png"))
    (tmp_path / "key").write_bytes(KEY)
    return folder


def run_score(trained: SimpleNamespace, source: Path, out: Path, **fields: Any) -> Path:
    spec = ScoreSpec(input=(str(source),), model=(str(trained.bundle),), out=str(out), **fields)
    return score(spec, Resources(), Recorder()).run


def tables_of(run: Path) -> list[pa.Table]:
    names = ("manifest.parquet", "predictions", "rejected.parquet")
    return [pq.read_table(run / name) for name in names]


def facts_of(path: Path, **kept: bool) -> dict[str, Any]:
    facts = decode(path.read_bytes(), 32, Limits(), KEY, **kept).facts
    return {name: None if facts is None else getattr(facts, name) for name in FACT_NAMES}


def test_every_table_has_the_facts_of_its_files(
    trained: SimpleNamespace, folder: Path, tmp_path: Path
) -> None:
    fields = {"dicom_columns": True, "patient_key_file": str(tmp_path / "key")}
    run = run_score(trained, folder, tmp_path / "run", **fields)
    manifest, predictions, rejected = tables_of(run)
    kept = dicom_fields(FACT_NAMES)
    assert manifest.schema.remove_metadata() == pa.schema([*MANIFEST, *kept])
    assert predictions.schema.remove_metadata() == pa.schema([*PREDICTIONS, *kept])
    assert rejected.schema.remove_metadata() == pa.schema([*REJECTED, *kept])
    expected = {name: facts_of(folder / name) for name in ("a.dcm", "c.dcm", "d.png")}
    expected["b.dcm"] = expected["a.dcm"]
    for table in (manifest, predictions, rejected):
        for row in table.to_pylist():
            assert {name: row[name] for name in FACT_NAMES} == expected[row["path"]]
    assert rejected["path"].to_pylist() == ["b.dcm"]
    assert expected["c.dcm"]["age_years"] == 4.0
    assert expected["c.dcm"]["study_uid"].startswith("hmac:")
    assert load_manifest(run / "manifest.parquet").table.column_names == MANIFEST.names
    assert read_predictions(run)["sex"].dropna().tolist() == ["F", "M"]


@pytest.mark.slow
def test_some_columns_uids_as_they_are_and_hashed_paths(
    trained: SimpleNamespace, folder: Path, tmp_path: Path
) -> None:
    fields = {"dicom_columns": ["sex", "sop_uid"], "keep_uids": True, "hash_paths": True}
    for table in tables_of(run_score(trained, folder, tmp_path / "run", **fields)):
        assert [name for name in FACT_NAMES if name in table.column_names] == ["sop_uid", "sex"]
        uids = {row["path"]: row["sop_uid"] for row in table.to_pylist()}
        assert all(path.startswith("hmac:") for path in uids)
        assert set(uids.values()) <= {FULL["SOPInstanceUID"], None}
        assert FULL["SOPInstanceUID"] in uids.values()


@pytest.mark.slow
def test_without_the_flag_tables_are_as_ever(
    trained: SimpleNamespace, folder: Path, tmp_path: Path
) -> None:
    manifest, predictions, rejected = tables_of(run_score(trained, folder, tmp_path / "run"))
    assert manifest.schema.remove_metadata() == MANIFEST
    assert (predictions.schema, rejected.schema) == (PREDICTIONS, REJECTED)


@pytest.mark.slow
def test_an_ingested_data_set_hands_its_columns_on(
    trained: SimpleNamespace, folder: Path, tmp_path: Path
) -> None:
    def ingested(name: str, **fields: Any) -> Path:
        out = tmp_path / name
        spec = IngestSpec(input=str(folder), out=str(out), image_size=64, **fields)
        ingest(spec.model_copy(update={"max_rejected_fraction": 1.0}), Resources(), Recorder())
        return out

    with_columns = ingested("with", dicom_columns=True, patient_key_file=str(tmp_path / "key"))
    run = run_score(trained, with_columns, tmp_path / "run", dicom_columns=["sex", "study_uid"])
    for table in tables_of(run):
        for row in table.to_pylist():
            if row["path"] != "b.dcm":
                expected = facts_of(folder / row["path"])
                assert [row["sex"], row["study_uid"]] == [expected["sex"], expected["study_uid"]]
    with pytest.raises(SpecError, match="another --keep-uids"):
        run_score(trained, with_columns, tmp_path / "x", dicom_columns=True, keep_uids=True)
    with pytest.raises(SpecError, match="lacks sex"):
        run_score(trained, ingested("without"), tmp_path / "x", dicom_columns=["sex"])
    forget_hashed_patients(with_columns / "images", 1)
    assert not list((with_columns / "images").glob("*.arrow"))
