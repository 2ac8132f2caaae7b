"""Metrics of groups: a group that is served worse is found, and chance is not taken for one."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from orchestrator.evaluation import subgroups
from orchestrator.evaluation.groups import Dimension
from orchestrator.evaluation.metrics import evaluate
from orchestrator.evaluation.report.subgroups import view_subgroups
from orchestrator.evaluation.subgroups import MIN_PATIENTS, TESTED, measure_subgroups

NUM = 400


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where intervals do not matter."""
    monkeypatch.setattr(subgroups, "_RESAMPLES", (1, 1))


def make(seed: int, worse_by: float = 0.0, num: int = NUM) -> tuple[np.ndarray, ...]:
    """Labels, probabilities and a group (1 or 2) that is blind by so much."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, num).astype(np.int8)
    groups = rng.integers(1, 3, num).astype(np.uint8)
    spread = 0.6 - worse_by * (groups == 2)
    probabilities = 0.5 + spread * (labels - 0.5) + rng.normal(0, 0.2, num)
    return labels, np.clip(probabilities, 0, 1).astype(np.float32), groups


def measured(labels: Any, probabilities: Any, *codes: Any, patients: Any = None) -> dict[str, Any]:
    names = ("sex", "view", "device")
    dimensions = [
        Dimension(name, tuple(f"{name} {n}" for n in range(1, code.max() + 1)), code)
        for name, code in zip(names, codes, strict=False)
    ]
    patients = np.full(len(labels), None) if patients is None else patients
    return measure_subgroups(labels, probabilities, 0.5, patients, dimensions)


def metrics_of(found: dict[str, Any], group: int, dimension: int = 0) -> dict[str, Any]:
    return found["dimensions"][dimension]["groups"][group - 1]["metrics"]


def test_figures_are_those_of_each_group_alone() -> None:
    labels, probabilities, groups = make(0, 0.3)
    patients = np.arange(NUM).astype(object) // 2
    found = measured(labels, probabilities, groups, patients=patients)
    for number in (1, 2):
        group = groups == number
        alone = evaluate(labels[group], probabilities[group], 0.5, patients[group])
        counts = found["dimensions"][0]["groups"][number - 1]
        assert counts["num_images"] == group.sum()
        assert counts["num_patients"] == len(set(patients[group]))
        assert counts["num_positive"] + counts["num_negative"] == group.sum()
        for metric in TESTED:
            figure = metrics_of(found, number)[metric]
            expected = alone.metrics[metric].as_dict()
            assert {name: figure[name] for name in expected} == expected
            assert metrics_of(found, 3 - number)[metric]["rest"] == pytest.approx(figure["value"])
    auroc = metrics_of(found, 1)["auroc"]["rest"]
    assert auroc == pytest.approx(roc_auc_score(labels[groups == 2], probabilities[groups == 2]))


def test_the_test_of_a_rate_is_the_pooled_one_by_hand() -> None:
    # 30 of 40 found in the group, 57 of 60 outside it
    labels = np.ones(100, np.int8)
    probabilities = np.array([0.9] * 30 + [0.1] * 10 + [0.9] * 57 + [0.1] * 3, np.float32)
    groups = np.array([1] * 40 + [2] * 60, np.uint8)
    figure = metrics_of(measured(labels, probabilities, groups), 1)["sensitivity"]
    spread = np.sqrt(0.87 * 0.13 * (1 / 40 + 1 / 60))
    assert figure["p"] == pytest.approx(student.cdf((0.75 - 0.95) / spread, 39))
    assert (figure["rest"], figure["units"]) == (0.95, 40)


def test_copies_of_a_patients_images_are_no_more_evidence() -> None:
    labels, probabilities, groups = make(1, 0.3, 120)
    patients = np.arange(120).astype(object)
    once = measured(labels, probabilities, groups, patients=patients)
    thrice = measured(*(np.tile(each, 3) for each in (labels, probabilities, groups)),
                      patients=np.tile(patients, 3))  # fmt: skip
    for group in (1, 2):
        for metric in TESTED:
            one, many = metrics_of(once, group)[metric], metrics_of(thrice, group)[metric]
            assert many["p"] == pytest.approx(one["p"])
            assert many["units"] == one["units"]


@pytest.mark.usefixtures("few_resamples")
def test_p_values_are_corrected_by_holm() -> None:
    labels, probabilities, groups = make(2, 0.15)
    other = np.random.default_rng(9).integers(1, 4, NUM).astype(np.uint8)
    found = measured(labels, probabilities, groups, other)
    figures = [
        figure
        for dimension in found["dimensions"]
        for group in dimension["groups"]
        for figure in group["metrics"].values()
    ]
    assert found["method"]["num_tests"] == len(figures) == 15
    ordered = sorted(figures, key=lambda figure: figure["p"])
    reached = 0.0
    for rank, figure in enumerate(ordered):
        reached = max(reached, min(1, (15 - rank) * figure["p"]))
        assert figure["p_adjusted"] == pytest.approx(reached)
        assert figure["is_worse"] == (reached < 0.05)


@pytest.mark.usefixtures("few_resamples")
def test_a_group_that_is_served_worse_is_named() -> None:
    labels, probabilities, groups = make(3, 0.35)
    other = np.random.default_rng(9).integers(1, 4, NUM).astype(np.uint8)
    found = measured(labels, probabilities, other, groups)
    assert (found["worst"]["dimension"], found["worst"]["group"]) == ("view", "view 2")
    assert found["worst"]["is_worse"]
    view = view_subgroups(found)
    assert view is not None
    assert view["is_worse"]
    assert view["answer"].startswith("Served worst is View: view 2, with ")


@pytest.mark.usefixtures("few_resamples")
def test_chance_is_seldom_taken_for_a_worse_group() -> None:
    num_alarms = 0
    for seed in range(60):
        labels, probabilities, groups = make(seed, num=160)
        other = np.random.default_rng(seed + 99).integers(1, 4, 160).astype(np.uint8)
        found = measured(labels, probabilities, groups, other)
        num_alarms += found["worst"]["is_worse"]
    assert num_alarms <= 8  # of 60 at 5%, more come once in 500 times
    view = view_subgroups(measured(*make(0)))
    assert view is not None
    assert view["answer"].startswith("No group is significantly worse after correction for 6 ")


@pytest.mark.usefixtures("few_resamples")
def test_a_group_of_few_patients_is_grey_and_not_tested() -> None:
    labels, probabilities, groups = make(4, 0.5)
    is_rare = (groups == 2) & (labels == 1)
    kept = ~is_rare | (np.cumsum(is_rare) < MIN_PATIENTS)
    found = measured(labels[kept], probabilities[kept], groups[kept])
    for group in (1, 2):  # what is compared with few is no better
        figures = metrics_of(found, group)
        assert [figures[metric]["is_small"] for metric in TESTED] == [True, False, True]
        assert [figures[metric]["p"] is None for metric in TESTED] == [True, False, True]
    assert found["worst"]["metric"] == "specificity"
    few = measured(labels[:30], probabilities[:30], groups[:30])
    assert few["worst"] is None
    view = view_subgroups(few)
    assert view is not None
    assert view["answer"].startswith("No group could be tested")


def test_folders_that_are_named_by_the_class_are_no_groups() -> None:
    labels, probabilities, groups = make(6, num=80)
    found = measured(labels, probabilities, (labels + 1).astype(np.uint8), groups)
    assert [dimension["name"] for dimension in found["dimensions"]] == ["view"]
    alone = measured(np.ones(80, np.int8), probabilities, groups)
    assert len(alone["dimensions"]) == 1


def test_a_group_of_one_class_has_what_can_be_measured() -> None:
    labels, probabilities, groups = make(5)
    labels[groups == 2] = 0
    figures = metrics_of(measured(labels, probabilities, groups), 2)
    assert figures["sensitivity"]["value"] is None
    assert figures["sensitivity"]["rest"] is None
    assert figures["auroc"]["units"] == 0
    assert figures["specificity"]["p"] is not None


@pytest.mark.usefixtures("few_resamples")
def test_folders_of_one_patient_each_are_no_sites() -> None:
    labels, probabilities, groups = make(5)
    patients = np.arange(NUM).astype(object)
    folders = Dimension("site_folder", tuple(f"p{n}" for n in range(1, groups.max() + 1)), groups)
    several = measure_subgroups(labels, probabilities, 0.5, patients, [folders])
    assert [dimension["name"] for dimension in several["dimensions"]] == ["site_folder"]
    alone = measure_subgroups(labels, probabilities, 0.5, groups.astype(object), [folders])
    assert alone["dimensions"] == []
