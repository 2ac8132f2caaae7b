"""The operating point of one site: chosen on its labelled images, judged on those held out.

What the rules are and how a curve is fitted is in `calibration.py`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.config.threshold import COHORTS, SHIFTED
from orchestrator.data.schema import CLASS_NAMES
from orchestrator.errors import DataError
from orchestrator.evaluation.bootstrap import (
    FloatArray,
    IntArray,
    draw_counts,
    percentile_bounds,
)
from orchestrator.evaluation.calibration import (
    call_labels,
    choose_threshold,
    fit_calibration,
    parse_rule,
)
from orchestrator.evaluation.figures import Calibration, Interval, Threshold
from orchestrator.evaluation.metrics import LEVEL
from orchestrator.evaluation.selective import find_margins

MAX_FOLDS = 10
NUM_RESAMPLES = 200  # of a threshold: a smoothed rule takes milliseconds each


@dataclass(frozen=True)
class OperatingPoint:
    """What turns a network's logits into calls."""

    calibration: Calibration
    threshold: Threshold


@dataclass(frozen=True)
class HeldOut:
    """What operating points say of images that had no part in choosing them.

    Args:
        probabilities: float32 [N], calibrated by the point of the other folds.
        calls: int8 [N], by its threshold.
        margins: float64 [N], how clearly, as `selective.find_margins` gives them.
        num_folds: into how many folds the patients were divided.
    """

    probabilities: npt.NDArray[np.float32]
    calls: npt.NDArray[np.int8]
    margins: FloatArray
    num_folds: int


@dataclass(frozen=True)
class Need:
    """How many independent images a rule with a floor needs, and how many there are.

    Args:
        of_class: the class that the floor is on.
        floor: the sensitivity or specificity asked for.
        needed: None where no number is enough.
        found: patients with images of the class.
    """

    of_class: str
    floor: float
    needed: int | None
    found: int

    @property
    def enough(self) -> bool:
        """Whether there are as many as needed."""
        return self.needed is not None and self.found >= self.needed


def choose_point(
    labels: npt.ArrayLike, logits: npt.ArrayLike, rule: str, kept: Calibration | None = None
) -> OperatingPoint:
    """Calibrates and chooses the threshold on labelled images.

    Args:
        labels: int [N], 0 NORMAL, 1 PNEUMONIA, both present.
        logits: float [N], finite.
        rule: as `choose_threshold` takes it.
        kept: a calibration to keep; None fits one.

    Raises:
        DataError: as `fit_calibration`.
    """
    calibration = kept or fit_calibration(logits, labels)
    return OperatingPoint(calibration, choose_threshold(labels, calibration.apply(logits), rule))


def choose_validated(
    labels: npt.NDArray[np.int8],
    probabilities: npt.NDArray[np.float32],
    rule: str,
    shifted: Callable[[], npt.NDArray[np.float32]] | None = None,
    cohorts: IntArray | None = None,
) -> Threshold:
    """Chooses the threshold on validation images, their shifted copies or each of their cohorts.

    Args:
        labels: int8 [N], 0 NORMAL, 1 PNEUMONIA, both present.
        probabilities: float32 [N], calibrated.
        rule: any that `train` takes.
        shifted: gives the calibrated probabilities of each of the shifted copies, float32
            [shifts, N], where the rule asks for them; None where there are no images.
        cohorts: int64 [N], where the rule asks for them.

    Raises:
        DataError: as `choose_threshold`.
    """
    if rule.endswith(COHORTS):
        plain = rule.removesuffix(COHORTS)
        return Threshold(choose_threshold(labels, probabilities, plain, cohorts).value, rule)
    if not rule.endswith(SHIFTED) or shifted is None:
        return choose_threshold(labels, probabilities, rule)
    copies = shifted()
    pooled = np.concatenate([probabilities, copies.ravel()])
    each = np.tile(labels, 1 + len(copies))
    return Threshold(choose_threshold(each, pooled, rule.removesuffix(SHIFTED)).value, rule)


