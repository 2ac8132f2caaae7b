"""Metrics of a two-class classifier, each with a bootstrap interval clustered by patient.

The positive class is PNEUMONIA (label 1). A figure that the data cannot define is None with a note
that says why; it is never NaN. Thresholds are chosen in `calibration.py`, and models are compared
in `paired.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.data.schema import CLASS_NAMES
from orchestrator.errors import DataError
from orchestrator.evaluation.bootstrap import (
    FloatArray,
    Scored,
    cluster_rows,
    is_known,
    percentile_bounds,
    prepare_rows,
    resample,
    reweigh,
)
from orchestrator.evaluation.figures import Interval

METRIC_NAMES = (
    "accuracy",
    "precision",
    "recall",
    "sensitivity",
    "specificity",
    "f1",
    "ppv",
    "npv",
    "auroc",
    "auprc",
    "log_loss",
    "brier",
)
LEVEL = 0.95
_NO_WIDTH = 1e-12  # what rounding makes of bounds that are equal
NEGATIVE, POSITIVE = CLASS_NAMES

_NEEDS_POSITIVES = f"undefined: no image is labelled {POSITIVE}"
_NEEDS_BOTH = "undefined: needs images of both classes, and the labels hold one class only"
UNDEFINED = {
    "precision": f"undefined: no image was called {POSITIVE}",
    "ppv": f"undefined: no image was called {POSITIVE}",
    "npv": f"undefined: no image was called {NEGATIVE}",
    "recall": _NEEDS_POSITIVES,
    "sensitivity": _NEEDS_POSITIVES,
    "specificity": f"undefined: no image is labelled {NEGATIVE}",
    "f1": f"undefined: no image is labelled or was called {POSITIVE}",
    "auroc": _NEEDS_BOTH,
    "auprc": _NEEDS_BOTH,
}
# Confusion cells (tn, fp, fn, tp) that make up the denominator of each proportion.
_DENOMINATOR = {
    "accuracy": (0, 1, 2, 3),
    "precision": (1, 3),
    "ppv": (1, 3),
    "recall": (2, 3),
    "sensitivity": (2, 3),
    "specificity": (0, 1),
    "npv": (0, 2),
    "f1": (1, 2, 3),
}


@dataclass(frozen=True)
class Confusion:
    """Images by label and prediction: true negative, false positive, false negative, true pos."""

    tn: int
    fp: int
    fn: int
    tp: int


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: metrics by name, the confusion matrix and what they rest on."""

    metrics: dict[str, Interval]
    confusion: Confusion
    threshold: float
    num_images: int
    num_patients: int | None  # None: no patient is known, so images are resampled
    num_resamples: int
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Returns the evaluation in the form of report.json: plain numbers, strings and None."""
        clustered = ", clustered by patient" if self.num_patients is not None else ", by image"
        return {
            "num_images": self.num_images,
            "num_patients": self.num_patients,
            "threshold": self.threshold,
            "metrics": {name: interval.as_dict() for name, interval in self.metrics.items()},
            "confusion": vars(self.confusion).copy(),
            "interval": {
                "level": LEVEL,
                "method": "percentile bootstrap" + clustered,
                "num_resamples": self.num_resamples,
                "seed": self.seed,
            },
        }


def evaluate(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    threshold: float,
    groups: Sequence[Any] | npt.NDArray[Any] | None = None,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Measures predictions against labels, with 95% percentile bootstrap intervals.

    Whole patients are drawn where patients are known; a row without a patient id is drawn by
    itself. Resamples in which a figure is undefined do not count. Where all resamples give the
    same figure, the bootstrap interval has no width, which would hide that the sample is finite. A
    proportion of exactly 0 or 1 then has the exact binomial bound over the patients (or images) it
    rests on as its open end. So has AUROC, over pairs of patients of either class of which no two
    share a patient: an AUROC of 1 means that every such pair is in order, and they are independent.
    Other figures have no interval then. `note` says which it is.

    Args:
        labels: int [N], 0 NORMAL, 1 PNEUMONIA; rows without a label are left out beforehand.
        probabilities: float [N], probability of PNEUMONIA, 0..1. Log loss clips at the machine
            epsilon of their dtype, as scikit-learn does.
        threshold: PNEUMONIA is called where probability >= threshold.
        groups: [N] patient ids, None or "" where unknown; None: no patient is known.
        num_resamples: resamples of the bootstrap, at least 1.
        seed: seed of the resamples.

    Returns:
        All of `METRIC_NAMES`, the confusion matrix and the counts behind them.

    Raises:
        DataError: lengths differ, no row, a label other than 0 or 1, a probability outside 0..1.

    Reference:
        Field and Welsh, Bootstrapping clustered data, JRSS B 69, 2007.
        Clopper and Pearson, Biometrika 26, 1934 (the exact bound).
        Obuchowski and Lieber, Confidence bounds when the estimated ROC area is 1.0, Academic
        Radiology 9, 2002. Hoeffding, JASA 58, 1963, section 5 (AUROC as a mean over such pairs).
    """
    label, probability = check_scored(labels, probabilities, groups)
    clusters = cluster_rows(groups, label.size)
    scored = prepare_rows(label, probability, threshold, clusters)
    values = _point(scored)
    replicates = resample([scored], num_resamples, seed)[0]
    support = scored.sums[:, :4] > 0
    metrics = {
        name: _interval(name, values[name], replicates[name], support) for name in METRIC_NAMES
    }
    tn, fp, fn, tp = (round(float(total)) for total in scored.sums[:, :4].sum(axis=0))
    known = [] if groups is None else [group for group in groups if is_known(group)]
    return Evaluation(
        metrics=metrics,
        confusion=Confusion(tn, fp, fn, tp),
        threshold=float(threshold),
        num_images=int(label.size),
        num_patients=len(set(known)) if known else None,
        num_resamples=num_resamples,
        seed=seed,
    )


