"""Which predictions to accept and which to leave to a person: choosing the rule, applying it.

An image's margin is the distance of its calibrated log-odds from the threshold's. The larger it is,
the rarer the call is wrong, so a rule is one margin. Patients are the units: images of one patient
err together. What test-time views differ by adds nothing to their mean (benchmarks/RESULTS.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # its parts are imported as they are used

from orchestrator.config.review import ReviewTarget
from orchestrator.evaluation.bootstrap import FloatArray, IntArray
from orchestrator.evaluation.calibration import call_labels
from orchestrator.evaluation.figures import Calibration
from orchestrator.evaluation.review_rule import ACCEPT, CONFIDENCE, REVIEW, ReviewPoint, ReviewRule

# Margins that a rule may have, in log-odds, the largest first. Fixed beforehand: the bound below is
# for margins that do not depend on the images.
MARGINS = (*(float(f"{0.05 * 1.15**step:.4g}") for step in range(47, -1, -1)), 0.0)
_CLOSEST = 1e-7  # of a threshold to 0 and 1: its log-odds must be finite

BoolArray = npt.NDArray[np.bool_]


def find_margins(
    logits: npt.ArrayLike,
    calibration: Calibration,
    threshold: float,
) -> FloatArray:
    """Returns how clearly each image is called: how far its log-odds are from the threshold's.

    Args:
        logits: float [N], the network's.
        calibration: from logit to probability.
        threshold: PNEUMONIA is called where probability >= threshold.

    Returns:
        float64 [N], >= 0.

    Reference:
        Chow, On optimum recognition error and reject tradeoff, IEEE Trans. Inf. Theory 16, 1970.
    """
    odds = calibration.slope * np.asarray(logits, np.float64) + calibration.intercept
    margins: FloatArray = np.abs(
        odds - scipy.special.logit(np.clip(threshold, _CLOSEST, 1 - _CLOSEST))
    )
    return margins


def choose_rule(
    margins: FloatArray,
    wrong: BoolArray,
    groups: IntArray,
    target: ReviewTarget,
) -> ReviewRule:
    """Chooses the margin from which on images are accepted, on labelled images.

    `review_rate` is split conformal prediction: the largest margin whose share of reviewed images,
    with one more of them and one more image, is at most the target. Of new images that are
    exchangeable with these the expected share is at most the target then.

    `accept_error` is a bound on selective risk by fixed-sequence testing. From the largest margin
    down, the share of patients with a wrong image among those with an accepted one is bounded above
    by Clopper and Pearson at 95% confidence; the last margin before the bound first exceeds the
    target is taken. With 95% confidence the share among new patients like these is at most the
    target then. Margins that accept too few patients for any bound are passed over.

    Args:
        margins: float64 [N], as `find_margins` gives them.
        wrong: bool [N], whether an image's call is not its label.
        groups: int64 [N], images of one patient have one number.
        target: name and value.

    Returns:
        The rule; its margin is None where no margin meets the target.

    Reference:
        Geifman and El-Yaniv, Selective classification for deep neural networks, NeurIPS 2017.
        Angelopoulos, Bates, Candès, Jordan and Lei, Learn then Test: calibrating predictive
        algorithms to achieve risk control, arXiv 2110.01052, 2021 (fixed sequences: section 2.2).
        Clopper and Pearson, The use of confidence or fiducial limits, Biometrika 26, 1934.
        Papadopoulos, Proedrou, Vovk and Gammerman, Inductive confidence machines for regression,
        ECML 2002 (split conformal prediction).
    """
    rule = ReviewRule(
        target=target,
        margin=None,
        num_images=len(margins),
        num_patients=len(np.unique(groups)),
        curve=build_curve(margins, wrong, groups),
    )
    return retarget(rule, target)


def retarget(rule: ReviewRule, target: ReviewTarget) -> ReviewRule:
    """Returns the rule for another target, by the same images."""
    name, value = target
    chosen: float | None = None
    if name == "review_rate":
        passed = [
            point.margin
            for point in rule.curve
            if rule.num_images - point.accepted + 1 <= value * (rule.num_images + 1)
        ]
        chosen = passed[0] if passed else 0.0  # reviewing none is never too many
    else:
        for point in rule.curve:
            if bound_share(0, point.patients) > value:
                continue
            if bound_share(point.failed, point.patients) > value:
                break
            chosen = point.margin
    return replace(rule, target=target, margin=chosen)


def build_curve(margins: FloatArray, wrong: BoolArray, groups: IntArray) -> tuple[ReviewPoint, ...]:
    """Returns what each of `MARGINS` accepts, from the first one that accepts any image.

    Args:
        margins: as for `choose_rule`.
        wrong: as for `choose_rule`.
        groups: as for `choose_rule`.
    """
    # An image, a wrong one, a patient and a failed one count from their largest margin on.
    of_image, of_wrong = np.sort(margins), np.sort(margins[wrong])
    of_patient = np.sort(_largest(margins, groups))
    of_failed = np.sort(_largest(margins[wrong], groups[wrong]))
    points = []
    for margin in MARGINS:
        counts = (
            len(values) - int(np.searchsorted(values, margin))
            for values in (of_image, of_wrong, of_patient, of_failed)
        )
        point = ReviewPoint(margin, *counts)
        if point.accepted:
            points.append(point)
    return tuple(points)


def bound_share(failed: int, total: int) -> float:
    """Returns the upper end of Clopper and Pearson's one-sided 95% interval of a share.

    Args:
        failed: how many of them.
        total: of how many.
    """
    if failed >= total:
        return 1.0
    return float(scipy.special.betaincinv(failed + 1, total - failed, CONFIDENCE))


def accepts(rule: ReviewRule, margins: FloatArray) -> BoolArray:
    """Returns which images a rule accepts, by their margins, bool [N]."""
    accepted: BoolArray = margins >= (np.inf if rule.margin is None else rule.margin)
    return accepted


@dataclass(frozen=True)
class Reviewer:
    """The rule of one model beside its operating point.

    Args:
        rule: its margin and what it counts.
        calibration: from logit to probability.
        threshold: PNEUMONIA is called where probability >= threshold.
    """

    rule: ReviewRule
    calibration: Calibration
    threshold: float


def decide(
    reviewers: Sequence[Reviewer],
    logits: Sequence[npt.NDArray[Any]],
    others: Mapping[str, BoolArray] | None = None,
) -> dict[str, list[Any]]:
    """Decides for each image whether a person is to look.

    Of several models each must accept the image, and all must call it alike.

    Args:
        reviewers: of each model.
        logits: of each model float32 [N].
        others: further reasons, the word of `REVIEW_REASONS` -> bool [N], such as what a check of
            the intended use has found.

    Returns:
        By column: `margin` (float, the least of the models'), `decision`, and `review_reason`,
        None where accepted.
    """
    margins, calls = [], []
    reasons: dict[str, BoolArray] = {}
    for reviewer, values in zip(reviewers, logits, strict=True):
        margins.append(find_margins(values, reviewer.calibration, reviewer.threshold))
        calls.append(call_labels(reviewer.calibration.apply(values), reviewer.threshold))
        word = "no_bound" if reviewer.rule.margin is None else "near_threshold"
        reasons[word] = reasons.get(word, False) | ~accepts(reviewer.rule, margins[-1])
    reasons["models_disagree"] = np.max(calls, axis=0) != np.min(calls, axis=0)
    reasons |= others or {}
    words = [
        ",".join(word for word, which in reasons.items() if which[row])
        for row in range(len(logits[0]))
    ]
    return {
        "margin": np.min(margins, axis=0).astype(np.float32),
        "decision": [REVIEW if text else ACCEPT for text in words],
        "review_reason": [text or None for text in words],
    }


def _largest(margins: FloatArray, groups: IntArray) -> FloatArray:
    """The largest margin of each group."""
    order = np.lexsort((margins, groups))
    last = np.append(np.diff(groups[order]) != 0, True)[: len(order)]
    largest: FloatArray = margins[order][last]
    return largest
