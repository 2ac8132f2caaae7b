"""The review rule of a training: chosen on its validation images, measured on each split."""

from collections.abc import Mapping
from typing import Any

from orchestrator.config.review import ReviewTarget
from orchestrator.data.labelled_rows import LabelledRows
from orchestrator.evaluation.bootstrap import cluster_rows
from orchestrator.evaluation.calibration import call_labels
from orchestrator.evaluation.figures import Calibration, Threshold
from orchestrator.evaluation.report.review import measure_review
from orchestrator.evaluation.review_rule import ReviewRule
from orchestrator.evaluation.selective import accepts, choose_rule, find_margins

_TITLES = {"val": "Validation", "test": "Test"}


def review_splits(
    target: ReviewTarget,
    parts: Mapping[str, LabelledRows],
    logits: Mapping[str, Any],
    calibration: Calibration,
    threshold: Threshold,
) -> tuple[ReviewRule, dict[str, Any]]:
    """Chooses a rule on the validation rows and measures it on these and on the test rows.

    Args:
        target: of the rule.
        parts: "val", and "test" where there is one -> its rows.
        logits: by the same names float32 [n].
        calibration: from logit to probability.
        threshold: the operating point.

    Returns:
        The rule, and what the report says of it.
    """
    rows = {}
    for name, values in logits.items():
        part = parts[name]
        margins = find_margins(values, calibration, threshold.value)
        wrong = call_labels(calibration.apply(values), threshold.value) != part.labels
        rows[name] = margins, wrong, cluster_rows(part.patients, len(part))
    rule = choose_rule(*rows["val"], target)
    measured = {
        _TITLES[name]: measure_review(margins, accepts(rule, margins), wrong, groups)
        for name, (margins, wrong, groups) in rows.items()
    }
    return rule, {"rules": [rule.as_dict()], "measured": measured}
