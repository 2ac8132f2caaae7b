import numpy as np
import pytest
from scipy.special import expit
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from orchestrator.errors import DataError, SpecError
from orchestrator.evaluation.calibration import (
    call_labels,
    choose_threshold,
    fit_calibration,
)
from orchestrator.evaluation.figures import Calibration, Threshold
from orchestrator.evaluation.metrics import point_metrics


def test_apply_is_the_sigmoid_of_a_line_in_float32():
    found = Calibration(slope=2.0, intercept=-1.0).apply(np.array([0.5, 1.0], np.float32))
    assert found.dtype == np.float32
    assert list(found) == pytest.approx([0.5, 1 / (1 + np.exp(-1))])
    extreme = Calibration(1.0, 0.0).apply([-1e4, 1e4])
    assert list(extreme) == [0.0, 1.0]


def test_recovers_the_line_that_made_the_labels():
    rng = np.random.default_rng(0)
    logits = rng.normal(1.0, 3.0, 40_000)
    labels = (rng.random(40_000) < 1 / (1 + np.exp(-(0.5 * logits - 1.2)))).astype(int)
    found = fit_calibration(logits, labels)
    assert found.slope == pytest.approx(0.5, abs=0.02)
    assert found.intercept == pytest.approx(-1.2, abs=0.04)
    # With many rows Platt's targets are the labels: plain logistic regression is the same line.
    plain = LogisticRegression(C=np.inf, tol=1e-8).fit(logits[:, None], labels)
    assert found.slope == pytest.approx(plain.coef_[0, 0], rel=2e-3)
    assert found.intercept == pytest.approx(plain.intercept_[0], rel=2e-3)


def test_fit_is_the_minimum_under_platts_targets():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=60) * 5 + 2, np.arange(60) % 3 == 0
    logits += 3 * labels
    found = fit_calibration(logits, labels)
    targets = np.where(labels, 21 / 22, 1 / 42)  # 20 positive and 40 negative rows
    error = 1 / (1 + np.exp(-(found.slope * logits + found.intercept))) - targets
    assert abs(error.mean()) < 1e-7
    assert abs((error * logits).mean()) < 1e-6


def test_the_scale_of_logits_does_not_matter():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 200)
    logits = rng.normal(size=200) + labels
    plain = fit_calibration(logits, labels).apply(logits)
    for factor in (1e-4, 1e4):
        scaled = fit_calibration(logits * factor, labels).apply(logits * factor)
        assert scaled == pytest.approx(plain, abs=1e-5)


def test_separable_data_stay_finite():
    logits = np.array([-2.0, -2.0, -2.0, 2.0, 2.0, 2.0])
    probabilities = fit_calibration(logits, [0, 0, 0, 1, 1, 1]).apply(logits)
    assert list(probabilities) == pytest.approx([1 / 5] * 3 + [4 / 5] * 3)  # Platt's targets
    found = fit_calibration(np.arange(-1e3, 1e3), np.repeat([0, 1], 1000))
    assert np.isfinite([found.slope, found.intercept]).all()
    assert 0 < found.slope < 1


@pytest.mark.parametrize("logits", [[3.0, 2.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
def test_never_turns_the_order_around(logits):
    found = fit_calibration(logits, [0, 0, 1, 1])
    assert found.slope > 0
    assert np.all(np.diff(found.apply(np.linspace(-5, 5, 11)).astype(float)) > 0)


def test_calibration_keeps_auroc():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 500)
    logits = rng.normal(size=500) * 4 + labels
    probabilities = fit_calibration(logits, labels).apply(logits)
    assert sk.roc_auc_score(labels, probabilities) == sk.roc_auc_score(labels, logits)


def test_calibration_refuses_what_it_cannot_fit():
    with pytest.raises(DataError, match="one class"):
        fit_calibration([1.0, 2.0], [1, 1])
    with pytest.raises(DataError, match="diverged"):
        fit_calibration([1.0, np.nan], [0, 1])
    with pytest.raises(DataError, match="one length"):
        fit_calibration([1.0, 2.0, 3.0], [0, 1])


# By falling probability: 1 1 0 1 0 1 0 0. Calls of the k highest give (tp, fp):
# (1,0) (2,0) (2,1) (3,1) (3,2) (4,2) (4,3) (4,4).
LABELS = np.array([1, 1, 0, 1, 0, 1, 0, 0])
PROBABILITIES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("youden", 0.35),  # 0.5 at (2,0), (3,1) and (4,2): the most sensitive of the three
        ("accuracy", 0.35),  # 6 of 8 at the same three
        ("f1", 0.35),  # 2*4/(4+6) = .8 against .75 at (3,1)
        ("sensitivity@0.75", 0.55),  # (3,1)
        ("sensitivity@0.5", 0.75),  # (2,0)
        ("sensitivity@1", 0.35),
        ("specificity@0.75", 0.55),  # (3,1)
        ("specificity@1", 0.75),  # (2,0)
        ("specificity@0", 0.1),  # everything is called
        ("0.25", 0.25),
    ],
)
def test_rules(rule, expected):
    found = choose_threshold(LABELS, PROBABILITIES, rule)
    assert found.value == pytest.approx(expected)
    assert found.value == float(np.float32(found.value))
    assert found.rule == ("fixed" if rule == "0.25" else rule)