def point_metrics(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float
) -> dict[str, float | None]:
    """Measures predictions without intervals; for every epoch or trial, where speed counts.

    Args:
        labels: int [N], 0 NORMAL, 1 PNEUMONIA.
        probabilities: float [N], probability of PNEUMONIA, 0..1.
        threshold: PNEUMONIA is called where probability >= threshold.

    Returns:
        All of `METRIC_NAMES`; None where undefined.

    Raises:
        DataError: as `evaluate`.
    """
    label, probability = check_scored(labels, probabilities, None)
    return _point(prepare_rows(label, probability, threshold, np.zeros(label.size, np.int64)))


def check_scored(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, groups: Any
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.floating[Any]]]:
    """Checks labels and probabilities and returns them as arrays.

    Args:
        labels: int [N].
        probabilities: float [N].
        groups: None or [N].

    Returns:
        Labels int8 [N], and probabilities [N] as float32 or float64, as they came.

    Raises:
        DataError: as `evaluate`.
    """
    label = np.asarray(labels)
    probability = np.asarray(probabilities)
    sizes = [label.size, probability.size, *([] if groups is None else [len(groups)])]
    if label.ndim != 1 or probability.ndim != 1 or len(set(sizes)) > 1 or label.size == 0:
        raise DataError(
            f"received {' / '.join(map(str, sizes))} labels / probabilities / groups; expected "
            "flat arrays of one length with at least one row; leave out rows without a label"
        )
    if not np.isin(label, (0, 1)).all():
        raise DataError(
            "received a label that is neither 0 nor 1; expected 0 (NORMAL) or 1 (PNEUMONIA) in "
            "every row; leave out rows without a label"
        )
    if not ((probability >= 0) & (probability <= 1)).all():  # also catches NaN
        raise DataError(
            "received a probability that is NaN or outside 0..1; expected calibrated "
            "probabilities; check the model's outputs"
        )
    if probability.dtype != np.float32:
        probability = probability.astype(np.float64)
    return label.astype(np.int8), probability


def _point(scored: Scored) -> dict[str, float | None]:
    """Metrics of the rows as they are; None where undefined."""
    values = reweigh(scored, np.ones((1, len(scored.sums))))
    return {name: None if np.isnan(value[0]) else float(value[0]) for name, value in values.items()}


def _interval(
    name: str, value: float | None, replicates: FloatArray, support: npt.NDArray[np.bool_]
) -> Interval:
    """One metric with its bounds; `support` [G, 4] says which clusters hold which cells."""
    if value is None:
        return Interval(None, None, None, UNDEFINED[name])
    if len(support) < 2:
        return Interval(value, None, None, "one patient or image cannot be resampled")
    num_units, units = _count_units(name, support)
    if num_units and value in (0.0, 1.0):
        reach = ((1 - LEVEL) / 2) ** (1 / num_units)
        low, high = (reach, 1.0) if value == 1.0 else (0.0, 1 - reach)
        return Interval(value, low, high, f"exact bound over {num_units} {units}")
    return bounded(value, percentile_bounds(replicates, LEVEL))


def _count_units(name: str, support: npt.NDArray[np.bool_]) -> tuple[int, str]:
    """How many independent patients or images, or pairs of them, a figure rests on; 0: untold."""
    if name in _DENOMINATOR:
        return int(support[:, _DENOMINATOR[name]].any(axis=1).sum()), "patients or images"
    if name != "auroc":
        return 0, ""
    negatives, positives = support[:, :2].any(axis=1), support[:, 2:].any(axis=1)
    # A patient with images of both classes makes one pair only.
    num_pairs = min(negatives.sum(), positives.sum(), len(support) // 2)
    return int(num_pairs), "pairs of patients or images"


def bounded(value: float, bounds: tuple[float, float] | None) -> Interval:
    """Returns a figure with its bounds, without them where they are none or say nothing.

    Args:
        value: the figure.
        bounds: low and high; None where no resample defines the figure.
    """
    if bounds is None:
        return Interval(value, None, None, "undefined in every resample")
    if bounds[1] - bounds[0] < _NO_WIDTH:
        return Interval(
            value, None, None, "none, since nearly every resample gives the same figure"
        )
    return Interval(value, *bounds)
