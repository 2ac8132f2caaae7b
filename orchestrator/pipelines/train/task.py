"""What the driver hands to the workers of a training; pickled."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.config.specs import TrainSpec
from orchestrator.evaluation.groups import Dimension
from orchestrator.model.strip import Samples
from orchestrator.pipelines.train.scope import ScopeSample


@dataclass(frozen=True)
class TrainingTask:
    """What to train.

    Args:
        spec: the resolved spec.
        run: folder of the run, its split made.
        alpha: focal weight of PNEUMONIA, a number.
        lr: learning rate of the head, a number.
        num_threads: compute threads of a worker.
    """

    spec: TrainSpec
    run: Path
    alpha: float
    lr: float
    num_threads: int


@dataclass(frozen=True)
class ReleaseTask:
    """What to train, and what else the released bundle and its report say.

    Args:
        training: what to train.
        bundle: folder of the bundle to write.
        fingerprint: digest of the training data.
        counts: images by split, then by class.
        audit: the leakage audit, JSON-able.
        scope: images that the bundle's reference is made of.
        samples: images for the report's strip; None where training sees no augmented view.
        cohorts: int64 [validation rows], for a threshold rule that has to hold in each of them.
        layout: where the split comes from.
        groups: of the rows of `val` and of `test`, to be measured apart.
    """

    training: TrainingTask
    bundle: Path
    fingerprint: str
    counts: dict[str, dict[str, int]]
    audit: dict[str, Any]
    scope: ScopeSample
    samples: Samples | None
    cohorts: npt.NDArray[np.int64] | None = None
    layout: str = ""
    groups: dict[str, list[Dimension]] = field(default_factory=dict)
