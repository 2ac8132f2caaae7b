"""Recalibrate a bundle: a scoring run of one site's labelled images, and a decision by its logits.

The network stays as it is: the new bundle has the same files of it.
"""

from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.config.specs import RecalibrateSpec, Resources, scoring_of
from orchestrator.data.listing.options import ListingOptions
from orchestrator.data.parquet import open_parquet
from orchestrator.data.schema import CLASS_NAMES
from orchestrator.data.source import open_manifest
from orchestrator.data.splits import check_classes, group_rows
from orchestrator.evaluation.metrics import Evaluation, evaluate
from orchestrator.evaluation.operating_point import (
    HeldOut,
    OperatingPoint,
    choose_point,
    count_needed,
    cross_validate,
    threshold_interval,
)
from orchestrator.evaluation.report.recalibration import (
    build_recalibration,
    render_recalibration_html,
)
from orchestrator.evaluation.report.review import measure_review
from orchestrator.evaluation.selective import accepts, choose_rule
from orchestrator.model.bundle import BundleInfo, Metrics, Recalibration
from orchestrator.model.bundle_writer import copy_bundle
from orchestrator.pipelines.prepare.ingest import fingerprint
from orchestrator.pipelines.score.score import score
from orchestrator.pipelines.successor import SuccessorResult, open_successor
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import write_json, write_text
from orchestrator.runs.run_dir import RunDir

_COLUMNS = ["label", "patient_id", "sha256", "logit"]


def recalibrate(
    spec: RecalibrateSpec,
    resources: Resources,
    reporter: Reporter,
    *,
    run_folder: Path | None = None,
) -> SuccessorResult:
    """Releases a bundle again, with calibration and threshold of one site's labelled images.

    Args:
        spec: which bundle, which images, by what rule.
        resources: what to use of the cluster.
        reporter: receives the progress of the scoring, and the warnings.
        run_folder: folder of the run; the one that the bundle's folder names, or a new one under
            `runs/` otherwise.

    Returns:
        Where the bundle, the run, the scoring run in it, and the report are.

    Raises:
        SpecError: the spec cannot be met, or the output folder is taken.
        DataError: no labels, images of one class, or of too few patients, or too many rejected.
        BundleError: the bundle cannot be used.
        ClusterError: a worker or the disk failed; the same command goes on later.
    """
    begun = open_successor("recalibrate", spec, resources, reporter, run_folder)
    with begun as (spec, model, bundle, opened):
        if not opened.completed:
            _score(spec, resources, opened.run, reporter)
            _release(spec, model.folder, model.info, opened.run, bundle.path, reporter)
    return SuccessorResult(bundle.path, opened.run.path, opened.load_report())


def _score(spec: RecalibrateSpec, resources: Resources, run: RunDir, reporter: Reporter) -> None:
    """Scores the images in a run of its own, unless that is done."""
    if run.scored.success.exists():
        return
    scoring = scoring_of(spec, spec.model)
    manifest, _ = open_manifest(spec.data, scoring.shard_rows, ListingOptions.of(spec))
    table = manifest.table  # before hours are spent on images without labels
    usable = pc.and_(pc.is_valid(table["label"]), pc.is_null(table["code"]))
    check_classes(table, usable.to_numpy())
    # What is left of an attempt that cannot be resumed is replaced.
    given = {"out": str(run.scored.path), "overwrite": True}
    score(scoring.model_copy(update=given), resources, reporter)


