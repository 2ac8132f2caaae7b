import json

import numpy as np
import pytest
from sklearn import metrics as sk

from orchestrator.errors import DataError, SpecError
from orchestrator.evaluation import bootstrap
from orchestrator.evaluation.metrics import METRIC_NAMES, evaluate, point_metrics

# Worked by hand. Sorted by probability: 1 at .9, 0 at .8, 1 and 0 tied at .6, 1 at .4, 0 at .1.
LABELS = np.array([1, 0, 1, 0, 1, 0])
PROBABILITIES = np.array([0.9, 0.8, 0.6, 0.6, 0.4, 0.1])


def sample(num_rows=400, seed=0, decimals=2):
    rng = np.random.default_rng(seed)
    labels = (rng.random(num_rows) < 0.7).astype(np.int8)
    logits = rng.normal(size=num_rows) + 2 * labels - 1
    groups = np.array([f"p{number}" for number in rng.integers(0, num_rows // 3, num_rows)])
    return labels, np.round(1 / (1 + np.exp(-logits)), decimals), groups


def test_hand_computed_values():
    found = evaluate(LABELS, PROBABILITIES, 0.6)
    assert vars(found.confusion) == {"tn": 1, "fp": 2, "fn": 1, "tp": 2}
    value = {name: interval.value for name, interval in found.metrics.items()}
    assert value["accuracy"] == pytest.approx(3 / 6)
    assert value["precision"] == value["ppv"] == pytest.approx(2 / 4)
    assert value["recall"] == value["sensitivity"] == pytest.approx(2 / 3)
    assert value["specificity"] == pytest.approx(1 / 3)
    assert value["npv"] == pytest.approx(1 / 2)
    assert value["f1"] == pytest.approx(4 / 7)
    # Pairs (positive, negative) won: .9 wins 3; .6 wins 1, ties 1, loses 1; .4 wins 1, loses 2.
    assert value["auroc"] == pytest.approx((3 + 1.5 + 1) / 9)
    # Recall steps of 1/3 at precisions 1, 2/4 (the tie counts as one step) and 3/5.
    assert value["auprc"] == pytest.approx((1 + 2 / 4 + 3 / 5) / 3)
    squared = np.array([0.1, 0.8, 0.4, 0.6, 0.6, 0.1]) ** 2
    assert value["brier"] == pytest.approx(squared.mean())
    likelihood = np.array([0.9, 0.2, 0.6, 0.4, 0.4, 0.9])
    assert value["log_loss"] == pytest.approx(-np.log(likelihood).mean())
    assert found.num_images == 6
    assert found.num_patients is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn(dtype, seed):
    labels, probabilities, _ = sample(seed=seed, decimals=1 + seed)
    probabilities = probabilities.astype(dtype)
    probabilities[:2] = 0, 1  # log loss clips
    labels[:2] = 1, 0
    predicted = probabilities >= 0.4
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "precision": sk.precision_score(labels, predicted),
        "recall": sk.recall_score(labels, predicted),
        "sensitivity": sk.recall_score(labels, predicted),
        "specificity": sk.recall_score(labels, predicted, pos_label=0),
        "f1": sk.f1_score(labels, predicted),
        "ppv": sk.precision_score(labels, predicted),
        "npv": sk.precision_score(labels, predicted, pos_label=0),
        "auroc": sk.roc_auc_score(labels, probabilities),
        "auprc": sk.average_precision_score(labels, probabilities),
        "log_loss": sk.log_loss(labels, probabilities),
        "brier": sk.brier_score_loss(labels, probabilities),
    }
    assert set(expected) == set(METRIC_NAMES)
    found = point_metrics(labels, probabilities, 0.4)
    assert found == pytest.approx(expected, rel=1e-6 if dtype is np.float32 else 1e-12)


def test_every_resample_equals_scikit_learn_on_the_drawn_rows():
    labels, probabilities, groups = sample(60)
    clusters = bootstrap.cluster_rows(groups, 60)
    (counts,) = bootstrap.draw_counts(clusters.max() + 1, 40, 60, seed=3)
    drawn = []
    for count in counts:
        rows = np.repeat(np.arange(60), count[clusters].astype(int))
        y, p = labels[rows], probabilities[rows]
        scores = sk.roc_auc_score(y, p), sk.average_precision_score(y, p), sk.log_loss(y, p)
        drawn.append([*scores, sk.f1_score(y, p >= 0.5)])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    found = evaluate(labels, probabilities, 0.5, groups, num_resamples=40, seed=3).metrics
    names = ["auroc", "auprc", "log_loss", "f1"]
    assert [found[name].low for name in names] == pytest.approx(list(low))
    assert [found[name].high for name in names] == pytest.approx(list(high))


def test_draws_do_not_depend_on_the_block(monkeypatch):
    labels, probabilities, groups = sample(90)
    whole = evaluate(labels, probabilities, 0.5, groups, num_resamples=50)
    monkeypatch.setattr(bootstrap, "BLOCK_ELEMENTS", 7 * 90)
    assert evaluate(labels, probabilities, 0.5, groups, num_resamples=50) == whole


def test_interval_covers_the_binomial_one():
    labels = np.ones(500, np.int8)
    probabilities = np.where(np.arange(500) < 400, 0.9, 0.1)
    found = evaluate(labels, probabilities, 0.5).metrics["sensitivity"]
    half = 1.96 * np.sqrt(0.8 * 0.2 / 500)
    assert found.low == pytest.approx(0.8 - half, abs=0.006)
    assert found.high == pytest.approx(0.8 + half, abs=0.006)


def test_copies_of_a_patient_widen_the_interval():
    labels, probabilities, _ = sample(100)
    copies = [np.repeat(values, 4) for values in (labels, probabilities, np.arange(100))]
    apart = evaluate(copies[0], copies[1], 0.5).metrics["auroc"]
    together = evaluate(copies[0], copies[1], 0.5, copies[2])
    alone = evaluate(labels, probabilities, 0.5).metrics["auroc"]
    grouped = together.metrics["auroc"]
    assert together.num_patients == 100
    assert grouped.low == pytest.approx(alone.low)  # copies add no information
    assert grouped.high == pytest.approx(alone.high)
    assert (apart.high - apart.low) < 0.7 * (grouped.high - grouped.low)


def test_unknown_patients_are_drawn_by_themselves():
    assert list(bootstrap.cluster_rows(["a", None, "", "a", float("nan"), None], 6)) == [
        *(0, 1, 2, 0, 3, 4)
    ]
    labels, probabilities, _ = sample(50)
    unknown = evaluate(labels, probabilities, 0.5, [None] * 50)
    assert unknown == evaluate(labels, probabilities, 0.5)
    some = evaluate(labels, probabilities, 0.5, ["a", "a", "b", *[None] * 47])
    assert some.num_patients == 2


def test_labels_of_one_class_give_null_and_the_reason():
    found = evaluate([0, 0, 0], [0.2, 0.3, 0.8], 0.5).metrics
    for name in ("auroc", "auprc", "sensitivity", "recall"):
        assert (found[name].value, found[name].low, found[name].high) == (None, None, None)
    assert "one class only" in found["auroc"].note
    assert "no image is labelled PNEUMONIA" in found["sensitivity"].note
    assert found["specificity"].value == pytest.approx(2 / 3)
    found = evaluate([1, 1], [0.8, 0.9], 0.5).metrics
    assert found["auprc"].value is None
    assert found["specificity"].value is None
    assert found["npv"].note == "undefined: no image was called NORMAL"


def test_no_call_of_a_class_leaves_its_predictive_value_undefined():
    found = evaluate([0, 1, 0], [0.1, 0.2, 0.3], 0.5).metrics
    assert found["ppv"].value is None
    assert found["f1"].value == 0.0
    assert evaluate([0, 0], [0.1, 0.2], 0.5).metrics["f1"].value is None


def test_proportion_of_one_keeps_an_honest_bound():
    found = evaluate([1] * 48 + [0] * 10, [0.9] * 48 + [0.1] * 10, 0.5).metrics["sensitivity"]
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.926, abs=5e-4)  # Clopper-Pearson, 48 of 48
    assert found.note == "exact bound over 48 patients or images"
    patients = ["a"] * 24 + ["b"] * 24 + ["c"] * 10
    found = evaluate([1] * 48 + [0] * 10, [0.9] * 48 + [0.1] * 10, 0.5, patients)
    assert found.metrics["sensitivity"].low == pytest.approx(0.025**0.5)
    assert found.metrics["specificity"].low == pytest.approx(0.025)


def test_one_patient_has_no_interval():
    found = evaluate([0, 1], [0.1, 0.9], 0.5, ["a", "a"]).metrics["accuracy"]
    assert (found.value, found.low, found.high) == (1.0, None, None)


def test_as_dict_is_strict_json():
    found = evaluate([0, 0, 1], [0.1, 0.6, 0.7], 0.5, ["a", "b", "c"], num_resamples=20)
    report = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert report["confusion"] == {"tn": 1, "fp": 1, "fn": 0, "tp": 1}
    assert set(report["metrics"]) == set(METRIC_NAMES)
    assert report["metrics"]["auroc"]["value"] == 1.0
    assert report["interval"]["method"] == "percentile bootstrap, clustered by patient"
    assert report["num_patients"] == 3


def test_perfect_order_keeps_an_honest_bound():
    labels, probabilities = [1] * 48 + [0] * 10, [0.9] * 48 + [0.1] * 10
    found = evaluate(labels, probabilities, 0.5).metrics
    assert (found["auroc"].value, found["auroc"].high) == (1.0, 1.0)
    assert found["auroc"].low == pytest.approx(0.025 ** (1 / 10))  # of the rarer class
    assert found["auroc"].note == "exact bound over 10 pairs of patients or images"
    turned = evaluate(labels, 1 - np.array(probabilities), 0.5).metrics["auroc"]
    assert (turned.value, turned.low) == (0.0, 0.0)
    assert turned.high == pytest.approx(1 - 0.025 ** (1 / 10))
    patients = ["a"] * 24 + ["b"] * 24 + ["c"] * 10
    found = evaluate(labels, probabilities, 0.5, patients).metrics
    assert found["auroc"].low == pytest.approx(0.025)
    # A patient of both classes makes one pair: of three patients no two pairs are disjoint.
    found = evaluate([1, 0, 1, 0, 1, 0], [0.9, 0.1] * 3, 0.5, list("aabbcc")).metrics
    assert found["auroc"].low == pytest.approx(0.025)


def test_no_interval_is_a_point():
    """Whatever the figure: a finite sample never makes it certain."""
    perfect = evaluate([1, 1, 0, 0], [1.0, 1.0, 0.0, 0.0], 0.5).metrics
    alike = evaluate([1, 1, 0, 0], [0.5, 0.5, 0.5, 0.5], 0.5).metrics
    for found in (*perfect.values(), *alike.values()):
        assert found.low is None or found.low < found.high
        assert found.low is not None or found.note
    assert perfect["auprc"].note == "none, since nearly every resample gives the same figure"


def test_the_interval_of_auroc_covers_the_truth_where_samples_are_often_perfect():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 10)
    covered, perfect, num_samples = 0, 0, 80
    for _ in range(num_samples):
        scores = rng.normal(size=20) + 2.6 * labels  # AUROC 0.967
        found = evaluate(labels, 1 / (1 + np.exp(-scores)), 0.5, num_resamples=100)
        auroc = found.metrics["auroc"]
        perfect += auroc.value == 1
        covered += auroc.low <= 0.967 <= auroc.high
    assert perfect > 0.25 * num_samples
    assert covered >= 0.95 * num_samples


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], [0.5], "flat arrays of one length"),
        ([], [], "at least one row"),
        ([0, 2], [0.5, 0.5], "neither 0 nor 1"),
        ([0, 1], [0.5, float("nan")], "NaN or outside"),
        ([0, 1], [0.5, 1.5], "NaN or outside"),
    ],
)
def test_bad_input(labels, probabilities, message):
    with pytest.raises(DataError, match=message):
        evaluate(labels, probabilities, 0.5)


def test_no_resamples():
    with pytest.raises(SpecError, match="at least 1"):
        evaluate([0, 1], [0.1, 0.2], 0.5, num_resamples=0)
