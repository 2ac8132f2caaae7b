"""Differences between models on the same images, with intervals.

All models are measured on the same resamples of patients, so what they share (hard images, few
patients) cancels. A model that was trained with several seeds is the mean of its trainings, and
their spread is part of the interval; of one training alone nobody can tell what another seed would
change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pydantic.dataclasses

from orchestrator.errors import SpecError
from orchestrator.evaluation.bootstrap import (
    FloatArray,
    Scored,
    cluster_rows,
    percentile_bounds,
    prepare_rows,
    resample,
    reweigh,
)
from orchestrator.evaluation.figures import Interval
from orchestrator.evaluation.metrics import (
    LEVEL,
    METRIC_NAMES,
    UNDEFINED,
    bounded,
    check_scored,
)

Groups = Sequence[Any] | npt.NDArray[Any] | None


@pydantic.dataclasses.dataclass(frozen=True)
class Difference(Interval):
    """A metric of one model minus that of another.

    `num_seeds` are the trainings of each model, the fewer of the two; with 1 the interval leaves
    out what another training would change.
    """

    num_seeds: int = 1

    def as_dict(self) -> dict[str, Any]:
        """Returns value, low, high, note where there is one, and num_seeds."""
        return super().as_dict() | {"num_seeds": self.num_seeds}


@dataclass(frozen=True)
class _Measured:
    """One metric of one model.

    Attributes:
        value: mean over its trainings; None where undefined.
        replicates: float64 [num_resamples], NaN where undefined.
        num_seeds: trainings.
    """

    value: float | None
    replicates: FloatArray
    num_seeds: int


def paired_difference(
    labels: npt.ArrayLike,
    prob_a: npt.ArrayLike,
    prob_b: npt.ArrayLike,
    thresholds: tuple[npt.ArrayLike, npt.ArrayLike],
    groups: Groups,
    metric: str = "auroc",
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Returns a metric of model A minus that of model B on the same images.

    An interval that leaves out 0 is evidence of a difference: between the models' recipes where
    there are several trainings of each, between these very models otherwise.

    Args:
        labels: int [N], 0 NORMAL, 1 PNEUMONIA.
        prob_a: float [N] or [seeds, N], probabilities of model A, a row for each training.
        prob_b: those of model B.
        thresholds: of A and of B, one for all trainings or [seeds].
        groups: [N] patient ids, as `evaluate` takes them.
        metric: one of `METRIC_NAMES`.
        num_resamples: resamples of the bootstrap, at least 1.
        seed: seed of the resamples.

    Returns:
        The difference and its 95% percentile interval; a note where there is none.

    Raises:
        SpecError: an unknown metric.
        DataError: as `evaluate`.
    """
    models = list(zip((prob_a, prob_b), thresholds, strict=True))
    first, second = _measure(labels, models, groups, metric, num_resamples, seed)
    num_seeds = min(first.num_seeds, second.num_seeds)
    if first.value is None or second.value is None:
        return Difference(None, note=UNDEFINED[metric], num_seeds=num_seeds)
    bounds = percentile_bounds(first.replicates - second.replicates, LEVEL)
    interval = bounded(first.value - second.value, bounds)
    return Difference(**vars(interval), num_seeds=num_seeds)


