"""How far two readers of the same images agree beyond chance."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.evaluation.bootstrap import (
    FloatArray,
    IntArray,
    draw_counts,
    percentile_bounds,
)
from orchestrator.evaluation.figures import Interval
from orchestrator.evaluation.metrics import LEVEL, bounded

_NO_KAPPA = "undefined: both readers give one and the same class to every image"


@dataclass(frozen=True)
class Agreement:
    """What two readers say of the same images.

    Args:
        num_images: read by both.
        num_agreed: of which they say the same.
        kappa: Cohen's, with its interval over patients.
    """

    num_images: int
    num_agreed: int
    kappa: Interval

    def as_dict(self) -> dict[str, Any]:
        """Returns the counts and the interval, JSON-able."""
        return {
            "num_images": self.num_images,
            "num_agreed": self.num_agreed,
            "kappa": self.kappa.as_dict(),
        }


def measure_agreement(
    first: npt.NDArray[np.int8],
    second: npt.NDArray[np.int8],
    groups: IntArray,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Returns Cohen's kappa with a percentile interval, patients drawn whole.

    Args:
        first: int8 [N], 0 or 1, N >= 1.
        second: int8 [N], of the other reader.
        groups: int64 [N], numbers of patients from 0 without gaps.
        num_resamples: of the interval.
        seed: of the resamples.

    Reference:
        Cohen, A coefficient of agreement for nominal scales, Educ. Psychol. Meas. 20, 1960.
    """
    cells = np.zeros((int(groups.max()) + 1, 4))
    np.add.at(cells, (groups, 2 * first.astype(np.int64) + second), 1)
    (value,) = _kappa(cells.sum(axis=0)[np.newaxis])
    agreed = int(np.sum(first == second))
    if np.isnan(value):
        return Agreement(len(first), agreed, Interval(None, note=_NO_KAPPA))
    drawn = draw_counts(len(cells), num_resamples, len(first), seed)
    bounds = percentile_bounds(np.concatenate([_kappa(c @ cells) for c in drawn]), LEVEL)
    return Agreement(len(first), agreed, Interval(float(value), *(bounds or (None, None))))


def rate_difference(
    first: npt.NDArray[np.int8],
    second: npt.NDArray[np.int8],
    groups: IntArray,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Returns the share called PNEUMONIA by the second reader minus that by the first.

    The interval is a percentile one, patients drawn whole. Where no call differs it is exact over
    the patients.

    Args:
        first: int8 [N], 0 or 1, N >= 1.
        second: int8 [N], of the other reader.
        groups: int64 [N], numbers of patients from 0 without gaps.
        num_resamples: of the interval.
        seed: of the resamples.

    Reference:
        Clopper and Pearson, Biometrika 26, 1934 (the exact bound).
    """
    change = second.astype(np.float64) - first
    patients = np.stack([np.bincount(groups), np.bincount(groups, change)], axis=1)
    num_patients, value = len(patients), float(change.mean())
    if not change.any():
        reach = 1 - ((1 - LEVEL) / 2) ** (1 / num_patients)
        return Interval(value, -reach, reach, f"exact bound over {num_patients:,} patients")
    # Patients of equal counts are alike: how many of each kind a resample has is multinomial.
    kinds, counts = np.unique(patients, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(num_patients, counts / num_patients, num_resamples) @ kinds
    return bounded(value, percentile_bounds(drawn[:, 1] / drawn[:, 0], LEVEL))


def _kappa(cells: FloatArray) -> FloatArray:
    """Kappa of each row of counts (00, 01, 10, 11); NaN where chance alone explains all."""
    total = cells.sum(axis=1)
    one, two = (cells[:, 2] + cells[:, 3]) / total, (cells[:, 1] + cells[:, 3]) / total
    observed = (cells[:, 0] + cells[:, 3]) / total
    expected = one * two + (1 - one) * (1 - two)
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa: FloatArray = np.where(expected < 1, (observed - expected) / (1 - expected), np.nan)
    return kappa
