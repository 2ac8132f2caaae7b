"""Two models on the same images: figures, differences, and how often their intervals hold."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from sklearn import metrics as sk

from orchestrator.evaluation.groups import Dimension
from orchestrator.evaluation.metrics import evaluate
from orchestrator.evaluation.model_pair import ModelPair, measure_endpoints, measure_pair
from orchestrator.evaluation.pair_groups import measure_groups
from orchestrator.evaluation.verdict import Grounds, PromotionVerdict, decide


def make_pair(
    seed: int, num_patients: int, skills: tuple[float, float] = (1.5, 1.5), alike: float = 0.8
) -> ModelPair:
    """Patients with one image or two; both models see much of the same noise."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(num_patients), rng.integers(1, 3, num_patients))
    labels = (rng.random(num_patients) < 0.6)[patients].astype(np.int8)

    def noise() -> np.ndarray:
        return 0.7 * (rng.normal(size=num_patients)[patients] + rng.normal(size=patients.size))

    shared = noise()
    mixed = [np.sqrt(alike) * shared + np.sqrt(1 - alike) * noise() for _ in skills]
    logits = [s * (2.0 * labels - 1) + of for s, of in zip(skills, mixed, strict=True)]
    return ModelPair(
        labels,
        (logits[0], logits[1]),
        (expit(logits[0]).astype(np.float32), expit(logits[1]).astype(np.float32)),
        (0.5, 0.5),
        patients.astype(object),
    )


def judge(pair: ModelPair, **given: Any) -> PromotionVerdict:
    ends = measure_endpoints(pair, num_resamples=given.pop("num_resamples", 200))
    plain = {"is_same": False, "margin": 0.02, "superiority": 0.0, "endpoints": ends}
    return decide(Grounds(**plain | {"unusable": [], "worse_groups": []} | given))


def test_every_figure_is_that_of_each_model_and_the_difference_theirs() -> None:
    pair = make_pair(0, 150, (1.0, 1.6))
    found = measure_pair(pair, num_resamples=200, seed=4)
    for role, of in zip(("live", "candidate"), pair.probabilities, strict=True):
        alone = evaluate(pair.labels, of, 0.5, pair.patients, num_resamples=200, seed=4)
        for name in ("auroc", "sensitivity", "brier"):
            assert found["metrics"][name][role] == alone.metrics[name].as_dict()
    for name, metric in found["metrics"].items():
        apart = metric["candidate"]["value"] - metric["live"]["value"]
        assert metric["difference"]["value"] == pytest.approx(apart, abs=1e-12), name
        assert metric["difference"]["low"] < apart < metric["difference"]["high"]
    calls = [of >= 0.5 for of in pair.probabilities]
    balanced = [sk.balanced_accuracy_score(pair.labels, of) for of in calls]
    assert found["metrics"]["balanced_accuracy"]["candidate"]["value"] == pytest.approx(balanced[1])
    areas = found["areas"]
    assert areas["first"] == pytest.approx(sk.roc_auc_score(pair.labels, pair.probabilities[0]))
    right = [of == (pair.labels == 1) for of in calls]
    assert found["calls"]["all"]["only_second"] == np.sum(right[1] & ~right[0])
    apart_of = [found["calls"][name]["only_first"] for name in ("sensitivity", "specificity")]
    assert sum(apart_of) == found["calls"]["all"]["only_first"]
    # The first model's logits are too small for its skill, as the second's
    assert found["calibration"][0]["fitted"]["slope"] > 1
    assert set(found["endpoints"]) == {"auroc", "sensitivity", "specificity", "balanced_accuracy"}


def test_a_difference_that_no_patient_shows_is_not_thought_impossible() -> None:
    pair = make_pair(1, 40)
    same = replace(pair, probabilities=(pair.probabilities[0],) * 2)
    ends = measure_endpoints(same, num_resamples=50)
    negative, positive = same.num_patients
    assert ends["sensitivity"].value == 0
    assert ends["sensitivity"].low == pytest.approx(-(1 - 0.025 ** (1 / positive)))
    assert ends["specificity"].high == pytest.approx(1 - 0.025 ** (1 / negative))
    assert ends["auroc"].low == pytest.approx(-(1 - 0.025 ** (1 / min(positive, negative))))
    assert ends["balanced_accuracy"].gain_low < ends["balanced_accuracy"].low < -0.05
    assert judge(same).word == "undecided"  # of so few patients
    many = make_pair(1, 1000)
    many = replace(many, probabilities=(many.probabilities[0],) * 2)
    assert judge(many, num_resamples=20).word == "keep"


