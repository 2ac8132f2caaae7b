from typing import Any

import numpy as np
import pytest

from benchmarks.recalibrate import judge
from orchestrator.errors import DataError
from orchestrator.evaluation.calibration import choose_threshold
from orchestrator.evaluation.figures import Calibration, Threshold
from orchestrator.evaluation.operating_point import (
    choose_point,
    count_needed,
    cross_validate,
    threshold_interval,
)

RULE = "sensitivity@0.95"


def make_site(
    num_patients: int, seed: int = 0, apart: float = 3.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, logits and patients of a site whose logits are shifted; two images a patient."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_patients), 2)
    labels = (groups % 2).astype(np.int8)
    logits = (
        4 + apart * labels + rng.normal(size=num_patients)[groups] + rng.normal(size=len(groups))
    )
    return labels, logits, groups


def test_a_hundred_images_place_the_threshold_of_a_site() -> None:
    labels, logits, groups = make_site(1500)
    rows = judge(labels, logits, groups, RULE, 100, 50)
    differences = [specificity - best for _, specificity, best in rows]
    assert abs(np.median(differences)) < 0.03
    assert np.median([sensitivity for sensitivity, _, _ in rows]) == pytest.approx(0.95, abs=0.02)
    # The network's own curve and threshold, which a shift of all logits makes useless.
    assert np.mean(Calibration().apply(logits[labels == 0]) >= 0.5) > 0.9


def by(labels: Any, logits: Any, rule: str) -> Any:
    return lambda rows: choose_point(labels[rows], logits[rows], rule)


def test_a_calibration_is_fitted_or_kept() -> None:
    labels, logits, _ = make_site(200)
    fitted = choose_point(labels, logits, "youden")
    assert fitted.calibration.apply(logits).mean() == pytest.approx(labels.mean(), abs=0.01)
    kept = choose_point(labels, logits, "youden", Calibration(0.5, -1.0))
    assert kept.calibration == Calibration(0.5, -1.0)
    calls = [point.calibration.apply(logits) >= point.threshold.value for point in (fitted, kept)]
    assert np.array_equal(*calls)  # a curve keeps the order


def test_every_image_is_called_by_what_other_patients_chose() -> None:
    labels, logits, groups = make_site(60, apart=0.0)
    # A patient's images alone decide: resubstitution separates by chance, held-out images do not.
    held = cross_validate(labels, logits, groups, by(labels, logits, "accuracy"), seed=1)
    assert held.num_folds == 10
    point = choose_point(labels, logits, "accuracy")
    inside = np.mean((point.calibration.apply(logits) >= point.threshold.value) == labels)
    assert np.mean(held.calls == labels) < inside - 0.05
    # Nothing of a held-out patient counts: with other logits of one, only those held out with it
    # keep their probabilities.
    changed = logits.copy()
    changed[groups == 7] += 50
    fold = cross_validate(labels, changed, groups, by(labels, changed, "accuracy"), seed=1)
    same = fold.probabilities == held.probabilities
    assert same.sum() == 10
    assert 7 not in groups[same]


def test_folds_are_as_many_as_the_rarer_class_has_patients() -> None:
    labels, logits, groups = make_site(40)
    few = (labels == 0) | (groups < 6)  # patients 1, 3 and 5 are PNEUMONIA
    chosen = by(labels[few], logits[few], RULE)
    held = cross_validate(labels[few], logits[few], groups[few], chosen)
    assert held.num_folds == 3
    one = (labels == 0) | (groups < 2)
    with pytest.raises(DataError, match=r"PNEUMONIA images of 1 patient\(s\); expected 2 or more"):
        cross_validate(labels[one], logits[one], groups[one], chosen)


def test_the_threshold_of_more_patients_has_a_narrower_interval() -> None:
    widths = []
    for num_patients in (50, 1250):
        labels, logits, groups = make_site(num_patients)
        probable = Calibration(1.0, -5.5).apply(logits)
        chosen = choose_threshold(labels, probable, "sensitivity@0.8")
        found = threshold_interval(labels, probable, groups, chosen)
        assert found.value == chosen.value
        assert found.low is not None and found.high is not None
        assert found.low <= chosen.value <= found.high
        widths.append(found.high - found.low)
    # Twenty-five times the patients: a fifth of the width.
    assert widths[1] == pytest.approx(widths[0] / 5, rel=0.5)
    fixed = threshold_interval(labels, probable, groups, Threshold(0.5, "fixed"))
    assert (fixed.value, fixed.low, fixed.note) == (0.5, None, "given by the user")


def test_patients_are_drawn_whole() -> None:
    labels, logits, groups = make_site(60)
    probable = Calibration(1.0, -5.5).apply(logits)
    chosen = choose_threshold(labels, probable, "youden")
    once = threshold_interval(labels, probable, groups, chosen)
    twice = [np.concatenate([column, column]) for column in (labels, probable, groups)]
    assert threshold_interval(*twice, chosen) == once  # more images, as many patients


@pytest.mark.parametrize(
    ("rule", "of_class", "needed"),
    [
        ("sensitivity@0.95", "PNEUMONIA", 59),  # 0.95^59 = 0.0485, 0.95^58 = 0.0511
        ("sensitivity@0.9", "PNEUMONIA", 29),
        ("specificity@0.99", "NORMAL", 299),
        ("specificity@0", "NORMAL", 1),
        ("sensitivity@1", "PNEUMONIA", None),
    ],
)
def test_a_floor_needs_so_many_patients(rule: str, of_class: str, needed: int | None) -> None:
    labels, _, groups = make_site(118)  # 59 patients of each class, 118 images
    found = count_needed(labels, groups, rule)
    assert found is not None
    assert (found.of_class, found.needed, found.found) == (of_class, needed, 59)
    assert found.enough == (needed is not None and needed <= 59)


def test_a_rule_without_a_floor_promises_nothing() -> None:
    labels, _, groups = make_site(10)
    assert count_needed(labels, groups, "youden-smoothed") is None
    assert count_needed(labels, groups, "0.5") is None


def test_a_class_of_nearly_one_patient_cannot_be_judged_on_others() -> None:
    labels = np.array([0] * 6 + [1, 0, 1], np.int8)
    groups = np.array([0] * 6 + [1, 2, 2])
    with pytest.raises(DataError, match="nearly all images of a class are of one patient"):
        cross_validate(labels, np.arange(9.0), groups, by(labels, np.arange(9.0), "youden"))
