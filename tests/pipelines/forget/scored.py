"""Finished scoring runs with all that one may hold of an image, made without a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from orchestrator.data import schema
from orchestrator.data.manifest import LISTED_KEY, Manifest, write_manifest
from orchestrator.data.pseudonym import keyed_hash
from orchestrator.evaluation.groups import GroupCodes
from orchestrator.evaluation.report.report import build_report
from orchestrator.evaluation.tally import Tally
from orchestrator.pipelines.review.corrections import Answer, _store_answers
from orchestrator.pipelines.review.scored_run import open_scored
from orchestrator.runs.atomic import write_json, write_text
from orchestrator.runs.run_dir import RunDir
from tests.data.known.runs import LIMITS, TERMS, sha

RUN = {"run_id": "r", "started_at": "2026-03-01T02:00:00+00:00"}


@dataclass(frozen=True)
class InputFile:
    """A file of the input, and how a run ends it.

    Args:
        path: below the root.
        content: what stands for its bytes.
        patient: id in the DICOM header; None for one without.
        listed: id that a column or its name tells.
        code: why it is rejected; with a patient it was decoded all the same, as out of scope.
        study: UID of its study, as `--dicom-columns` keeps it.
        origin: run and row that scored the same bytes under another name.
    """

    path: str
    content: str
    patient: str | None = None
    listed: str | None = None
    code: str | None = None
    study: str | None = None
    origin: tuple[str, int] | None = None


def make_scored(
    folder: Path,
    files: list[InputFile],
    *,
    day: int = 1,
    key: bytes | None = None,
    key_file: Path | None = None,
    root: str = "/data/xrays",
    kept: bool = True,
) -> RunDir:
    """Writes a finished run of shards of two files; `key` is that of its hashes."""
    run = RunDir(folder)
    rows = [
        {"row": n, "shard": n // 2, "root": 0, "path": file.path, "patient_id": file.listed}
        | {"size_bytes": len(file.content), "mtime_ns": 10**18, "label": n % 2}
        | {"patient_source": "filename" if file.listed else None}
        for n, file in enumerate(files)
    ]
    table = pa.Table.from_pylist(rows, schema.MANIFEST)
    table = table.replace_schema_metadata({LISTED_KEY: str(2 * 10**18).encode()})
    write_manifest(Manifest(table, (root.encode(),)), run.manifest)
    run.predictions.mkdir(parents=True)
    bad, known, shadow = [], [], []
    dicom = ["study_uid"] if any(file.study for file in files) else []
    for first in range(0, len(files), 2):
        scored = []
        for row, file in list(zip(rows, files, strict=True))[first : first + 2]:
            named = {name: row[name] for name in ("row", "root", "path", "label")}
            header = file.patient and key and keyed_hash(key, file.patient)
            about = {"patient_id": header or file.listed, "study_uid": file.study}
            if file.code:
                message = "what was found"
                about |= {"sha256": sha(file.content)} if file.patient else {}
                bad.append(named | about | {"code": file.code, "message": message, "size_bytes": 1})
            elif file.origin:
                origin = {"run": file.origin[0], "run_row": file.origin[1]}
                known.append(named | {"sha256": sha(file.content), "matched": "content"} | origin)
            else:
                p = int(sha(file.content)[:4], 16) / 2**16
                result: dict[str, Any] = {"probability": p, "predicted": int(p >= 0.5)}
                shadow.append(named | result | {"live_probability": p})
                about |= {"width_px": 40, "height_px": 20, "grey_rule": "as_stored"}
                about["sha256"] = sha(file.content)
                scored.append(named | result | about)
        part = run.predictions / f"part-{first // 2:05d}.parquet"
        predictions = schema.predictions_schema(1, dicom)
        pq.write_table(pa.Table.from_pylist(scored, predictions), part)
    rejected = pa.schema([*schema.REJECTED, *schema.dicom_fields(dicom)])
    pq.write_table(pa.Table.from_pylist(bad, rejected), run.rejected)
    pq.write_table(pa.Table.from_pylist(known, schema.KNOWN), run.known)
    write_text(
        run.spec,
        f"kind: score\nargs:\n  input: [{root}]\n  seed: 3\n"
        + (f"  patient_key_file: {key_file}\n" if key_file else ""),
    )
    ended = f"2026-03-{day:02d}T02:00:00.000+00:00"
    status = {"kind": "score", "succeeded_at": ended, "terms": TERMS, "limits": LIMITS}
    write_json(run.status, status | {"schema_version": 3})
    _write_report(run, known, shadow if kept else [])
    write_text(run.success, "")
    if kept:
        _keep_more(run, shadow)
    return run


def _write_report(run: RunDir, known: list[dict[str, Any]], shadow: list[dict[str, Any]]) -> None:
    tally = Tally(0.5, GroupCodes(["/data/xrays"]))
    none = schema.REJECTED.empty_table()
    for part in sorted(run.predictions.glob("*")):
        tally.add(pq.read_table(part), none)
    tally.add(schema.PREDICTIONS.empty_table(), pq.read_table(run.rejected))
    counted: list[dict[str, Any]] = [{"root": 0, "matched": "file", "code": None, "files": 5}]
    if known:
        counted += [counted[0] | {"matched": "content", "files": len(known)}]
    report = build_report(
        tally,
        found=tally.probabilities.size + tally.num_rejected + len(known) + 5,
        threshold_rule="youden",
        model={"backbone": "tiny", "sha256": "ab"},
        run=RUN,
        known=counted,
        seed=3,
    )
    drawn = [row for row in shadow if row["row"] % 3 == 0]
    for row in drawn:
        entry = {name: row[name] for name in ("row", "path", "label", "probability")}
        entry |= {"why": "random", "file": f"heatmaps/{row['row']:08d}.png"}
        report.setdefault("heatmaps", []).append(entry)
    write_json(run.report_json, report)
    shown = [image for images in tally.images.values() for image in images]
    write_text(run.report_html, str([shown, tally.rejected_rows]))


def _keep_more(run: RunDir, shadow: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(shadow, schema.SHADOW), run.shadow)
    run.heatmaps.mkdir()
    for row in shadow:
        if row["row"] % 3 == 0:
            picture = Image.fromarray(np.zeros((20, 60, 3), np.uint8))
            picture.save(run.heatmaps / f"{row['row']:08d}.png")
    write_text(run.worklist, " ".join(row["path"] for row in shadow))
    write_text(run.stored, "{}")
    scored = open_scored(run.path)
    answers = {row["row"]: Answer(1 - row["label"], "2026-04-01") for row in shadow}
    _store_answers(scored, answers)


def everything(folder: Path) -> bytes:
    """All that the files of a folder hold, Parquet as text."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".parquet":
            found.append(str(pq.read_table(path).to_pylist()).encode())
        elif path.is_file():
            found.append(path.read_bytes())
        found.append(str(path.relative_to(folder)).encode())
    return b"\n".join(found)
