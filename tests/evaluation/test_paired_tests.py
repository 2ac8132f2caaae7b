"""DeLong's and McNemar's tests against published examples, R, and counting pair by pair."""

import numpy as np
import pytest

from orchestrator.evaluation.bootstrap import cluster_rows
from orchestrator.evaluation.paired_tests import compare_areas, compare_calls

# 43 patients of DeLong, DeLong and Clarke-Pearson (1988), as SAS prints them in its documentation
# of PROC LOGISTIC, "Comparing Receiver Operating Characteristic Curves": albumin and total protein
# (tenths), 10 - K-G score, and whether the operation was a success.
ALBUMIN = [
    *(30, 32, 39, 28, 32, 9, 25, 16, 38, 37, 32, 38, 41, 36, 43, 36, 23, 42, 40, 35, 38, 30),
    *(45, 37, 31, 41, 43, 43, 32, 26, 33, 17, 37, 33, 42, 35, 29, 21, 28, 40, 33, 37, 36),
]
PROTEIN = [
    *(58, 63, 68, 48, 58, 40, 57, 56, 57, 67, 54, 66, 66, 57, 70, 67, 44, 76, 66, 58, 68, 47),
    *(74, 74, 66, 82, 70, 65, 51, 47, 68, 40, 61, 63, 77, 62, 57, 48, 62, 70, 57, 69, 66),
]
SCORE = [
    *(10, 5, 3, 6, 3, 5, 8, 5, 5, 6, 4, 6, 5, 5, 4, 4, 6, 4, 6, 6, 7, 8),
    *(5, 5, 6, 6, 5, 4, 5, 6, 6, 7, 5, 7, 6, 5, 9, 7, 8, 7, 6, 5, 5),
]
SUCCESS = "0110100111111110100110111111110011110101111"
MODELS = {
    "albumin": np.array(ALBUMIN) / 100,
    "protein": np.array(PROTEIN) / 100,
    "score": 1 - np.array(SCORE) / 10,
}
LABELS = np.array([int(digit) for digit in SUCCESS], np.int8)
ALONE = np.arange(43)


@pytest.mark.parametrize(
    ("first", "second", "z", "p"),
    [  # R 4.2.2, pROC 1.18.0: roc.test(..., method = "delong"); SAS prints p 0.9102 and 0.4561
        ("score", "albumin", -0.1127782690, 0.9102063472),
        ("score", "protein", 0.7452183897, 0.4561397075),
        ("albumin", "protein", 1.5900292583, 0.1118282101),
    ],
)
def test_areas_are_those_of_delongs_example(first: str, second: str, z: float, p: float) -> None:
    areas = {"score": 0.7258, "albumin": 0.7366, "protein": 0.6478}  # as published
    found = compare_areas(LABELS, MODELS[first], MODELS[second], ALONE)
    assert (round(found.first, 4), round(found.second, 4)) == (areas[first], areas[second])
    assert found.z == pytest.approx(-z, rel=1e-8)  # second - first
    assert found.p == pytest.approx(p, rel=1e-8)


def test_the_error_of_one_area_is_the_published_one() -> None:
    published = {"score": 0.1028, "albumin": 0.0927, "protein": 0.1000}
    for name, error in published.items():
        found = compare_areas(LABELS, np.zeros(43), MODELS[name], ALONE)  # 0.5 without an error
        assert found.error == pytest.approx(error, abs=5e-5)


