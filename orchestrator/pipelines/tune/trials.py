"""How each trial of a search ended: one file a trial, written before it runs and when it ends.

Ray Tune's own state is saved from time to time only, so that a kill would lose trials that had
finished since. These files are what a search resumes from; the driver alone writes them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.data.parquet import write_parquet
from orchestrator.errors import DataError
from orchestrator.runs.atomic import write_json

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: from 0, in the order of the configurations.
        config: value of each searched setting.
        state: `running`, `finished` (all epochs, or out of patience), `stopped` (by the scheduler
            or the time budget) or `failed`.
        value: the objective, mean over the folds of each one's best epoch; None where it failed.
        values: the objective of each fold.
        history: the best value so far after each epoch, mean over the folds.
        best_epochs: best epoch of each fold, from 1.
        error: what it failed with.
        startup_s: from the end of the process's last trial (or its own start) to the first step.
        seconds: from its first step to its end.
        ended_s: seconds of the search that had passed when it ended.
    """

    number: int
    config: dict[str, float]
    state: str = RUNNING
    value: float | None = None
    values: tuple[float, ...] = ()
    history: tuple[float, ...] = ()
    best_epochs: tuple[int, ...] = ()
    error: str | None = None
    startup_s: float | None = None
    seconds: float | None = None
    ended_s: float | None = None


class TrialLedger:
    """The trials of one search.

    Args:
        folder: of the trials' files; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._trials = {trial.number: trial for trial in _load_trials(folder)}

    @property
    def trials(self) -> list[Trial]:
        """Every trial known, by number."""
        return [self._trials[number] for number in sorted(self._trials)]

    @property
    def ended(self) -> list[Trial]:
        """Those that have ended, by number."""
        return [trial for trial in self.trials if trial.state != RUNNING]

    def get(self, number: int) -> Trial | None:
        """Returns a trial, or None where its configuration is not decided yet."""
        return self._trials.get(number)

    def begin(self, number: int, config: Mapping[str, float]) -> None:
        """Stores the configuration of a trial before it runs."""
        self._write(Trial(number, dict(config)))

    def end(self, number: int, **found: Any) -> Trial:
        """Stores how a trial ended and returns it."""
        trial = replace(self._trials[number], **found)
        self._write(trial)
        return trial

    def _write(self, trial: Trial) -> None:
        write_json(_path(self._folder, trial.number), asdict(trial))
        self._trials[trial.number] = trial


def _path(folder: Path, number: int) -> Path:
    return folder / f"trial-{number:05d}.json"


def _load_trials(folder: Path) -> list[Trial]:
    found = []
    for path in sorted(folder.glob("trial-*.json")):
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            for name in ("values", "history", "best_epochs"):
                stored[name] = tuple(stored[name])
            found.append(Trial(**stored))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} is not a trial of this program; remove it to run the trial again"
            ) from error
    return found


def write_trials(final: Path, trials: list[Trial], settings: tuple[str, ...]) -> None:
    """Writes the trials as a Parquet table, one row a trial, one column a searched setting."""
    schema = pa.schema(
        [
            ("number", pa.int32()),
            *((name, pa.float64()) for name in settings),
            ("state", pa.string()),
            ("value", pa.float64()),
            ("values", pa.list_(pa.float64())),
            ("history", pa.list_(pa.float64())),
            ("best_epochs", pa.list_(pa.int32())),
            ("error", pa.string()),
            ("startup_s", pa.float64()),
            ("seconds", pa.float64()),
            ("ended_s", pa.float64()),
        ]
    )
    rows = []
    for trial in trials:
        row = asdict(trial)
        rows.append(row | row.pop("config"))
    write_parquet(final, pa.Table.from_pylist(rows, schema=schema))
