"""A finished scoring run of DICOM X-rays with probabilities of our choice, made without a model."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator.data.listing.inputs import list_inputs
from orchestrator.data.manifest import load_manifest, write_listed
from orchestrator.data.parquet import write_parquet
from orchestrator.data.schema import PREDICTIONS
from orchestrator.evaluation.report.heat_picture import draw_heatmap
from orchestrator.evaluation.report.report import build_report, render_html
from orchestrator.evaluation.tally import Tally
from orchestrator.pipelines.score.tables import schema
from orchestrator.runs.atomic import write_json, write_text
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.states import Status
from tests.data.make_images import make_chest, make_dataset, to_bytes

HASH = "ab" * 32


def write_xray(
    path: Path,
    number: int,
    study: int | None = None,
    *,
    pixels: npt.NDArray[np.uint8] | None = None,
    **elements: Any,
) -> bytes:
    """Writes a DX of patient `study`, by itself in a study unless that is given."""
    study = number if study is None else study
    given = {
        "StudyInstanceUID": f"1.2.826.0.1.{study}",
        "SeriesInstanceUID": f"1.2.826.0.1.{study}.1",
        "SOPInstanceUID": f"1.2.826.0.1.{study}.1.{number}",
        "PatientID": f"MRN-{study}",
        "PatientName": f"Doe-{study}^Jane",
        "PatientBirthDate": "19700102",
        "PatientSex": "F",
        "StudyDate": "20260131",
        "StudyTime": "101500",
        "StudyID": f"S{study}",
        "AccessionNumber": f"A{study}",
        "ReferringPhysicianName": "Ward^North",
    }
    if pixels is None:
        pixels = np.roll(make_chest(40, 48), number, axis=1)
    ds = make_dataset(pixels, 8, **(given | elements))
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    data = to_bytes(ds)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def make_run(
    folder: Path,
    images: Path,
    probabilities: Sequence[float],
    *,
    heatmaps: Sequence[int] = (),
    hashes: str | list[str] = HASH,
    decision: str | None = None,
) -> RunDir:
    """Writes the run that scoring a folder would leave, its rows in the order of the paths.

    Args:
        folder: of the run.
        images: folder of the images, flat.
        probabilities: one a file.
        heatmaps: rows that have one.
        hashes: of the model, or of several.
        decision: of each image by the review rule.
    """
    run = RunDir(folder)
    listed = list_inputs([images])
    write_listed(listed.rows(), listed.roots, listed.metadata, run.manifest, 8)
    rows: list[dict[str, Any]] = load_manifest(run.manifest).table.to_pylist()
    for row, probability in zip(rows, probabilities, strict=True):
        row |= {
            "sha256": hashlib.sha256((images / row["path"]).read_bytes()).hexdigest(),
            "patient_id": f"hmac:{row['row']:032x}",
            "width_px": 40,
            "height_px": 48,
            "probability": probability,
            "logit": float(np.log(probability / (1 - probability))),
            "predicted": int(probability >= 0.5),
            "decision": decision,
            "margin": None if decision is None else 1.0,
        }
    table = pa.Table.from_pylist(rows, PREDICTIONS)
    write_parquet(run.predictions / "part-00000.parquet", table)
    rejected = schema.REJECTED.empty_table()
    write_parquet(run.rejected, rejected)
    for row in heatmaps:
        run.heatmaps.mkdir(exist_ok=True)
        heat = np.zeros((6, 5), np.float32)
        heat[2, 3] = 1.0
        drawn = draw_heatmap(make_chest(400, 480), heat, probabilities[row], 0.5)
        drawn.save(run.heatmaps / f"{row:08d}.png")
    tally = Tally(0.5)
    tally.add(table, rejected)
    report = build_report(
        tally,
        found=len(rows),
        threshold_rule="youden",
        model={"backbone": "tiny", "sha256": hashes},
        run={"run_id": folder.name},
        num_resamples=20,
    )
    report |= {"scope": None, "drift": None}
    write_json(run.report_json, report)
    write_text(run.report_html, render_html(report, tally))
    run.write_status(
        Status.SUCCEEDED, run_uuid="0123abcd", succeeded_at="2026-02-01T03:04:05+00:00"
    )
    run.success.touch()
    return run
