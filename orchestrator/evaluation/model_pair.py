"""A live model and a candidate on the same images: every figure of both, and their differences.

All is measured on the same resamples of patients, so that what the models share cancels. The
verdict that rests on it is in `verdict.py`, groups of patients are in `pair_groups.py`.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.evaluation.bootstrap import (
    FloatArray,
    IntArray,
    cluster_rows,
    percentile_bounds,
    prepare_rows,
    resample,
    reweigh,
)
from orchestrator.evaluation.calibration import call_labels, fit_calibration
from orchestrator.evaluation.figures import Interval
from orchestrator.evaluation.metrics import LEVEL, UNDEFINED, bounded, evaluate
from orchestrator.evaluation.paired_tests import AreaTest, Mask, compare_areas, compare_calls
from orchestrator.evaluation.verdict import ENDPOINTS, Endpoint
from orchestrator.evaluation.wording import METRIC_TITLES

NUM_RESAMPLES = 2000
MIN_PATIENTS = 20  # of each class, for a verdict
BALANCED = "balanced_accuracy"
_GAIN_LEVEL = 0.975  # of each of two: 95% of both (Bonferroni)


@dataclass(frozen=True)
class ModelPair:
    """Two models on the same N labelled images.

    Attributes:
        labels: int8 [N], 0 NORMAL, 1 PNEUMONIA.
        logits: of the live model and of the candidate, float64 [N] each, calibrated log-odds.
        probabilities: likewise float32 [N].
        thresholds: of each.
        patients: object [N], None where unknown.
    """

    labels: npt.NDArray[np.int8]
    logits: tuple[FloatArray, FloatArray]
    probabilities: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
    thresholds: tuple[float, float]
    patients: npt.NDArray[np.object_]

    @property
    def clusters(self) -> IntArray:
        """int64 [N], the patient of each image."""
        return cluster_rows(self.patients, self.labels.size)

    @property
    def right(self) -> tuple[Mask, Mask]:
        """Whether each model's call agrees with the label, bool [N] each."""
        live, candidate = (
            call_labels(of, threshold) == self.labels
            for of, threshold in zip(self.probabilities, self.thresholds, strict=True)
        )
        return live, candidate

    @property
    def num_patients(self) -> tuple[int, int]:
        """Patients (images where none is known) with a NORMAL image, and with a PNEUMONIA one."""
        negative, positive = (np.unique(self.clusters[self.labels == kind]).size for kind in (0, 1))
        return negative, positive

    def compare_areas(self) -> AreaTest:
        """Returns DeLong's test of the two AUROCs; both classes must be there."""
        live, candidate = (of.astype(np.float64) for of in self.probabilities)
        return compare_areas(self.labels, live, candidate, self.clusters)

    def select(self, rows: Mask) -> "ModelPair":
        """Returns the pair on some of the images, bool [N]."""
        return ModelPair(
            self.labels[rows],
            (self.logits[0][rows], self.logits[1][rows]),
            (self.probabilities[0][rows], self.probabilities[1][rows]),
            self.thresholds,
            self.patients[rows],
        )