def test_specificity_floor_above_every_image_calls_none():
    for top in (0.9, 1.0):
        found = choose_threshold([1, 0], np.array([0.4, top], np.float32), "specificity@0.9")
        assert call_labels([top], found.value)[0] == 0


def test_separable_data_put_the_threshold_in_the_gap():
    for rule in ("youden", "accuracy", "f1", "sensitivity@0.9", "specificity@0.9"):
        assert choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9], rule).value <= 0.6
    assert choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]).value == pytest.approx(0.4)


@pytest.mark.parametrize("rule", ["youden", "accuracy", "f1"])
@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_does_better(rule, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 60)
    probabilities = np.round(rng.random(60) * 0.6 + labels * 0.3, 2).astype(np.float32)

    def gain(threshold):
        called = probabilities >= np.float32(threshold)
        if rule == "youden":
            return sk.balanced_accuracy_score(labels, called)
        if rule == "accuracy":
            return sk.accuracy_score(labels, called)
        return sk.f1_score(labels, called)

    best = max(gain(threshold) for threshold in np.unique(probabilities))
    assert gain(choose_threshold(labels, probabilities, rule).value) == pytest.approx(best)


def test_a_call_does_not_depend_on_the_precision_of_the_reader():
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1))
    threshold = choose_threshold([0, 1], np.array([low, high]), "youden").value
    for dtype in (np.float32, np.float64):
        assert list(call_labels(np.array([low, high]).astype(dtype), threshold)) == [0, 1]
    assert list(np.array([low, high]) >= threshold) == [False, True]


@pytest.mark.parametrize("rule", ["best", "sensitivity", "sensitivity@2", "youden@0.5", "1.5", ""])
def test_unknown_rules(rule):
    with pytest.raises(SpecError, match="expected youden"):
        choose_threshold(LABELS, PROBABILITIES, rule)


def test_threshold_needs_both_classes_unless_fixed():
    with pytest.raises(DataError, match="'youden' received 2 validation rows of one class"):
        choose_threshold([0, 0], [0.1, 0.2])
    assert choose_threshold([0, 0], [0.1, 0.2], "0.5") == Threshold(0.5, "fixed")


def test_a_smoothed_threshold_follows_the_distributions_and_not_single_images() -> None:
    rng = np.random.default_rng(0)
    normal, ill = rng.normal(-1, 1, 400), rng.normal(1, 1, 400)
    labels = np.repeat([0, 1], 400)
    found = [
        choose_threshold(labels, expit(np.concatenate([normal, ill])), rule).value
        for rule in ("youden", "youden-smoothed")
    ]
    # Two equal Gaussians are farthest apart half-way between their means.
    assert found[1] == pytest.approx(0.5, abs=0.05)
    # One image more moves the plain rule as far as the gap to the next image, this one hardly.
    odd = np.append(np.concatenate([normal, ill]), [2.5])
    moved = choose_threshold(np.append(labels, 0), expit(odd), "youden-smoothed").value
    assert moved == pytest.approx(found[1], abs=0.01)
    constant = np.where(labels == 1, 1.0, 0.0)  # each class at one value
    assert 0.0 < choose_threshold(labels, constant, "youden-smoothed").value < 1.0


def test_a_smoothed_threshold_needs_both_classes() -> None:
    with pytest.raises(DataError, match="one class"):
        choose_threshold([1, 1], [0.2, 0.3], "youden-smoothed")


@pytest.mark.parametrize("rule", ["youden", "youden-smoothed", "accuracy", "f1", "sensitivity@0.9"])
def test_a_threshold_for_cohorts_is_the_best_in_the_worst_of_them(rule: str) -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 600)
    cohorts = np.repeat([0, 1], [500, 100])
    # The second site's images look iller than the first's: one threshold cannot suit both.
    probabilities = expit(rng.normal(size=600) + 3 * labels - 1.5 + 1.2 * cohorts)

    def worth(threshold: float) -> float:
        found = []
        for cohort in (0, 1):
            mine = cohorts == cohort
            figures = point_metrics(labels[mine], probabilities[mine], threshold)
            index = figures["sensitivity"] + figures["specificity"]
            at_floor = figures["specificity"] if figures["sensitivity"] >= 0.9 else -1.0
            found.append(
                {"accuracy": figures["accuracy"], "f1": figures["f1"]}.get(
                    rule, at_floor if "@" in rule else index
                )
            )
        return min(found)

    chosen = choose_threshold(labels, probabilities, rule, cohorts)
    tried = max(worth(value) for value in np.unique(probabilities))
    slack = 0.06 if rule == "youden-smoothed" else 1e-9
    assert worth(chosen.value) >= tried - slack
    pooled = choose_threshold(labels, probabilities, rule)
    assert worth(pooled.value) < worth(chosen.value)
    assert choose_threshold(labels, probabilities, rule, np.zeros(600)) == pooled
