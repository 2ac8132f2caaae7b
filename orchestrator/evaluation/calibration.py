"""From logits to calibrated probabilities, and from probabilities to a call.

Both are chosen on validation rows alone. Calibration never changes the order of images.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy  # its parts are imported as they are used

from orchestrator.errors import DataError, SpecError
from orchestrator.evaluation.bootstrap import FloatArray
from orchestrator.evaluation.figures import Calibration, Threshold
from orchestrator.evaluation.metrics import check_scored

_MAXIMISED = ("youden", "youden-smoothed", "accuracy", "f1")
_GRID = 4096  # places at which smoothed curves are compared
# The slope is in units of the logits' own spread. Below the lower bound logits carry no
# information, and the bound keeps the curve rising whatever the labels say.
_MIN_SLOPE, _MAX_SLOPE = 1e-2, 1e3
_CLOSEST = 1e-7  # to 0 and 1: a logit must be finite


def fit_calibration(logits: npt.ArrayLike, labels: npt.ArrayLike) -> Calibration:
    """Fits Platt scaling on validation logits.

    Platt's targets stand in for the labels: (P + 1) / (P + 2) for the P positive rows and
    1 / (N + 2) for the N negative ones. They are the labels' posterior mean under a uniform prior,
    and keep the fit finite where the classes are separable. The slope is bounded above 0, so the
    order of images, and with it AUROC, is that of the logits.

    Args:
        logits: float [N], finite.
        labels: int [N], 0 NORMAL, 1 PNEUMONIA, both present.

    Returns:
        The slope and intercept of least log loss against those targets.

    Raises:
        DataError: lengths differ, a logit is not finite, or one class only.

    Reference:
        Platt, Probabilistic outputs for support vector machines, 1999.
        Lin, Lin and Weng, A note on Platt's probabilistic outputs, Machine Learning 68, 2007.
    """
    raw = np.asarray(logits, np.float64)
    if not np.isfinite(raw).all():
        raise DataError(
            "received logits that are NaN or infinite; expected finite ones; the training has "
            "diverged: lower the learning rate"
        )
    label, _ = check_scored(labels, np.zeros(raw.shape), None)
    _require_both(label, "calibration")
    positive = label == 1
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    targets = np.where(positive, (num_positive + 1) / (num_positive + 2), 1 / (num_negative + 2))
    centre, spread = float(raw.mean()), float(raw.std()) or 1.0
    scaled = (raw - centre) / spread

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        score = parameters[0] * scaled + parameters[1]
        value = np.mean(np.logaddexp(0.0, score) - targets * score)
        error = scipy.special.expit(score) - targets
        return float(value), np.array([np.mean(error * scaled), np.mean(error)])

    start = np.array([1.0, np.log((num_positive + 1) / (num_negative + 1))])
    bounds = [(_MIN_SLOPE, _MAX_SLOPE), (None, None)]
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000}
    fit = scipy.optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    slope, offset = (float(parameter) for parameter in fit.x)
    return Calibration(slope / spread, offset - slope * centre / spread)


def choose_threshold(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    rule: str = "youden",
    cohorts: npt.ArrayLike | None = None,
) -> Threshold:
    """Chooses the operating point on validation rows by a stated rule.

    `youden` maximises sensitivity + specificity - 1, `accuracy` and `f1` themselves.
    `sensitivity@0.95` gives the highest specificity whose sensitivity is at least 0.95, and
    `specificity@0.95` the reverse. `youden-smoothed` maximises the index of the classes' logits
    smoothed by Gaussian kernels, which follows single images less. A number is taken as it is. Of
    equally good operating points the more sensitive one is taken, since a missed pneumonia is the
    worse error. With cohorts a threshold is worth what it gives in the cohort where it gives least.

    The value lies half-way between two neighbouring probabilities and is a float32, so that it
    calls the same images whichever precision a reader of the tables uses.

    Args:
        labels: int [N], 0 NORMAL, 1 PNEUMONIA, both present (not read for a number).
        probabilities: float [N], calibrated, 0..1.
        rule: youden, youden-smoothed, accuracy, f1, sensitivity@FLOOR, specificity@FLOOR or a
            number in 0..1.
        cohorts: int [N], images of one cohort have one number; None takes all for one cohort.

    Returns:
        The threshold, with its rule.

    Raises:
        SpecError: an unknown rule, or a floor outside 0..1.
        DataError: lengths differ, a value out of range, or a cohort of one class only.

    Reference:
        Youden, Index for rating diagnostic tests, Cancer 3, 1950.
        Fluss, Faraggi and Reiser, Estimation of the Youden index and its associated cutoff point,
        Biometrical Journal 47, 2005, section 2.4 (kernels).
    """
    name, floor = parse_rule(rule)
    if name == "number":
        return Threshold(float(np.float32(floor)), "fixed")
    label, probability = check_scored(labels, probabilities, None)
    wide = probability.astype(np.float64)
    numbers = np.zeros(label.size, int) if cohorts is None else np.asarray(cohorts)
    parts = [(wide[numbers == one], label[numbers == one]) for one in np.unique(numbers)]
    for _, of_part in parts:
        _require_both(of_part, f"threshold rule {rule!r}")
    if name == "youden-smoothed":
        return Threshold(_smoothed_youden(parts), rule)
    # Operating point k calls what has the k-th distinct probability or a higher one; a point that
    # calls no image at all is never of use.
    distinct = np.unique(wide)
    gain = np.min([_gains(name, floor, *part, distinct) for part in parts], axis=0)
    best = int(np.flatnonzero(gain >= gain.max() - 1e-12)[0])
    if gain[best] < 0:  # only specificity@: even the highest probability breaks the floor
        return Threshold(_between(float(wide.max()), 1.0), rule)
    below = float(distinct[best - 1]) if best else 0.0
    return Threshold(_between(below, float(distinct[best])), rule)


def call_labels(probabilities: npt.ArrayLike, threshold: float) -> npt.NDArray[np.int8]:
    """Returns the call for each probability; the one comparison that the whole product uses.

    Args:
        probabilities: float [N].
        threshold: PNEUMONIA is called where probability >= threshold, compared in float64.

    Returns:
        int8 [N], 0 NORMAL, 1 PNEUMONIA.
    """
    return (np.asarray(probabilities, np.float64) >= float(threshold)).astype(np.int8)


def parse_rule(rule: str) -> tuple[str, float]:
    """Returns the name of a rule and its number: the floor, or the threshold itself.

    Raises:
        SpecError: an unknown rule, or a number outside 0..1.
    """
    if rule in _MAXIMISED:
        return rule, 0.0
    name, _, floor = rule.partition("@")
    name, text = (name, floor) if name in ("sensitivity", "specificity") else ("number", rule)
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not 0 <= number <= 1:
        raise SpecError(
            f"received threshold rule {rule!r}; expected {', '.join(_MAXIMISED)}, "
            "sensitivity@0.95 or specificity@0.95 (any floor in 0..1) or a threshold in 0..1"
        )
    return name, number


def _gains(
    name: str,
    floor: float,
    probability: FloatArray,
    label: npt.NDArray[np.int8],
    thresholds: FloatArray,
) -> FloatArray:
    """What each threshold gives by a rule; -1 where it breaks the floor."""
    positive, negative = np.sort(probability[label == 1]), np.sort(probability[label == 0])
    tp = positive.size - np.searchsorted(positive, thresholds)
    fp = negative.size - np.searchsorted(negative, thresholds)
    sensitivity, specificity = tp / positive.size, 1 - fp / negative.size
    if name == "youden":
        return np.asarray(sensitivity + specificity)
    if name == "accuracy":
        return np.asarray((tp + (negative.size - fp)) / label.size)
    if name == "f1":
        return np.asarray(2 * tp / (positive.size + tp + fp))
    kept, sought = (
        (sensitivity, specificity) if name == "sensitivity" else (specificity, sensitivity)
    )
    return np.where(kept >= floor, sought, -1.0)


def _smoothed_youden(parts: Sequence[tuple[FloatArray, npt.NDArray[np.int8]]]) -> float:
    """Where the smoothed distribution functions of the classes are farthest apart."""
    scored = [
        (scipy.special.logit(np.clip(wide, _CLOSEST, 1 - _CLOSEST)), label) for wide, label in parts
    ]
    places = np.linspace(
        min(scores.min() for scores, _ in scored), max(scores.max() for scores, _ in scored), _GRID
    )
    gain = np.min([_smoothed_gain(*part, places) for part in scored], axis=0)
    # The middle of a plateau, and of several the more sensitive one.
    best = np.flatnonzero(gain >= gain.max() - 1e-9)
    plateau = best[: int(np.argmax(np.append(np.diff(best) > 1, True))) + 1]
    return float(np.float32(scipy.special.expit(places[plateau].mean())))


def _smoothed_gain(
    scores: FloatArray, label: npt.NDArray[np.int8], places: FloatArray
) -> FloatArray:
    """The smoothed Youden index at each place."""
    curves = []
    for value in (0, 1):
        of_class = scores[label == value]
        quarters = np.percentile(of_class, [25, 75])
        spread = min(of_class.std(), (quarters[1] - quarters[0]) / 1.34) or of_class.std()
        width = 0.9 * spread * of_class.size**-0.2 or 1e-6  # Silverman's rule
        # One class after the other in pieces: a square of places and images would not fit.
        total = np.zeros(_GRID)
        for start in range(0, of_class.size, _GRID):
            piece = of_class[start : start + _GRID]
            total += scipy.special.ndtr((places[:, None] - piece) / width).sum(axis=1)
        curves.append(total / of_class.size)
    return np.asarray(curves[0] - curves[1])


def _between(low: float, high: float) -> float:
    """A value above `low` and at most `high`, a float32 half-way where there is one."""
    middle = float(np.float32((low + high) / 2))
    if low < middle <= high:
        return middle
    return high if high > low or high == 0 else float(np.nextafter(np.float32(low), np.float32(2)))


def _require_both(label: npt.NDArray[np.int8], purpose: str) -> None:
    """Raises DataError unless both classes are present."""
    if label.min() == label.max():
        raise DataError(
            f"{purpose} received {label.size} validation rows of one class; expected both NORMAL "
            "and PNEUMONIA; give more data or another split"
        )