def test_areas_with_ties_are_those_of_r() -> None:
    number = np.arange(120)
    labels = ((number * 7) % 10 < 4).astype(np.int8)
    first = ((number * 37) % 101 + 45 * labels).astype(float)
    second = ((number * 53) % 97 // 9 + 6 * labels).astype(float)
    found = compare_areas(labels, first, second, number)
    assert found.first == pytest.approx(0.878182870370)
    assert found.second == pytest.approx(0.904369212963)
    assert found.z == pytest.approx(0.714162708860, rel=1e-9)
    assert found.p == pytest.approx(0.475126573140, rel=1e-9)


def clustered_variance(labels: np.ndarray, models: list[np.ndarray], clusters: np.ndarray) -> float:
    """Obuchowski's variance of a difference, as the paper writes it, pair of images by pair."""
    positives, negatives = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    m, n = positives.size, negatives.size

    def psi(model: np.ndarray, x: int, y: int) -> float:
        return float(model[x] > model[y]) + 0.5 * float(model[x] == model[y])

    v10 = [{x: np.mean([psi(f, x, y) for y in negatives]) for x in positives} for f in models]
    v01 = [{y: np.mean([psi(f, x, y) for x in positives]) for y in negatives} for f in models]
    area = [np.mean(list(v.values())) for v in v10]
    groups = np.unique(clusters)
    i10 = np.unique(clusters[positives]).size
    i01 = np.unique(clusters[negatives]).size

    def total(v: dict[int, float], theta: float, group: int) -> float:
        return sum(value - theta for row, value in v.items() if clusters[row] == group)

    def covariance(r: int, s: int) -> float:
        s10 = sum(total(v10[r], area[r], g) * total(v10[s], area[s], g) for g in groups)
        s01 = sum(total(v01[r], area[r], g) * total(v01[s], area[s], g) for g in groups)
        s11 = sum(total(v10[r], area[r], g) * total(v01[s], area[s], g) for g in groups)
        t11 = sum(total(v10[s], area[s], g) * total(v01[r], area[r], g) for g in groups)
        whole = groups.size / (groups.size - 1) / (m * n)
        return (
            i10 / ((i10 - 1) * m**2) * s10
            + i01 / ((i01 - 1) * n**2) * s01
            + whole * s11
            + whole * t11
        )

    return covariance(0, 0) + covariance(1, 1) - 2 * covariance(0, 1)


def test_images_of_a_patient_are_summed_as_obuchowski_does() -> None:
    rng = np.random.default_rng(4)
    clusters = np.sort(rng.integers(0, 25, 70))
    clusters = cluster_rows(clusters, 70)
    labels = rng.integers(0, 2, 70).astype(np.int8)  # a patient may have both classes
    of_patient = rng.normal(0, 1, 25)[clusters]
    models = [np.round(labels + of_patient + rng.normal(0, s, 70), 1) for s in (0.5, 1.0)]
    found = compare_areas(labels, models[0], models[1], clusters)
    assert found.error is not None
    assert found.error**2 == pytest.approx(clustered_variance(labels, models, clusters))
    alone = compare_areas(labels, models[0], models[1], np.arange(70)).error
    assert found.error != pytest.approx(alone, rel=1e-3)


def test_areas_that_cannot_be_tested_have_no_p() -> None:
    same = compare_areas(LABELS, MODELS["score"], MODELS["score"], ALONE)
    assert (same.error, same.z, same.p) == (0.0, None, None)
    few = compare_areas(np.array([1, 0, 0], np.int8), np.arange(3.0), -np.arange(3.0), np.arange(3))
    assert (few.first, few.second, few.p) == (0.0, 1.0, None)


def calls(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, ...]:
    counts = (both, only_first, only_second, neither)
    first = np.repeat([True, True, False, False], counts)
    return first, np.repeat([True, False, True, False], counts)


def test_calls_are_those_of_agrestis_approval_ratings() -> None:
    # Agresti, Categorical Data Analysis, section 10.1: z0 = -4.17. R 4.2.2 on the example of its
    # own page: mcnemar.test(Performance, correct = FALSE), binom.test(86, 236)
    found = compare_calls(*calls(794, 150, 86, 570), np.arange(1600))
    assert (found.only_first, found.only_second) == (150, 86)
    assert found.statistic == pytest.approx(17.3559322034)
    assert found.p == pytest.approx(3.09929344105e-05)
    assert found.exact_p == pytest.approx(3.71593613957e-05)


def test_few_differing_calls_are_those_of_r() -> None:
    found = compare_calls(*calls(20, 3, 11, 30), np.arange(64))
    assert found.p == pytest.approx(0.0325094446457)
    assert found.exact_p == pytest.approx(0.057373046875)
    same = compare_calls(*calls(20, 0, 0, 3), np.arange(23))
    assert (same.statistic, same.p, same.exact_p) == (None, None, 1.0)


def test_a_patients_images_are_one_piece_of_evidence_for_calls() -> None:
    first, second = calls(20, 3, 11, 30)
    patients = np.arange(64)
    patients[23:29] = 23  # six of the eleven are of one patient
    found = compare_calls(first, second, cluster_rows(patients, 64))
    assert found.statistic == pytest.approx((11 - 3) ** 2 / (3 + 6**2 + 5))
    assert found.exact_p is None
    copies = np.repeat(np.arange(64), 5)
    many = compare_calls(np.repeat(first, 5), np.repeat(second, 5), copies)
    assert many.p == pytest.approx(compare_calls(first, second, np.arange(64)).p)
