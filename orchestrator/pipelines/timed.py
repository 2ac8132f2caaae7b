"""What the passes of a run took, kept in the run."""

import json
import time
from typing import Any

from orchestrator.progress import Reporter
from orchestrator.runs.run_dir import RunDir


def load_costs(run: RunDir) -> dict[str, Any]:
    """Returns what each pass took, by its name; empty where none is done."""
    try:
        found: dict[str, Any] = json.loads(run.costs.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


class Timed:
    """Passes everything on, and times the shards as they are committed.

    Args:
        reporter: receives everything.
        num_done: shards that were there before.
    """

    def __init__(self, reporter: Reporter, num_done: int) -> None:
        self._reporter = reporter
        self._skip = num_done
        self._times: list[float] = []
        self._counts: list[int] = []
        self.seconds = 0.0
        self._began = 0.0
        self.say = reporter.say

    def begin(self, label: str, total: int, unit: str) -> None:
        self._began = time.perf_counter()
        self._reporter.begin(label, total, unit)

    def advance(self, count: int) -> None:
        self._times.append(time.perf_counter())
        self._counts.append(count)
        self._reporter.advance(count)

    def end(self) -> None:
        self.seconds = time.perf_counter() - self._began
        self._reporter.end()

    @property
    def num_new_shards(self) -> int:
        """Shards that were committed meanwhile."""
        return len(self._times) - self._skip if self._times else 0

    @property
    def num_images(self) -> int:
        """Images of all shards, those that were there before included."""
        return sum(self._counts)

    @property
    def images_per_s(self) -> float | None:
        """Images a second from the first new shard's end to the last's; None for one shard."""
        times, counts = self._times[self._skip :], self._counts[self._skip :]
        if len(times) < 2 or times[-1] == times[0]:
            return None
        return sum(counts[1:]) / (times[-1] - times[0])
