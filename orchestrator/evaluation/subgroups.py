"""Which group of images is served worse: the metrics of each, and a test of each against the rest.

A group is compared with all other images of its dimension. The tests count whole patients, and are
corrected for how many there are: among dozens of groups the lowest is low by chance alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # its parts are imported as they are used

from orchestrator.evaluation.bootstrap import FloatArray, IntArray, cluster_rows
from orchestrator.evaluation.drift import holm
from orchestrator.evaluation.groups import DIMENSIONS, Dimension
from orchestrator.evaluation.metrics import evaluate
from orchestrator.evaluation.paired_tests import Mask, share_below

TESTED = ("sensitivity", "specificity", "auroc")
# A figure that rests on fewer patients (images where no patient is known) of the class it is about
# is shown in grey and not tested, and so is one whose other images have fewer.
MIN_PATIENTS = 20
LEVEL = 0.05
_MOST_ROWS = 4_000_000  # of all resamples of a group: intervals of large groups take fewer
_RESAMPLES = (200, 1000)


@dataclass(frozen=True)
class _Rows:
    """All labelled images: what a test takes of them."""

    is_positive: Mask
    is_called: Mask
    probabilities: FloatArray
    clusters: IntArray


def measure_subgroups(
    labels: npt.NDArray[np.int8],
    probabilities: npt.NDArray[np.float32],
    threshold: float,
    patients: npt.NDArray[np.object_],
    dimensions: Sequence[Dimension],
    seed: int = 0,
) -> dict[str, Any]:
    """Returns the metrics of every group, with intervals clustered by patient, and the worst group.

    Args:
        labels: int8 [N], 0 NORMAL, 1 PNEUMONIA.
        probabilities: float [N], calibrated, of PNEUMONIA.
        threshold: PNEUMONIA is called where probability >= threshold.
        patients: [N] patient ids, None where unknown.
        dimensions: groups of the N images. One whose groups are of one class each is left out: such
            folders are named by the class.
        seed: seed of the resamples.

    Returns:
        dimensions: each with `groups`, whose `metrics` hold value, low and high as in `metrics`
        of the report, `rest` (value of the other images), `units` (patients it rests on),
        `is_small`, `p` and `p_adjusted` (None where it is not tested) and `is_worse`.
        worst: dimension, group and metric of the smallest p; None where nothing could be tested.
        method: what the above rests on, in numbers.

    Reference:
        Holm, A simple sequentially rejective multiple test procedure, Scand J Stat 6, 1979.
        Rao and Scott, A simple method for the analysis of clustered binary data, Biometrics 48,
        1992. Obuchowski, Nonparametric analysis of clustered ROC curve data, Biometrics 53, 1997.
    """
    rows = _Rows(
        labels == 1,
        probabilities.astype(np.float64) >= threshold,
        probabilities.astype(np.float64),
        cluster_rows(patients, labels.size),
    )
    shown, tests = [], []
    for dimension in drop_telling(dimensions, labels, rows.clusters):
        known = dimension.codes > 0
        groups = []
        for number, name in enumerate(dimension.groups, 1):
            group = dimension.codes == number
            num_resamples = int(np.clip(_MOST_ROWS // group.sum(), *_RESAMPLES))
            found = evaluate(
                labels[group],
                probabilities[group],
                threshold,
                patients[group],
                num_resamples=num_resamples,
                seed=seed,
            )
            metrics = {
                metric: found.metrics[metric].as_dict()
                | _compare(metric, rows, group, known & ~group)
                for metric in TESTED
            }
            cells = found.confusion
            groups.append(
                {
                    "name": name,
                    "num_images": found.num_images,
                    "num_patients": found.num_patients,
                    "num_positive": cells.tp + cells.fn,
                    "num_negative": cells.tn + cells.fp,
                    "metrics": metrics,
                }
            )
            tests += [
                ({"dimension": dimension.name, "group": name, "metric": metric}, figure)
                for metric, figure in metrics.items()
                if figure["p"] is not None
            ]
        shown.append(
            {
                "name": dimension.name,
                "title": DIMENSIONS[dimension.name],
                "num_unknown": int((~known).sum()),
                "groups": groups,
            }
        )
    for (_, figure), adjusted in zip(tests, holm([f["p"] for _, f in tests]), strict=True):
        figure |= {"p_adjusted": adjusted, "is_worse": adjusted < LEVEL}
    worst = min(tests, key=lambda test: test[1]["p"], default=None)
    return {
        "dimensions": shown,
        "worst": None if worst is None else worst[0] | worst[1],
        "method": {
            "min_patients": MIN_PATIENTS,
            "num_tests": len(tests),
            "level": LEVEL,
            "correction": "Holm",
        },
    }


def drop_telling(
    dimensions: Sequence[Dimension], labels: npt.NDArray[np.int8], clusters: IntArray
) -> list[Dimension]:
    """Returns the dimensions whose groups are not named by the class or by the patient.

    Args:
        dimensions: groups of N images.
        labels: int8 [N].
        clusters: int64 [N], from `cluster_rows`.
    """
    return [
        dimension
        for dimension in dimensions
        if not (_names_classes(dimension, labels) or _names_patients(dimension, clusters))
    ]


def _names_patients(dimension: Dimension, clusters: npt.NDArray[np.int64]) -> bool:
    """Whether folders hold one patient each: they are no sites, and their names are patients'."""
    if dimension.name != "site_folder":
        return False
    held = [clusters[dimension.codes == number] for number, _ in enumerate(dimension.groups, 1)]
    return all(len(np.unique(of)) < 2 for of in held)


