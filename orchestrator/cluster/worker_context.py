"""What a training loop knows of the group that it runs in; needs no Ray, so a test can make one.

Under Ray Train `ray_train.py` makes it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class ReportEpoch(Protocol):
    """Reports one epoch; every worker calls it, since Ray Train waits for all of them."""

    def __call__(self, row: Mapping[str, float], checkpoint: Path | None = None) -> None:
        """Takes the epoch's row of the history and, from rank 0, the folder of its checkpoint.

        The folder is copied before the call returns.
        """


class Leave(Exception):
    """Raised by a loop that was told to leave, in every worker, once its state is reported.

    Another group goes on from there.
    """


def never() -> bool:
    """Tells no worker to leave."""
    return False


@dataclass(frozen=True)
class WorkerContext:
    """One worker of a training group.

    Args:
        rank: number of the worker, from 0; rank 0 writes for all.
        size: workers of the group.
        checkpoint: folder of the last reported checkpoint where the training goes on, None where it
            begins.
        report: called after every epoch, and before the group leaves.
        num_shares: into which global batches are cut: the most workers that the group may ever
            have, so that sums do not depend on how many it has; 0: one a worker.
        leaving: whether this worker has been told that the group is to leave.
    """

    rank: int
    size: int
    checkpoint: Path | None
    report: ReportEpoch
    num_shares: int = 0
    leaving: Callable[[], bool] = never
