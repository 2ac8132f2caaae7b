"""The int8 network against its float32 one: by which images, its operating point, the gate.

Ranges of values come from training images. Calibration and review rule of the int8 network are
chosen on the images that chose the bundle's own, by the same rules. So is its threshold where the
rule has a floor; by any other rule it is the one that calls these images as float32 does, and one
that was given as a number stays.
"""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.config.quantize import QuantizeSpec
from orchestrator.config.threshold import COHORTS
from orchestrator.data.cohorts import number_cohorts
from orchestrator.data.shifts import SHIFTS
from orchestrator.data.source import IngestedSource
from orchestrator.data.splits import fold_rows, group_rows
from orchestrator.data.store import ImageStore
from orchestrator.errors import DataError
from orchestrator.evaluation.bootstrap import cluster_rows
from orchestrator.evaluation.calibration import call_labels, choose_threshold, fit_calibration
from orchestrator.evaluation.figures import Calibration, Threshold
from orchestrator.evaluation.int8_gate import Int8Change, measure_change
from orchestrator.evaluation.metrics import point_metrics
from orchestrator.evaluation.operating_point import (
    OperatingPoint,
    choose_point,
    choose_validated,
    cross_validate,
)
from orchestrator.evaluation.review_rule import ReviewRule
from orchestrator.evaluation.selective import choose_rule, find_margins
from orchestrator.model.bundle import BundleInfo, Recalibration
from orchestrator.model.engine.base import Engine
from orchestrator.pipelines.prepare.images import Prepared, by_split
from orchestrator.pipelines.prepare.ingest import fingerprint
from orchestrator.progress import Reporter

_BLOCK = 64  # images that one engine computes before the other one does
_SAME_LOSS = 1e-3  # of one network on the same images, on whatever CPU


@dataclass(frozen=True)
class QuantizeImages:
    """The images of a quantisation.

    Attributes:
        store: where they are.
        ranges: int64, rows of those by which the ranges of values are found, in random order.
        table: rows by which the operating point is chosen, each with a label.
        held_out: bool, those of `table` that are in no way part of `ranges`: the gate is theirs.
        validates: whether they are the validation images of the training; of a recalibrated bundle
            they are those of the recalibration.
    """

    store: ImageStore
    ranges: Any
    table: pa.Table
    held_out: Any
    validates: bool


@dataclass(frozen=True)
class Judged:
    """What became of the int8 network."""

    point: OperatingPoint
    review: ReviewRule | None
    change: Int8Change
    speed: float  # images/s of int8 over those of float32


def choose_training_images(
    spec: QuantizeSpec, info: BundleInfo, prepared: Prepared
) -> QuantizeImages:
    """Divides the images of a training by what they are for: ranges from `train`, point from `val`.

    Args:
        spec: how many give the ranges, and the seed.
        info: of the bundle.
        prepared: its images, divided as the training has divided them.

    Raises:
        DataError: they are not those that the bundle was trained on.
    """
    _check_same(spec, prepared.rows, info.data.fingerprint, "trained")
    if by_split(prepared.counts) != info.data.counts:
        raise DataError(
            f"the images of {spec.data} divide otherwise than when the bundle was trained, "
            "since patients are known otherwise; give the --patient-key-file of the training, "
            "or the ingested data set that it had"
        )
    ranges = np.flatnonzero(pc.equal(prepared.split, "train").to_numpy(zero_copy_only=False))
    ranges = np.random.default_rng(spec.seed).permutation(ranges)[: spec.images]
    table = prepared.rows.filter(pc.equal(prepared.split, "val"))
    held_out = np.ones(table.num_rows, bool)
    return QuantizeImages(ImageStore(prepared.dataset), ranges, table, held_out, True)


