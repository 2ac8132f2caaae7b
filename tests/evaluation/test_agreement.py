import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from orchestrator.evaluation.agreement import measure_agreement


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