def cross_validate(
    labels: npt.NDArray[np.int8],
    logits: FloatArray,
    groups: IntArray,
    choose: Callable[[npt.NDArray[np.intp]], OperatingPoint],
    *,
    seed: int = 0,
) -> HeldOut:
    """Calls every image by an operating point that was chosen on the images of other patients.

    Args:
        labels: int8 [N], 0 NORMAL, 1 PNEUMONIA.
        logits: float [N], finite.
        groups: int64 [N], images of one patient have one number.
        choose: gives the point that is chosen on some of the rows, both classes among them.
        seed: of the division.

    Raises:
        DataError: a class has fewer than two patients, or nearly all its images are of one.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # takes two seconds to import

    patients = [len(np.unique(groups[labels == label])) for label in (0, 1)]
    for name, count in zip(CLASS_NAMES, patients, strict=True):
        if count < 2:
            raise DataError(
                f"received {name} images of {count} patient(s); expected 2 or more of each class, "
                "to choose the operating point on some and judge it on others: label more images"
            )
    num_folds = min(MAX_FOLDS, *patients)
    probabilities, calls = np.empty(len(labels), np.float32), np.empty(len(labels), np.int8)
    margins = np.empty(len(labels))
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    for others, held in folds.split(labels, labels, groups):
        if len(np.unique(labels[others])) < 2:
            raise DataError(
                "nearly all images of a class are of one patient, so the operating point cannot be "
                "judged on others: label images of more patients"
            )
        point = choose(others)
        probabilities[held] = point.calibration.apply(logits[held])
        calls[held] = call_labels(probabilities[held], point.threshold.value)
        margins[held] = find_margins(logits[held], point.calibration, point.threshold.value)
    return HeldOut(probabilities, calls, margins, num_folds)


def threshold_interval(
    labels: npt.NDArray[np.int8],
    probabilities: npt.NDArray[np.float32],
    groups: IntArray,
    threshold: Threshold,
    *,
    seed: int = 0,
) -> Interval:
    """Returns a chosen threshold with the interval in which those of other patients would lie.

    Args:
        labels: int8 [N], 0 NORMAL, 1 PNEUMONIA, both present.
        probabilities: float32 [N], calibrated; the curve is held fixed.
        groups: int64 [N], numbers of patients from 0 without gaps, drawn whole.
        threshold: what was chosen on all of them.
        seed: of the resamples.
    """
    if threshold.rule == "fixed":
        return Interval(threshold.value, note="given by the user")
    chosen = []
    num_groups = int(groups.max()) + 1
    for counts in draw_counts(num_groups, NUM_RESAMPLES, len(labels), seed):
        for weights in counts:
            rows = np.repeat(np.arange(len(labels)), weights[groups].astype(np.int64))
            if len(np.unique(labels[rows])) == len(CLASS_NAMES):
                drawn = choose_threshold(labels[rows], probabilities[rows], threshold.rule)
                chosen.append(drawn.value)
    bounds = percentile_bounds(np.array(chosen), LEVEL)
    return Interval(threshold.value, *(bounds or (None, None)))


def count_needed(labels: npt.NDArray[np.int8], groups: IntArray, rule: str) -> Need | None:
    """Returns how many images of different patients a rule with a floor needs; None for others.

    It is the smallest n with floor^n <= 0.05: so many are needed for any threshold, were it the
    lowest probability of all n, to keep the floor among the whole population with 95% confidence.

    Args:
        labels: int8 [N], 0 NORMAL, 1 PNEUMONIA.
        groups: int64 [N], images of one patient have one number and count once.
        rule: as `choose_threshold` takes it.

    Reference:
        Wilks, Determination of sample sizes for setting tolerance limits, Annals of Mathematical
        Statistics 12, 1941.
    """
    name, floor = parse_rule(rule)
    if name not in ("sensitivity", "specificity"):
        return None
    label = int(name == "sensitivity")
    needed = None
    if floor < 1:
        needed = math.ceil(math.log(1 - LEVEL) / math.log(floor)) if floor > 0 else 1
    found = len(np.unique(groups[labels == label]))
    return Need(CLASS_NAMES[label], floor, needed, found)