def choose_site_images(
    spec: QuantizeSpec, site: Recalibration, dataset: IngestedSource
) -> QuantizeImages:
    """Divides the images of a recalibration: some patients give ranges, the others are the gate's.

    Args:
        spec: how many give the ranges, and the seed.
        site: the recalibration of the bundle.
        dataset: its images.

    Raises:
        DataError: they are not those of the recalibration, or of too few patients to be divided.
    """
    rows = dataset.load_rows()
    _check_same(spec, rows, site.fingerprint, "recalibrated")
    table = rows.filter(pc.and_(pc.is_valid(rows["label"]), pc.is_null(rows["code"])))
    labels, groups = table["label"].to_numpy(), group_rows(table)
    # Of a few patients, or of many images, a fold is another share than a fifth.
    patients = min(len(np.unique(groups[labels == label])) for label in (0, 1))
    num_folds = max(2, min(patients, max(5, table.num_rows // spec.images)))
    chosen = fold_rows(table, np.arange(table.num_rows), num_folds, spec.seed) == 0
    ranges = np.random.default_rng(spec.seed).permutation(table["row"].to_numpy()[chosen])
    return QuantizeImages(ImageStore(dataset), ranges[: spec.images], table, ~chosen, False)


def _check_same(spec: QuantizeSpec, rows: pa.Table, expected: str, made: str) -> None:
    """Raises DataError where images or labels are others than those a bundle was made with."""
    if fingerprint(rows) != expected:
        raise DataError(
            f"{spec.data} does not hold the images, with the labels, that the bundle was {made} "
            "on; name that folder or table, or the data set that was ingested from it"
        )


def judge(
    info: BundleInfo,
    images: QuantizeImages,
    engines: tuple[Engine, Engine],
    seed: int,
    reporter: Reporter,
) -> Judged:
    """Computes the images with both networks, chooses the int8 one's point and compares.

    Args:
        info: of the bundle.
        images: what to judge by.
        engines: of the float32 network and of the int8 one.
        seed: of folds and resamples.
        reporter: receives the progress.

    Raises:
        DataError: the validation images are not those of the training, or those of a recalibration
            are of too few patients for a review rule.
    """
    table = images.table
    numbers, labels = table["row"].to_numpy(), table["label"].to_numpy()
    patients = np.array(table["patient_id"].to_pylist(), object)
    f32, int8, speed = _compute(images.store, numbers, engines, reporter)
    if images.validates:
        _check_validation(info, labels, f32)

    def shifted(calibration: Calibration) -> Any:
        reporter.begin("comparing shifted copies", len(SHIFTS), "copies")
        copies = []
        for shift in SHIFTS.values():
            blocks = (numbers[start : start + _BLOCK] for start in range(0, len(numbers), _BLOCK))
            found = [engines[1].logits(shift(images.store.take(block))) for block in blocks]
            copies.append(calibration.apply(np.concatenate(found)))
            reporter.advance(1)
        reporter.end()
        return np.stack(copies)

    site = info.recalibration
    fitted = info.training.get("calibration", "platt") if site is None else site.calibration
    kept = None if fitted == "platt" else info.calibration

    def choose(rows: Any, own: OperatingPoint) -> OperatingPoint:
        """The int8 network's point, by some of the rows and by float32's point."""
        calibration = kept or fit_calibration(int8[rows], labels[rows])
        threshold, probabilities = own.threshold, calibration.apply(int8[rows])
        calls = call_labels(own.calibration.apply(f32[rows]), threshold.value)
        if "@" in threshold.rule:
            threshold = choose_validated(
                labels[rows],
                probabilities,
                threshold.rule,
                lambda: shifted(calibration),
                number_cohorts(table) if threshold.rule.endswith(COHORTS) else None,
            )
        elif threshold.rule != "fixed" and len(np.unique(calls)) > 1:
            # The rule itself may find another of many thresholds that are nearly as good, on which
            # one or the other image decides, and change calls for nothing.
            agreeing = choose_threshold(calls, probabilities, "accuracy").value
            threshold = Threshold(agreeing, threshold.rule)
        return OperatingPoint(calibration, threshold)

    own = OperatingPoint(info.calibration, info.threshold)
    point = choose(np.arange(len(labels)), own)
    review = None
    if info.review is not None:
        margins = find_margins(int8, point.calibration, point.threshold.value)
        wrong = call_labels(point.calibration.apply(int8), point.threshold.value) != labels
        groups = cluster_rows(patients, len(labels))
        if site is not None:  # as `recalibrate` does
            groups = group_rows(table)

            def choose_anew(rows: Any) -> OperatingPoint:
                return choose(rows, choose_point(labels[rows], f32[rows], site.rule, kept))

            held = cross_validate(labels, int8, groups, choose_anew, seed=seed)
            margins, wrong = held.margins, held.calls != labels
        review = choose_rule(margins, wrong, groups, info.review.target)
    held_out = images.held_out
    change = measure_change(
        labels[held_out],
        (f32[held_out], int8[held_out]),
        (own, point),
        patients[held_out],
        seed=seed,
    )
    return Judged(point, review, change, speed)


def _compute(
    store: ImageStore, numbers: Any, engines: tuple[Engine, Engine], reporter: Reporter
) -> tuple[Any, Any, float]:
    """Returns the logits of both engines, float64 [N], and how many times as fast the second is.

    Both compute a block in turn, so that a busy machine slows both.
    """
    for engine in engines:  # a first call takes longer
        engine.logits(store.take(numbers[:_BLOCK]))
    reporter.begin("comparing", len(numbers), "images")
    logits: tuple[list[Any], list[Any]] = ([], [])
    ratios = []
    for start in range(0, len(numbers), _BLOCK):
        block = store.take(numbers[start : start + _BLOCK])
        took = []
        for engine, found in zip(engines, logits, strict=True):
            began = time.perf_counter()
            found.append(engine.logits(block))
            took.append(time.perf_counter() - began)
        ratios.append(took[0] / took[1])
        reporter.advance(len(block))
    reporter.end()
    f32, int8 = (np.concatenate(found).astype(np.float64) for found in logits)
    return f32, int8, statistics.median(ratios)


def _check_validation(info: BundleInfo, labels: Any, logits: Any) -> None:
    """Raises DataError where the validation images are not those of the training.

    Its counts may be equal where patients are known by other ids; the loss is not.
    """
    stored = info.metrics.get("validation")
    probabilities = info.calibration.apply(logits)
    found = point_metrics(labels, probabilities, info.threshold.value)["log_loss"]
    then = stored.metrics["log_loss"].value if stored and "log_loss" in stored.metrics else None
    if found is None or then is None:
        return  # of an earlier version
    if abs(found - then) > _SAME_LOSS:
        raise DataError(
            f"the log loss of the validation images is {found:.4f} and was {then:.4f} when the "
            "bundle was trained: they are others; give the --patient-key-file of the training, or "
            "the ingested data set that it had"
        )