def below_best(
    labels: npt.ArrayLike,
    models: Sequence[npt.ArrayLike],
    groups: Groups,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[int, dict[int, Difference]]:
    """Returns the model of the highest AUROC, and each other model's AUROC minus its.

    The best is picked by these same figures, so the intervals are simultaneous over all pairs of
    models: with 95% confidence all of them hold, whichever was picked. Picking anew in each
    resample would not do, since the highest of several lies above the truth there as well.

    Args:
        labels: int [N], 0 NORMAL, 1 PNEUMONIA.
        models: at least one; float [N] or [seeds, N], probabilities, a row for each training.
        groups: [N] patient ids, as `evaluate` takes them.
        num_resamples: resamples of the bootstrap, at least 1.
        seed: seed of the resamples.

    Returns:
        Position of the best, and by position of the others their difference, symmetric about its
        value; a note where there is no interval.

    Raises:
        DataError: as `evaluate`.

    Reference:
        Beran, Balanced simultaneous confidence sets, JASA 83, 1988.
    """
    judged = [(probabilities, 0.5) for probabilities in models]
    found = _measure(labels, judged, groups, "auroc", num_resamples, seed)
    values = np.array([-1.0 if model.value is None else model.value for model in found])
    best = int(values.argmax())
    distance: dict[tuple[int, int], FloatArray] = {}
    for one, other in combinations(range(len(found)), 2):
        drawn = found[one].replicates - found[other].replicates
        distance[one, other] = np.abs(drawn - (values[one] - values[other]))
    reach = _simultaneous(distance)
    differences = {}
    for place, model in enumerate(found):
        if place == best:
            continue
        num_seeds = min(model.num_seeds, found[best].num_seeds)
        value = float(values[place] - values[best])
        half = reach[min(place, best), max(place, best)]
        interval = bounded(value, None if half is None else (value - half, value + half))
        if model.value is None:
            interval = Interval(None, note=UNDEFINED["auroc"])
        differences[place] = Difference(**vars(interval), num_seeds=num_seeds)
    return best, differences


def _simultaneous(
    distance: dict[tuple[int, int], FloatArray],
) -> dict[tuple[int, int], float | None]:
    """How far all distances reach in 95% of the resamples, each in proportion to its own spread."""
    own: dict[tuple[int, int], float | None] = {}
    largest = np.zeros(0)
    for pair, drawn in distance.items():
        defined = drawn[~np.isnan(drawn)]  # undefined for all pairs alike
        half = float(np.quantile(defined, LEVEL)) if defined.size else None
        own[pair] = half
        if half:
            ratio = defined / half
            largest = np.maximum(largest, ratio) if largest.size else ratio
    factor = float(np.quantile(largest, LEVEL)) if largest.size else 1.0
    return {pair: None if half is None else half * factor for pair, half in own.items()}


def _measure(
    labels: npt.ArrayLike,
    models: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]],
    groups: Groups,
    metric: str,
    num_resamples: int,
    seed: int,
) -> list[_Measured]:
    """One metric of each model on the same resamples.

    The mean of S trainings moves with another choice of seeds like Student's t with S-1 degrees of
    freedom, in units of its standard error. Drawing from that, and not from the few trainings
    there are, keeps false claims rare: with three trainings that differ by their seeds alone, 13%
    of intervals by the latter left out 0, though 5% should.
    """
    if metric not in METRIC_NAMES:
        raise SpecError(f"metric {metric!r} is not known; choose one of {', '.join(METRIC_NAMES)}")
    trained = []
    for given, thresholds in models:
        by_seed = np.atleast_2d(np.asarray(given))
        each = np.broadcast_to(np.asarray(thresholds, np.float64), len(by_seed))
        trained.append([_prepare(labels, *one, groups) for one in zip(by_seed, each, strict=True)])
    drawn = iter(resample([one for rows in trained for one in rows], num_resamples, seed))
    rng = np.random.default_rng([seed, len(trained)])
    found = []
    for rows in trained:
        points = [float(reweigh(one, np.ones((1, len(one.sums))))[metric][0]) for one in rows]
        replicates = np.stack([next(drawn)[metric] for _ in rows])
        mean = replicates.mean(axis=0)
        if len(rows) > 1:
            error = replicates.std(axis=0, ddof=1) / np.sqrt(len(rows))
            mean = mean + error * rng.standard_t(len(rows) - 1, num_resamples)
        value = None if np.isnan(points).any() else float(np.mean(points))
        found.append(_Measured(value, mean, len(rows)))
    return found


def _prepare(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float, groups: Groups
) -> Scored:
    label, probability = check_scored(labels, probabilities, groups)
    return prepare_rows(label, probability, threshold, cluster_rows(groups, label.size))
