import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from orchestrator.evaluation.agreement import measure_agreement, rate_difference
from orchestrator.evaluation.bootstrap import draw_counts


def test_kappa_is_scikit_learns_and_its_interval_counts_patients() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 5)
    first = rng.integers(0, 2, 60).astype(np.int8)[patients]
    second = np.where(rng.random(60)[patients] < 0.2, 1 - first, first).astype(np.int8)
    found = measure_agreement(first, second, patients)
    kappa = found.kappa
    assert kappa.value == pytest.approx(cohen_kappa_score(first, second))
    assert found.num_agreed == np.sum(first == second)
    assert kappa.low is not None and kappa.high is not None and kappa.value is not None
    assert kappa.low < kappa.value < kappa.high
    alone = measure_agreement(first, second, np.arange(300)).kappa
    assert alone.low is not None and alone.high is not None
    assert kappa.high - kappa.low > 1.5 * (alone.high - alone.low)


def test_one_class_alone_has_no_kappa() -> None:
    same = np.ones(3, np.int8)
    found = measure_agreement(same, same, np.arange(3)).as_dict()
    assert (found["num_images"], found["num_agreed"]) == (3, 3)
    assert found["kappa"]["value"] is None and "undefined" in found["kappa"]["note"]


def test_a_difference_of_rates_has_the_interval_of_whole_patients_drawn_one_by_one() -> None:
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(80), rng.integers(1, 6, 80))
    first = rng.integers(0, 2, patients.size).astype(np.int8)
    turned = (rng.random(80) < 0.3)[patients]
    second = np.where(turned, 1, first).astype(np.int8)
    found = rate_difference(first, second, patients, num_resamples=20_000)
    assert found.value == pytest.approx(second.mean() - first.mean())
    images = np.bincount(patients)
    change = np.bincount(patients, second.astype(float) - first)
    drawn = np.concatenate([c @ change / (c @ images) for c in draw_counts(80, 20_000, 80, 2)])
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.003)
    alone = rate_difference(first, second, np.arange(patients.size), num_resamples=20_000)
    assert alone.low is not None and alone.high is not None
    assert found.low is not None and found.high is not None
    assert found.high - found.low > 1.2 * (alone.high - alone.low)


def test_no_call_that_differs_bounds_the_difference_by_how_many_patients_there_are() -> None:
    calls = np.array([0, 1, 1] * 20, np.int8)
    found = rate_difference(calls, calls, np.arange(60) // 2)
    assert found.value == 0 and found.high == pytest.approx(1 - 0.025 ** (1 / 30))
    assert found.low == -found.high and found.note == "exact bound over 30 patients"
