"""A finished scoring run as a review needs it: its rows, its report, and which are least clear."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import logit

from orchestrator.data.parquet import open_parquet
from orchestrator.data.predictions import load_report
from orchestrator.errors import DataError
from orchestrator.evaluation.review_rule import REVIEW
from orchestrator.runs.run_dir import RunDir

_COLUMNS = ["row", "root", "path", "patient_id", "label", "split", "sha256"]
_COLUMNS += ["probability", "predicted"]
_DECISION = ["margin", "decision", "review_reason"]
_CLOSEST = 1e-7  # of a probability to 0 and 1: its log-odds must be finite


@dataclass(frozen=True)
class ScoredRun:
    """A finished scoring run.

    Attributes:
        run: its folder.
        report: its report.json.
        table: its predictions: the columns that name an image, its label, probability and call,
            and those of the review rule, null in runs of earlier versions.
    """

    run: RunDir
    report: dict[str, Any]
    table: pa.Table

    @property
    def threshold(self) -> float:
        """PNEUMONIA is called where probability >= threshold."""
        return float(self.report["threshold"])

    def least_clear(self, count: int) -> npt.NDArray[np.int64]:
        """Returns the places of the rows that a person should read first.

        Those left to a person come before the accepted ones, and among each the nearest to the
        threshold first.

        Args:
            count: most of them.
        """
        near = np.abs(self._log_odds() - logit(np.clip(self.threshold, _CLOSEST, 1 - _CLOSEST)))
        margins = self.table["margin"].to_numpy()
        clear = np.where(np.isnan(margins), near, margins)
        accepted = pc.fill_null(pc.not_equal(self.table["decision"], REVIEW), True).to_numpy()
        return np.lexsort((clear, accepted))[:count]

    def _log_odds(self) -> npt.NDArray[np.float64]:
        probabilities = self.table["probability"].to_numpy().astype(np.float64)
        odds: npt.NDArray[np.float64] = logit(np.clip(probabilities, _CLOSEST, 1 - _CLOSEST))
        return odds


def open_scored(folder: Path, *, may_be_empty: bool = False) -> ScoredRun:
    """Returns a finished scoring run.

    Args:
        folder: of the run.
        may_be_empty: whether it may have scored no image.

    Raises:
        DataError: no finished scoring run, or one without images.
    """
    run = RunDir(folder.absolute())
    parts = run.prediction_parts()
    if not run.success.exists() or not parts:
        raise DataError(
            f"{folder} is not a finished scoring run; name the folder that `orchestrator score` "
            "prints, such as runs/score-20260131-020000-1a2b3c"
        )
    try:
        table = pa.concat_tables(map(_load_part, parts))
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(
            f"the tables of {folder} cannot be read; copy the run again, or score its images again"
        ) from error
    if not table.num_rows and not may_be_empty:
        raise DataError(f"{folder} scored no image; there is nothing to review")
    return ScoredRun(run, load_report(run), table)


def _load_part(path: Path) -> pa.Table:
    file = open_parquet(path)
    kept = [name for name in _DECISION if name in file.schema_arrow.names]
    table = file.read(columns=[*_COLUMNS, *kept])
    for name in _DECISION:
        if name not in kept:
            kind = pa.float32() if name == "margin" else pa.string()
            table = table.append_column(name, pa.nulls(table.num_rows, kind))
    return table