def _release(
    spec: RecalibrateSpec,
    parent: Path,
    info: BundleInfo,
    run: RunDir,
    out: Path,
    reporter: Reporter,
) -> None:
    """Chooses the operating point by the scored images, and writes the report and the bundle."""
    parts = run.scored.prediction_parts()
    scored = pa.concat_tables(open_parquet(part).read(columns=_COLUMNS) for part in parts)
    found_in = fingerprint(scored)
    rows = scored.filter(pc.is_valid(scored["label"]))
    labels, logits = rows["label"].to_numpy(), rows["logit"].to_numpy().astype(np.float64)
    patients, groups = np.array(rows["patient_id"].to_pylist(), object), group_rows(rows)
    kept = info.calibration if spec.calibration == "none" else None
    held = cross_validate(
        labels,
        logits,
        groups,
        lambda rows: choose_point(labels[rows], logits[rows], spec.threshold, kept),
        seed=spec.seed,
    )
    point = choose_point(labels, logits, spec.threshold, kept)
    before = evaluate(
        labels, info.calibration.apply(logits), info.threshold.value, patients, seed=spec.seed
    )
    after = _evaluate_held_out(labels, held, point, patients, before)
    interval = threshold_interval(
        labels, point.calibration.apply(logits), groups, point.threshold, seed=spec.seed
    )
    counts = {name: int(np.sum(labels == label)) for label, name in enumerate(CLASS_NAMES)}
    warnings = []
    if found_in == info.data.fingerprint:
        warnings.append(
            "these are the images that the model was trained on: figures and threshold are too "
            "optimistic; label images of another time or site"
        )
    report = build_recalibration(
        parent={
            "backbone": info.backbone,
            "sha256": info.sha256,
            "threshold": info.threshold.value,
            "threshold_rule": info.threshold.rule,
            "calibration": asdict(info.calibration),
            "recalibrated": info.recalibration is not None,
        },
        before=before,
        after=after,
        num_folds=held.num_folds,
        point=point,
        threshold_interval=interval,
        need=count_needed(labels, groups, spec.threshold),
        counts=counts | {"no label": scored.num_rows - rows.num_rows},
        warnings=warnings,
        run={"run_id": run.path.name, "started_at": run.load_status().get("running_at")},
    )
    rule = None
    target = spec.review_target or (info.review and info.review.target)
    if target:
        wrong = held.calls != labels
        rule = choose_rule(held.margins, wrong, groups, target)
        found = measure_review(held.margins, accepts(rule, held.margins), wrong, groups)
        report["review"] = {"rules": [rule.as_dict()], "measured": {"Labelled images": found}}
    page = render_recalibration_html(report)
    write_json(run.report_json, report)
    write_text(run.report_html, page)
    measured = Metrics(
        num_images=after.num_images, num_patients=after.num_patients, metrics=after.metrics
    )
    released = info.model_copy(
        update={
            "threshold": point.threshold,
            "calibration": point.calibration,
            "review": rule,
            "metrics": {"recalibration": measured},
            "parent": info.sha256,
            "int8": None,  # its operating point is not of this site
            "ancestors": (*info.ancestors, info.as_ancestor()),
            "recalibration": Recalibration(
                num_images=measured.num_images,
                num_patients=measured.num_patients,
                date=datetime.now(UTC).isoformat(timespec="seconds"),
                counts=counts,
                rule=spec.threshold,
                calibration=spec.calibration,
                threshold=interval,
                fingerprint=found_in,
            ),
        }
    )
    copy_bundle(parent, out, released, extra={"report.html": page})


def _evaluate_held_out(
    labels: Any, held: HeldOut, point: OperatingPoint, patients: Any, before: Evaluation
) -> Evaluation:
    """The figures of images that had no part in choosing.

    Each fold has a threshold of its own, so calls and probabilities are measured one by one. Areas
    under curves are those before: within a fold the order of images is the logits'.
    """
    seed = before.seed
    called = evaluate(labels, held.calls.astype(np.float64), 0.5, patients, seed=seed)
    probable = evaluate(labels, held.probabilities, 0.5, patients, seed=seed).metrics
    areas = {name: before.metrics[name] for name in ("auroc", "auprc")}
    losses = {name: probable[name] for name in ("log_loss", "brier")}
    return replace(called, metrics=called.metrics | areas | losses, threshold=point.threshold.value)