def _names_classes(dimension: Dimension, labels: npt.NDArray[np.int8]) -> bool:
    positives = np.bincount(dimension.codes, labels == 1)[1:]
    totals = np.bincount(dimension.codes)[1:]
    is_pure = (positives == 0) | (positives == totals)
    return bool(is_pure.all() and 0 < positives.sum() < totals.sum())


def _compare(metric: str, rows: _Rows, group: Mask, rest: Mask) -> dict[str, Any]:
    """The figure of all other images, and the chance of so low a one in the group."""
    kinds = {"sensitivity": [True], "specificity": [False], "auroc": [False, True]}[metric]

    def count(chosen: Mask) -> int:
        of_kinds = [rows.clusters[chosen & (rows.is_positive == kind)] for kind in kinds]
        return min(int(np.count_nonzero(np.bincount(clusters))) for clusters in of_kinds)

    units, others = count(group), count(rest)
    is_small = min(units, others) < MIN_PATIENTS
    rest_value = p = None
    if units and others:
        measure = _auroc if metric == "auroc" else _rate
        value, rest_value, spread = measure(rows, group, rest, kinds[-1])
        if not is_small:
            p = chance_of_lower(value - rest_value, spread, min(units, others))
    return {
        "rest": rest_value,
        "units": units,
        "is_small": is_small,
        "p": p,
        "p_adjusted": None,
        "is_worse": False,
    }


def _rate(rows: _Rows, group: Mask, rest: Mask, kind: bool) -> tuple[float, float, float]:
    """Sensitivity or specificity of group and rest, and the standard error of their difference.

    It is that under equal rates, which holds at rates near 1 too, widened by as much as images of
    the same patients are alike.
    """
    counted = rows.is_positive == kind
    right = rows.is_called == kind
    ours, others = group & counted, rest & counted
    value, rest_value = float(right[ours].mean()), float(right[others].mean())
    pooled = right[ours | others].mean()
    spread = np.sqrt(pooled * (1 - pooled) * (1 / ours.sum() + 1 / others.sum()))
    terms = ours * (right - value) / ours.sum() - others * (right - rest_value) / others.sum()
    apart, together = np.sum(terms**2), np.sum(np.bincount(rows.clusters, terms) ** 2)
    alike = max(1.0, together / apart) if apart else 1.0
    return value, rest_value, float(spread * np.sqrt(alike))


def _auroc(rows: _Rows, group: Mask, rest: Mask, kind: bool) -> tuple[float, float, float]:
    """AUROC of group and rest, and the standard error of their difference."""
    terms = np.zeros(rows.clusters.size)
    values = []  # and DeLong's components of each image
    for sign, chosen in ((1, group), (-1, rest)):
        places = [np.flatnonzero(chosen & (rows.is_positive == kind)) for kind in (False, True)]
        negative, positive = (rows.probabilities[each] for each in places)
        above = share_below(positive, negative)  # of each positive image
        below = 1 - share_below(negative, positive)
        value = float(above.mean())
        terms[places[1]] = sign * (above - value) / positive.size
        terms[places[0]] = sign * (below - value) / negative.size
        values.append(value)
    return values[0], values[1], float(np.sqrt(np.sum(np.bincount(rows.clusters, terms) ** 2)))


def chance_of_lower(difference: float, spread: float, num_units: int) -> float:
    """Returns the one-sided p of a difference this low.

    Args:
        difference: of two figures.
        spread: its standard error.
        num_units: patients that it rests on.
    """
    if spread == 0:
        return 0.0 if difference < 0 else 1.0
    return float(scipy.special.stdtr(num_units - 1, difference / spread))