def test_one_class_or_few_patients_are_measured_without_endpoints() -> None:
    pair = make_pair(2, 30)
    few = measure_pair(pair, num_resamples=20)
    assert few["endpoints"] == {}
    assert few["areas"] is not None
    one = measure_pair(pair.select(pair.labels == 1), num_resamples=20)
    assert one["areas"] is None
    assert one["calibration"][0]["fitted"] is None
    for name in ("auroc", "balanced_accuracy", "specificity"):
        assert one["metrics"][name]["difference"]["value"] is None
        assert "undefined" in one["metrics"][name]["difference"]["note"]


def test_a_better_candidate_is_promoted_and_a_worse_one_is_not() -> None:
    assert judge(make_pair(3, 700, (1.0, 1.8))).word == "promote"
    assert judge(make_pair(3, 700, (1.8, 1.0))).word == "keep"


def test_a_group_that_the_candidate_serves_worse_is_named() -> None:
    pair = make_pair(5, 600, (1.5, 1.5))
    codes = (1 + np.array(pair.patients, int) % 2).astype(np.uint8)
    hurt = np.where((codes == 2) & (pair.labels == 1), 0.1, pair.probabilities[1])
    pair = replace(pair, probabilities=(pair.probabilities[0], hurt.astype(np.float32)))
    found = measure_groups(pair, [Dimension("sex", ("female", "male"), codes)])
    female, male = (group["figures"] for group in found["dimensions"][0]["groups"])
    assert male["sensitivity"]["candidate"] == 0
    assert male["sensitivity"]["is_worse"]
    assert not any(figure["is_worse"] for figure in female.values())
    assert found["num_tests"] == 6
    assert found["worse"][0].startswith("Sex male, sensitivity (recall) −0.9")
    assert male["specificity"]["low"] <= male["specificity"]["difference"]
    # Alike models: their p are corrected for how many there are
    figures = [f for part in (female, male) for f in part.values() if not f["is_worse"]]
    assert all(figure["p_adjusted"] >= figure["p"] for figure in figures)


def test_a_group_of_few_patients_is_shown_and_not_tested() -> None:
    pair = make_pair(6, 100)
    codes = np.where(np.array(pair.patients, int) < 15, 1, 2).astype(np.uint8)
    found = measure_groups(pair, [Dimension("view", ("AP", "PA"), codes)])
    few = found["dimensions"][0]["groups"][0]["figures"]["sensitivity"]
    assert few["p"] is None
    assert few["difference"] == pytest.approx(few["candidate"] - few["live"])


@pytest.mark.slow
def test_intervals_hold_as_often_as_they_say() -> None:
    """95% intervals of 1,000 samples of patients, against the differences of very many."""
    skills = (1.1, 1.4)
    many = make_pair(99, 400_000, skills)
    truth = {
        "auroc": np.subtract(*[sk.roc_auc_score(many.labels, p) for p in many.probabilities[::-1]])
    }
    calls = [of >= 0.5 for of in many.probabilities]
    rates = [[np.mean(of[many.labels == kind] == kind) for kind in (1, 0)] for of in calls]
    truth["sensitivity"] = rates[1][0] - rates[0][0]
    truth["specificity"] = rates[1][1] - rates[0][1]
    truth["balanced_accuracy"] = (truth["sensitivity"] + truth["specificity"]) / 2
    held = dict.fromkeys(truth, 0)
    for seed in range(1000):
        ends = measure_endpoints(make_pair(seed, 250, skills), num_resamples=400, seed=seed)
        for name, value in truth.items():
            held[name] += ends[name].low <= value <= ends[name].high
    assert all(930 <= number <= 970 for number in held.values()), held


@pytest.mark.slow
def test_a_model_that_is_no_better_is_seldom_promoted() -> None:
    """2.5% at most, by the rule; 12 of 250 have a chance of 1% where 2.5% are right."""
    words = [judge(make_pair(seed, 300, (1.2, 1.2))).word for seed in range(250)]
    assert words.count("promote") <= 12


@pytest.mark.slow
@pytest.mark.parametrize(("num", "worse"), [(50, 0.02), (100, 0.02), (200, 0.05)])
def test_a_model_that_is_worse_by_the_margin_is_seldom_called_not_worse(
    num: int, worse: float
) -> None:
    """Where few calls differ the bootstrap alone says so of a third of the samples."""
    num_wrong = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        labels = np.repeat([0, 1], num).astype(np.int8)
        live = np.full(2 * num, 0.4, np.float32) + 0.2 * labels
        lost = (labels == 1) & (rng.random(2 * num) < worse)
        candidate = np.where(lost, 0.4, live).astype(np.float32)
        logits = (live.astype(float), candidate.astype(float))
        patients = np.arange(2 * num).astype(object)
        pair = ModelPair(labels, logits, (live, candidate), (0.5, 0.5), patients)
        ends = measure_endpoints(pair, num_resamples=200, seed=seed)
        num_wrong += ends["sensitivity"].low > -worse
    assert num_wrong <= 24  # 6%; 2.5% are right
