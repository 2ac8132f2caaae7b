"""Where runs go: their folders are found before the transaction that records them."""

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from pathlib import Path

from orchestrator.config.job import Job
from orchestrator.schedule.leadership import Leadership, one_line
from orchestrator.schedule.rows import run_key

PlaceRun = Callable[[Job, str], tuple[Job, Path]]
Placed = dict[tuple[str, datetime], tuple[Job, Path] | str]


class Placer:
    """Finds the folders of runs to be.

    Args:
        leadership: the scheduler's.
        place: the job as one run of it, and its run folder.
    """

    def __init__(self, leadership: Leadership, place: PlaceRun) -> None:
        self._leadership, self._place = leadership, place

    def place(self, wanted: Iterable[tuple[Job, datetime]]) -> Placed:
        """Returns the run of each job and tick and its folder, or why it cannot be run.

        Args:
            wanted: jobs and ticks; those of one job in order.

        Returns:
            By name and tick. A job whose storage is silent waits: from that tick on it has none.
        """
        asked = {
            (job.name, tick): (
                ("place", job.name),
                partial(self._place, job, run_key(job.name, tick)),
            )
            for job, tick in wanted
        }
        found: Placed = {}
        waiting: dict[str, str] = {}
        problems: dict[str, str | None] = {}
        for (name, tick), answer in self._leadership.looks.ask_all(asked).items():
            if name in waiting:
                continue
            if isinstance(answer, OSError):
                waiting[name] = f"the tick of {tick:%Y-%m-%d %H:%M} UTC waits: {one_line(answer)}"
            elif isinstance(answer, Exception):
                found[name, tick] = f"cannot be run: {one_line(answer)}"
            else:
                found[name, tick] = answer
                problems[name] = None
        self._leadership.record_faults("place", problems | waiting)
        return found
