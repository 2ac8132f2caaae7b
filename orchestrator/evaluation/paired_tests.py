"""Tests of two models on the same images: DeLong's of their AUROC, McNemar's of their calls.

Images of one patient are alike, so both tests sum over patients first. Where each image is its
patient's only one they are the textbook tests. Intervals of differences are in `paired.py`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, chdtrc, ndtr

from orchestrator.evaluation.bootstrap import FloatArray, IntArray

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class AreaTest:
    """Whether two models have the same AUROC.

    Attributes:
        first: AUROC of one model.
        second: of the other one.
        error: standard error of second - first.
        z: (second - first) / error; None where the error is 0 or cannot be told.
        p: two-sided; None likewise.
    """

    first: float
    second: float
    error: float | None
    z: float | None
    p: float | None


@dataclass(frozen=True)
class CallTest:
    """Whether two models call equally many images right.

    Attributes:
        only_first: images that the one model calls right and the other wrong.
        only_second: the reverse.
        statistic: McNemar's, without continuity correction; None where all calls are equal.
        p: two-sided, by chi-squared of one degree of freedom; None likewise.
        exact_p: two-sided binomial p; None where a patient has several images called differently.
    """

    only_first: int
    only_second: int
    statistic: float | None
    p: float | None
    exact_p: float | None


def compare_areas(
    labels: npt.NDArray[np.int8], first: FloatArray, second: FloatArray, clusters: IntArray
) -> AreaTest:
    """Tests the difference of two AUROCs by DeLong's method, with images clustered by patient.

    Args:
        labels: int8 [N], 0 NORMAL, 1 PNEUMONIA, both present.
        first: float64 [N], probabilities of one model.
        second: float64 [N], of the other one.
        clusters: int64 [N], from `cluster_rows`.

    Reference:
        DeLong, DeLong and Clarke-Pearson, Comparing the areas under two or more correlated ROC
        curves, Biometrics 44, 1988. Obuchowski, Nonparametric analysis of clustered ROC curve
        data, Biometrics 53, 1997, whose variance is DeLong's where no patient has two images.
    """
    kinds = [np.flatnonzero(labels == kind) for kind in (1, 0)]
    areas: list[float] = []
    parts = []
    for model in (first, second):
        positive, negative = (model[rows] for rows in kinds)
        above = share_below(positive, negative)  # of each positive image
        below = 1 - share_below(negative, positive)
        areas.append(float(above.mean()))
        parts.append((above - areas[-1], below - areas[-1]))
    num_clusters = int(clusters.max()) + 1
    sums = [
        np.bincount(clusters[rows], parts[1][kind] - parts[0][kind], num_clusters) / rows.size
        for kind, rows in enumerate(kinds)
    ]
    counts = [np.unique(clusters[rows]).size for rows in kinds]
    if min(counts) < 2:
        return AreaTest(areas[0], areas[1], None, None, None)
    own = sum(n / (n - 1) * np.sum(of**2) for n, of in zip(counts, sums, strict=True))
    shared = 2 * num_clusters / (num_clusters - 1) * np.sum(sums[0] * sums[1])
    error = float(np.sqrt(max(own + shared, 0.0)))
    if error == 0:
        return AreaTest(areas[0], areas[1], error, None, None)
    z = (areas[1] - areas[0]) / error
    return AreaTest(areas[0], areas[1], error, z, float(2 * ndtr(-abs(z))))


def compare_calls(first_right: Mask, second_right: Mask, clusters: IntArray) -> CallTest:
    """Tests whether two models call equally many images right, by McNemar's test.

    Args:
        first_right: bool [N], which calls of one model agree with the label.
        second_right: bool [N], of the other one.
        clusters: int64 [N], from `cluster_rows`.

    Reference:
        McNemar, Note on the sampling error of the difference between correlated proportions or
        percentages, Psychometrika 12, 1947. Yang, Sun and Hardin, A note on the tests for clustered
        matched-pair binary data, Biometrical Journal 52, 2010 (the sum over patients).
    """
    only_first, only_second = first_right & ~second_right, second_right & ~first_right
    b, c = int(only_first.sum()), int(only_second.sum())
    of_patient = np.bincount(clusters, only_second.astype(float) - only_first)
    spread = float(np.sum(of_patient**2))
    exact = None
    if np.unique(clusters[only_first | only_second]).size == b + c:
        exact = min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5)))
    if spread == 0:
        return CallTest(b, c, None, None, exact)
    statistic = (c - b) ** 2 / spread
    return CallTest(b, c, statistic, float(chdtrc(1, statistic)), exact)


def share_below(values: FloatArray, others: FloatArray) -> FloatArray:
    """Returns for each value the share of the others that lie below it; equals count half.

    Args:
        values: float64 [N].
        others: float64 [M], at least one.
    """
    ordered = np.sort(others)
    lower = np.searchsorted(ordered, values) + np.searchsorted(ordered, values, "right")
    return lower / (2 * ordered.size)
