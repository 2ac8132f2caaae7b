import numpy as np
import pytest
from sklearn import metrics as sk

from orchestrator.errors import SpecError
from orchestrator.evaluation.paired import below_best, paired_difference
from tests.evaluation.test_metrics import sample

BOTH = (0.5, 0.5)


def trained(rng, labels, skills):
    """Probabilities [models, N], each of its own skill and noise."""
    noise = rng.normal(size=(len(skills), labels.size))
    return 1 / (1 + np.exp(-(np.outer(skills, 2 * labels - 1) + noise)))


def test_paired_difference():
    labels, probabilities, groups = sample(300, decimals=6)
    rng = np.random.default_rng(1)
    worse = np.clip(probabilities + rng.normal(0, 0.4, 300), 0, 1)
    found = paired_difference(labels, probabilities, worse, BOTH, groups, "auroc")
    expected = sk.roc_auc_score(labels, probabilities) - sk.roc_auc_score(labels, worse)
    assert found.value == pytest.approx(expected)
    assert 0 < found.low < found.value < found.high
    assert found.num_seeds == 1
    other = paired_difference(labels, worse, worse, (0.2, 0.5), groups, "sensitivity")
    assert other.value > 0
    assert paired_difference([1, 1], [0.1, 0.2], [0.1, 0.2], BOTH, None).value is None
    with pytest.raises(SpecError, match="choose one of accuracy"):
        paired_difference([0, 1], [0.1, 0.2], [0.1, 0.2], BOTH, None, "auc")


def test_equal_models_have_no_interval_of_no_width():
    labels, probabilities, groups = sample(100)
    same = paired_difference(labels, probabilities, probabilities, BOTH, groups)
    assert (same.value, same.low, same.high) == (0, None, None)
    assert "nearly every resample gives the same figure" in same.note
    _, found = below_best(labels, [probabilities, probabilities], groups)
    assert (found[1].value, found[1].low, found[1].note) == (0, None, same.note)


def test_trainings_are_measured_each_with_its_threshold_and_averaged():
    labels, probabilities, groups = sample(200, decimals=6)
    rng = np.random.default_rng(2)
    seeds = np.clip(probabilities + rng.normal(0, 0.2, (3, 200)), 0, 1)
    cuts = [0.3, 0.5, 0.6]
    found = paired_difference(labels, seeds, probabilities, (cuts, 0.5), groups, "recall")
    recalls = [sk.recall_score(labels, row >= cut) for row, cut in zip(seeds, cuts, strict=True)]
    alone = sk.recall_score(labels, probabilities >= 0.5)
    assert found.value == pytest.approx(np.mean(recalls) - alone)
    assert found.num_seeds == 1  # of B
    assert found.as_dict()["num_seeds"] == 1


def test_the_spread_of_seeds_widens_the_interval_and_repeats_do_not():
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], 50)
    one, other = trained(rng, labels, [1.0, 0.6])
    spread = trained(rng, labels, [0.3, 1.0, 1.7])

    def compare(model):
        trainings = len(np.atleast_2d(model))
        others = [other] * trainings
        return paired_difference(labels, model, others, BOTH, None, num_resamples=200)

    single, copies, wide = compare(one), compare([one] * 3), compare(spread)
    assert (copies.low, copies.high) == pytest.approx((single.low, single.high))
    assert (single.num_seeds, copies.num_seeds) == (1, 3)
    assert wide.high - wide.low > 2 * (single.high - single.low)


def test_a_difference_of_seeds_alone_is_seldom_claimed():
    """Two recipes that are equal, whose trainings come out better or worse by their seed."""
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1], 40)
    by_one, by_three, num_samples = 0, 0, 60
    for _ in range(num_samples):
        first, second = (trained(rng, labels, rng.normal(1, 0.3, 3)) for _ in range(2))
        one = paired_difference(labels, first[0], second[0], BOTH, None, num_resamples=100)
        three = paired_difference(labels, first, second, BOTH, None, num_resamples=100)
        by_one += one.low > 0 or one.high < 0
        by_three += three.low > 0 or three.high < 0
    assert by_one > 0.3 * num_samples
    assert by_three <= 0.05 * num_samples


def test_the_best_is_picked_without_making_the_others_worse():
    """Of models equally good, the intervals against the picked best hold together."""
    rng = np.random.default_rng(5)
    labels = np.repeat([0, 1], 30)
    picked, simultaneous, num_samples = 0, 0, 60
    for _ in range(num_samples):
        models = trained(rng, labels, [1.0] * 5)
        best, found = below_best(labels, models, None, num_resamples=100)
        assert set(found) == set(range(5)) - {best}
        simultaneous += any(difference.high < 0 for difference in found.values())
        worst = min(found, key=lambda place: found[place].value)
        pair = models[worst], models[best]
        picked += paired_difference(labels, *pair, BOTH, None, num_resamples=100).high < 0
    assert picked > 0.15 * num_samples
    assert simultaneous <= 0.08 * num_samples


def test_below_best_is_the_difference_within_symmetric_bounds():
    rng = np.random.default_rng(6)
    labels = np.repeat([0, 1], 80)
    models = list(trained(rng, labels, [0.2, 1.5, 1.4]))
    best, found = below_best(labels, models, [f"p{n // 2}" for n in range(160)])
    assert best == 1
    areas = [sk.roc_auc_score(labels, model) for model in models]
    for place, difference in found.items():
        assert difference.value == pytest.approx(areas[place] - areas[1])
        middle = (difference.low + difference.high) / 2
        assert middle == pytest.approx(difference.value)
    assert found[0].high < 0 < found[2].high
    # Of two models there is one pair, and nothing to adjust for.
    _, pair = below_best(labels, models[1:], None)
    alone = paired_difference(labels, models[2], models[1], BOTH, None)
    assert pair[1].high - pair[1].low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert below_best([1, 1], [[0.1, 0.2], [0.3, 0.4]], None)[1][1].value is None
