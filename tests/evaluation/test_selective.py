import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import beta

from benchmarks.review import judge
from orchestrator.evaluation.figures import Calibration
from orchestrator.evaluation.review_rule import ReviewRule, count_patients, describe_review
from orchestrator.evaluation.selective import (
    MARGINS,
    Reviewer,
    accepts,
    bound_share,
    build_curve,
    choose_rule,
    decide,
    find_margins,
    retarget,
)
from tests.evaluation.test_operating_point import make_site


def draw(num_patients: int, seed: int, of_patient: int = 2) -> tuple[Any, Any, Any]:
    """Margins, errors that are rarer the larger the margin, and patients whose images err alike."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_patients), of_patient)
    margins = rng.exponential(3.0, num_patients)[groups]
    return margins, rng.random(num_patients)[groups] < expit(-margins - 1), groups


def test_a_margin_is_the_distance_of_the_log_odds() -> None:
    calibration = Calibration(2.0, -1.0)
    margins = find_margins([0.0, 0.5, 3.0], calibration, expit(1.0))
    assert margins == pytest.approx([2.0, 1.0, 4.0])
    assert np.isfinite(find_margins([0.0], calibration, 1 + 2**-23)).all()


def test_the_bound_is_clopper_and_pearsons() -> None:
    for failed, total in ((0, 10), (3, 40), (7, 2000)):
        expected = beta.ppf(0.95, failed + 1, total - failed)
        assert bound_share(failed, total) == pytest.approx(expected)
    assert bound_share(5, 5) == bound_share(0, 0) == 1.0
    assert count_patients(0.02) == 149
    assert bound_share(0, 149) <= 0.02 < bound_share(0, 148)


def test_the_curve_counts_images_and_patients_by_hand() -> None:
    margins = np.array([10.0, 0.1, 0.3, 2.0])
    wrong = np.array([False, True, True, False])
    curve = {point.margin: point for point in build_curve(margins, wrong, np.array([0, 0, 1, 1]))}
    assert min(curve) == 0.0
    at = {margin: list(asdict(point).values())[1:] for margin, point in curve.items()}
    assert at[0.0] == [4, 2, 2, 2]
    first = max(margin for margin in MARGINS if margin <= 2.0)
    assert at[first] == [2, 0, 2, 0]
    assert max(curve) == max(margin for margin in MARGINS if margin <= 10.0)


def test_the_error_of_new_patients_keeps_the_target_19_times_of_20() -> None:
    margins, wrong, groups = draw(20_000, seed=0)
    kept, shares = 0, []
    for seed in range(100):
        rule = choose_rule(*draw(300, seed=seed + 1), ("accept_error", 0.05))
        accepted = accepts(rule, margins)
        failed = np.unique(groups[accepted & wrong]).size
        kept += failed <= 0.05 * np.unique(groups[accepted]).size
        shares.append(accepted.mean())
    assert kept >= 95
    assert np.median(shares) > 0.5  # by accepting little any target is kept


def test_patients_are_the_units_of_the_bound() -> None:
    # 40 images of each of 30 patients are no 1,200 trials.
    rule = choose_rule(*draw(30, seed=1, of_patient=40), ("accept_error", 0.05))
    assert rule.margin is None
    assert (rule.num_images, rule.num_patients) == (1200, 30)
    assert "at least 59 patients" in describe_review(rule)


def test_the_share_of_new_images_reviewed_keeps_the_rate() -> None:
    margins, _, _ = draw(20_000, seed=0)
    rules = [choose_rule(*draw(100, seed=seed + 1), ("review_rate", 0.1)) for seed in range(100)]
    shares = [np.mean(~accepts(rule, margins)) for rule in rules]
    assert 0.07 < np.mean(shares) <= 0.1
    assert choose_rule(*draw(3, seed=1), ("review_rate", 0.001)).margin == 0.0


def test_a_stored_rule_takes_another_target_as_if_chosen_for_it() -> None:
    rows = draw(500, seed=4)
    rule = choose_rule(*rows, ("review_rate", 0.1))
    stored = ReviewRule(**json.loads(json.dumps(asdict(rule))))
    assert stored == rule
    for target in (("accept_error", 0.05), ("review_rate", 0.3)):
        assert retarget(stored, target) == choose_rule(*rows, target)  # type: ignore[arg-type]


def reviewer(margin: float | None, **fields: Any) -> Reviewer:
    rule = ReviewRule(("accept_error", 0.05), margin, 10, 10, ())
    return Reviewer(rule, **{"calibration": Calibration(), "threshold": 0.5} | fields)


def test_one_model_leaves_what_is_near_or_of_another_kind_to_a_person() -> None:
    others = {"out_of_scope": np.array([True, False, True])}
    found = decide([reviewer(1.0)], [np.array([0.5, -1.5, 2.0])], others)
    assert found["decision"] == ["review", "accept", "review"]
    assert found["review_reason"] == ["near_threshold,out_of_scope", None, "out_of_scope"]
    assert found["margin"].tolist() == [0.5, 1.5, 2.0]
    assert decide([reviewer(None)], [np.array([9.0])])["review_reason"] == ["no_bound"]


def test_of_several_models_all_must_accept_and_call_alike() -> None:
    models = [reviewer(1.0), reviewer(2.0, calibration=Calibration(2.0, 0.0))]
    found = decide(models, [np.array([3.0, 3.0, 3.0]), np.array([1.5, 0.5, -1.5])])
    assert found["review_reason"] == [None, "near_threshold", "models_disagree"]
    assert found["margin"].tolist() == [3.0, 1.0, 3.0]


def test_the_benchmark_judges_patients_that_chose_nothing() -> None:
    labels, logits, groups = make_site(1500, apart=5.0)
    rows = judge(labels, logits, groups, 0.05, 500, 5)
    assert (rows[:, 1] <= 0.05).all()
    assert np.median(rows[:, 0]) > 0.7
