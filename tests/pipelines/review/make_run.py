"""A finished scoring run of phantoms with probabilities of our choice, made without a model."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.data.listing.inputs import list_inputs
from orchestrator.data.manifest import load_manifest, write_listed
from orchestrator.data.parquet import write_parquet
from orchestrator.data.phantoms import write_phantoms
from orchestrator.data.schema import PREDICTIONS
from orchestrator.evaluation.report.report import build_report, render_html
from orchestrator.evaluation.review_rule import ReviewPoint, ReviewRule
from orchestrator.evaluation.tally import Tally
from orchestrator.pipelines.score.tables import schema
from orchestrator.runs.atomic import write_json, write_text
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.states import Status

RULE = ReviewRule(("review_rate", 0.5), 1.0, 40, 20, (ReviewPoint(0.0, 40, 2, 20, 2),))


def make_run(
    folder: Path,
    images: Path,
    num_images: int = 20,
    *,
    labelled: bool = True,
    rule: bool = True,
    page: bool = False,
) -> RunDir:
    """Writes the phantoms, and the run as scoring leaves it, its page if asked for.

    The log-odds of image k are k - 3, and its margin their size.
    """
    write_phantoms(images, num_images=num_images, seed=1, size_px=48)
    run = RunDir(folder)
    listed = list_inputs([images])
    write_listed(listed.rows(), listed.roots, listed.metadata, run.manifest, 8)
    rows: list[dict[str, Any]] = load_manifest(run.manifest).table.to_pylist()
    for place, row in enumerate(rows):
        odds = float(place - 3)
        row |= {
            "sha256": hashlib.sha256((images / row["path"]).read_bytes()).hexdigest(),
            "width_px": 48,
            "height_px": 48,
            "logit": odds,
            "probability": 1 / (1 + np.exp(-odds)),
            "predicted": int(odds >= 0),
            "label": row["label"] if labelled else None,
        }
        if rule:
            near = abs(odds) < 1.0
            row |= {"margin": abs(odds), "decision": "review" if near else "accept"}
            row["review_reason"] = "near_threshold" if near else None
    table = pa.Table.from_pylist(rows, PREDICTIONS)
    write_parquet(run.predictions / "part-00000.parquet", table.slice(0, 12))
    write_parquet(run.predictions / "part-00001.parquet", table.slice(12))
    rejected = schema.REJECTED.empty_table()
    write_parquet(run.rejected, rejected)
    tally = Tally(0.5)
    tally.add(table, rejected)
    report = build_report(
        tally,
        found=num_images,
        threshold_rule="youden",
        model={"backbone": "tiny", "sha256": "ab" * 32},
        run={"run_id": folder.name},
        review_rules=[RULE] if rule else [],
        num_resamples=50,
    )
    write_json(run.report_json, report)
    if page:
        write_text(run.report_html, render_html(report, tally))
    run.write_status(Status.SUCCEEDED, run_uuid="0123abcd")
    run.success.touch()
    return run