def measure_pair(
    pair: ModelPair, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Returns every figure of both models, and of the candidate minus the live one.

    Args:
        pair: the models' outputs.
        num_resamples: resamples of patients.
        seed: of the resamples.

    Returns:
        num_images, num_patients, interval (method) and confusion (of each); metrics: by name
        `live`, `candidate` and `difference`, each value, low, high and perhaps a note; endpoints,
        {} with fewer than `MIN_PATIENTS` of either class; areas: DeLong's test, None where there is
        one class; calls: McNemar's, of all images and of each class; calibration of each.
    """
    evaluations = [
        evaluate(pair.labels, of, threshold, pair.patients, num_resamples=num_resamples, seed=seed)
        for of, threshold in zip(pair.probabilities, pair.thresholds, strict=True)
    ]
    drawn = _draw(pair, num_resamples, seed)
    metrics: dict[str, Any] = {}
    for name in (*METRIC_TITLES, BALANCED):
        of_models = [_interval(name, model[name][0], model[name][1:]) for model in drawn]
        if name != BALANCED:  # with exact bounds where a figure is 0 or 1
            of_models = [evaluation.metrics[name] for evaluation in evaluations]
        apart = drawn[1][name] - drawn[0][name]
        found = (*of_models, _interval(name, apart[0], apart[1:]))
        roles = ("live", "candidate", "difference")
        metrics[name] = {role: of.as_dict() for role, of in zip(roles, found, strict=True)}
    live, other = (evaluation.as_dict() for evaluation in evaluations)
    has_both = min(pair.num_patients) > 0
    ends = _endpoints(pair, drawn) if min(pair.num_patients) >= MIN_PATIENTS else {}
    return {
        "num_images": live["num_images"],
        "num_patients": live["num_patients"],
        "interval": live["interval"],
        "confusion": [live["confusion"], other["confusion"]],
        "metrics": metrics,
        "endpoints": {name: end.model_dump() for name, end in ends.items()},
        "areas": asdict(pair.compare_areas()) if has_both else None,
        "calls": _compare_calls(pair),
        "calibration": [_calibration(pair, model, fits=has_both) for model in (0, 1)],
    }


def measure_endpoints(
    pair: ModelPair, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, Endpoint]:
    """Returns the differences on which a verdict rests, by `ENDPOINTS`.

    The bootstrap knows nothing of a kind of patient that the sample lacks: where no call differs,
    it has no width. So an interval of calls reaches at least as far from its value as what n
    patients without a difference leave open, 1 - tail^(1/n). One of AUROC without a width reaches
    as far, for pairs of patients of either class of which no two share a patient.

    Args:
        pair: with patients of both classes.
        num_resamples: resamples of patients.
        seed: of the resamples.

    Reference:
        Hanley and Lippman-Hand, If nothing goes wrong, is everything all right?, JAMA 249, 1983.
        Obuchowski and Lieber, Confidence bounds when the estimated ROC area is 1.0, Academic
        Radiology 9, 2002.
    """
    return _endpoints(pair, _draw(pair, num_resamples, seed))


def _endpoints(pair: ModelPair, drawn: list[dict[str, FloatArray]]) -> dict[str, Endpoint]:
    negative, positive = pair.num_patients
    pairs = min(negative, positive, (int(pair.clusters.max()) + 1) // 2)
    units = {
        "auroc": [pairs],
        "sensitivity": [positive],
        "specificity": [negative],
        BALANCED: [positive, negative],
    }
    found = {}
    for name in ENDPOINTS:
        apart = drawn[1][name] - drawn[0][name]
        value, ends = float(apart[0]), []
        for level in (LEVEL, _GAIN_LEVEL):
            low, high = percentile_bounds(apart[1:], level) or (value, value)
            if name != "auroc" or low == high:
                least = float(np.mean([1 - ((1 - level) / 2) ** (1 / n) for n in units[name]]))
                low, high = min(low, value - least), max(high, value + least)
            ends += [low, high]
        found[name] = Endpoint(value=value, low=ends[0], high=ends[1], gain_low=ends[2])
    return found


def _compare_calls(pair: ModelPair) -> dict[str, Any]:
    """McNemar's test of the calls of all images, and of those of each class."""
    live, candidate = pair.right
    clusters = pair.clusters
    chosen = {"all": pair.labels >= 0, "sensitivity": pair.labels == 1}
    chosen["specificity"] = pair.labels == 0
    return {
        name: asdict(compare_calls(live[rows], candidate[rows], clusters[rows]))
        for name, rows in chosen.items()
    }


def _draw(pair: ModelPair, num_resamples: int, seed: int) -> list[dict[str, FloatArray]]:
    """Figures of each model, first of the images, then of the same resamples; [1 + resamples]."""
    clusters = pair.clusters
    scored = [
        prepare_rows(pair.labels, of, threshold, clusters)
        for of, threshold in zip(pair.probabilities, pair.thresholds, strict=True)
    ]
    found = []
    for of, replicates in zip(scored, resample(scored, num_resamples, seed), strict=True):
        point = reweigh(of, np.ones((1, len(of.sums))))
        figures = {name: np.append(point[name], values) for name, values in replicates.items()}
        figures[BALANCED] = (figures["sensitivity"] + figures["specificity"]) / 2
        found.append(figures)
    return found


def _interval(name: str, value: float, replicates: FloatArray) -> Interval:
    if np.isnan(value):  # of a balanced accuracy as of an area: one class only
        return Interval(None, note=UNDEFINED.get(name, UNDEFINED["auroc"]))
    return bounded(float(value), percentile_bounds(replicates, LEVEL))


def _calibration(pair: ModelPair, model: int, *, fits: bool) -> dict[str, Any]:
    """How the probabilities fit the labels: their mean, and the curve that would fit best.

    A slope below 1 says that they are too extreme, an intercept above 0 that they are too low.
    """
    fitted = asdict(fit_calibration(pair.logits[model], pair.labels)) if fits else None
    return {
        "mean_probability": float(pair.probabilities[model].astype(np.float64).mean()),
        "share_positive": float(np.mean(pair.labels == 1)),
        "fitted": fitted,
    }
