"""Whether an int8 network may stand in for its float32 one: what it changes on labelled images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.evaluation.calibration import call_labels
from orchestrator.evaluation.figures import Interval
from orchestrator.evaluation.metrics import evaluate
from orchestrator.evaluation.operating_point import OperatingPoint
from orchestrator.evaluation.paired import Groups, paired_difference
from orchestrator.evaluation.wording import describe_change

MAX_AUROC_LOSS = 0.002
MAX_CALLS_CHANGED = 0.005
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Int8Change:
    """What int8 changes on labelled images.

    Args:
        auroc_change: of int8 less that of float32, with its interval over patients.
        calls_changed: share of images that the two call differently, with its interval.
        num_images: labelled.
        num_patients: whose images these are; None where no patient is known.
    """

    auroc_change: Interval
    calls_changed: Interval
    num_images: int
    num_patients: int | None

    @property
    def passes(self) -> bool:
        """Whether both figures are within the gate's limits."""
        auroc, calls = self.auroc_change.value, self.calls_changed.value
        return (
            auroc is not None
            and auroc >= -MAX_AUROC_LOSS - _ROUNDING
            and calls is not None
            and calls <= MAX_CALLS_CHANGED + _ROUNDING
        )

    def as_dict(self) -> dict[str, Any]:
        """Returns figures, intervals and counts, JSON-able."""
        return {
            "auroc_change": self.auroc_change.as_dict(),
            "calls_changed": self.calls_changed.as_dict(),
            "num_images": self.num_images,
            "num_patients": self.num_patients,
            "passes": self.passes,
        }

    def __str__(self) -> str:
        return describe_change(self.auroc_change, self.calls_changed, self.num_images)


def measure_change(
    labels: npt.NDArray[np.int8],
    logits: tuple[npt.ArrayLike, npt.ArrayLike],
    points: tuple[OperatingPoint, OperatingPoint],
    patients: Groups,
    *,
    seed: int = 0,
) -> Int8Change:
    """Compares an int8 network with its float32 one on the same images.

    Args:
        labels: int8 [N], 0 NORMAL, 1 PNEUMONIA, both present.
        logits: of float32 and of int8, float [N].
        points: of float32 and of int8: each calls by its own.
        patients: [N] ids, as `evaluate` takes them.
        seed: of the resamples.

    Returns:
        What changes; its AUROC is None where the labels hold one class.

    Raises:
        DataError: there are no images.
    """
    before, after = (
        point.calibration.apply(values) for point, values in zip(points, logits, strict=True)
    )
    thresholds = points[0].threshold.value, points[1].threshold.value
    change = paired_difference(
        labels, after, before, (thresholds[1], thresholds[0]), patients, "auroc", seed=seed
    )
    calls, others = call_labels(before, thresholds[0]), call_labels(after, thresholds[1])
    # How often one reader gives the call of the other: accuracy, with float32's calls as labels.
    agreed = evaluate(calls, others.astype(np.float64), 0.5, patients, seed=seed)
    same = agreed.metrics["accuracy"]
    changed = Interval(_rest(same.value), _rest(same.high), _rest(same.low), same.note)
    auroc = Interval(change.value, change.low, change.high, change.note)
    return Int8Change(auroc, changed, agreed.num_images, agreed.num_patients)


def _rest(share: float | None) -> float | None:
    return None if share is None else 1.0 - share
