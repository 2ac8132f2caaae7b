"""What a scoring worker does with a shadow: the same images once more, and no fault that matters.

Which model that is, and the table of its rows, are in `shadow.py`.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator.data.source import Reader, Row, Source
from orchestrator.errors import BundleError, ClusterError, DataError, OrchestratorError
from orchestrator.evaluation.figures import Calibration
from orchestrator.model.engine.base import Engine
from orchestrator.model.engine.load import load_engine
from orchestrator.model.golden import check_engine
from orchestrator.runs.atomic import write_text

# In a shard's file, beside the columns of the live model.
FIELDS = (
    pa.field("shadow_logit", pa.float32()),
    pa.field("shadow_probability", pa.float32()),
    pa.field("shadow_fault", pa.string()),  # why there is none
)
# Workers that may die with the shadow at work on a shard. A pool gives a shard three attempts: the
# last one goes without it.
_MOST_DEATHS = 2


@dataclass(frozen=True)
class ShadowTask:
    """What a worker scores with besides; pickled.

    Args:
        bundle: folder of the shadow, which this worker may or may not reach.
        sha256: of the bundle; another one is not used.
        calibration: from logit to probability.
        size_px: height and width of the images that it takes, px.
        source: where images of its own size come from; None where it takes the live model's.
        attempts: folder with a file for each shard that a worker has begun and not ended.
    """

    bundle: Path
    sha256: str
    calibration: Calibration
    size_px: int
    source: Source | None
    attempts: Path


class ShadowScorer:
    """Scores the images of shards a second time, into the rows' own `FIELDS`; raises nothing.

    After its first fault it scores no further image.

    Args:
        task: the shadow.
        load: loads the engine of a bundle of this folder and hash.
        num_threads: decoding processes, where images have a size of their own.
    """

    def __init__(
        self, task: ShadowTask, load: Callable[[Path, str], Engine], num_threads: int
    ) -> None:
        self._task, self._load, self._num_threads = task, load, num_threads
        self._fault = ""
        self._engine: Engine | None = None
        self._reader: Reader | None = None

    def begin(self, shard: int, following: int | None) -> None:
        """Begins a shard; what the worker gets next is decoded ahead."""
        self._shard = shard
        self._rows: list[Row] = []
        self._batch: list[tuple[Row, Any]] = []
        self._computing: deque[tuple[list[Row], Future[Any]]] = deque()
        self._images: Iterator[tuple[Row, Any]] | None = None
        self._shielded(self._begin, following)

    def add(self, row: Row, image: npt.NDArray[np.uint8] | None) -> None:
        """Adds the next row of the shard.

        Args:
            row: of the live model; it gets its values until `end` returns.
            image: of the live model's size; None where there is none to score.
        """
        if image is not None:
            self._rows.append(row)
        self._shielded(self._add, row, image)

    def end(self) -> None:
        """Waits for the shard's last images; every row without a result says why."""
        self._shielded(self._end)
        for row in self._rows:
            if "shadow_logit" not in row:
                row.setdefault("shadow_fault", self._fault)

    def close(self) -> None:
        """Ends the decoding processes."""
        if self._reader is not None:
            self._reader.close()

    def _shielded(self, step: Callable[..., None], *given: Any) -> None:
        if self._fault:
            return
        try:
            step(*given)
        except Exception as error:  # of whatever kind: the live model's rows are not to be lost
            self._fault = describe_fault(error)
            with contextlib.suppress(Exception):
                self.close()

    def _begin(self, following: int | None) -> None:
        attempts = self._task.attempts
        mark, given_up = attempts / str(self._shard), attempts / "given_up"
        deaths = int(mark.read_text(encoding="utf-8")) if mark.exists() else 0
        if deaths >= _MOST_DEATHS:
            write_text(given_up, "")  # for the workers of all other shards
        if given_up.exists():
            raise ClusterError(f"workers died {_MOST_DEATHS} times while it scored a shard")
        write_text(mark, str(deaths + 1))
        if self._engine is None:
            self._engine = self._load(self._task.bundle, self._task.sha256)
            self._engine.check_classifier()
            check_engine(self._task.bundle, self._engine)
            if self._task.source is not None:
                self._reader = self._task.source.open_reader(self._num_threads)
        if self._reader is not None:
            self._images = self._reader.decode_shard(self._shard, following)

    def _add(self, row: Row, image: npt.NDArray[np.uint8] | None) -> None:
        if self._images is not None:
            again, own = next(self._images)
            if image is not None and (own is None or again["sha256"] != row["sha256"]):
                row["shadow_fault"] = f"not decoded a second time: {again['code'] or 'changed'}"
                return
            image = own
        if image is None:
            return
        self._batch.append((row, image))
        if len(self._batch) == self._loaded.batch_size:
            self._submit()
        if len(self._computing) > 2 * self._loaded.num_streams:
            self._store(*self._computing.popleft())

    def _end(self) -> None:
        if self._batch:
            self._submit()
        while self._computing:
            self._store(*self._computing.popleft())
        (self._task.attempts / str(self._shard)).unlink()

    @property
    def _loaded(self) -> Engine:
        if self._engine is None:
            raise BundleError("its engine is not loaded")
        return self._engine

    def _submit(self) -> None:
        rows, images = zip(*self._batch, strict=True)
        self._computing.append((list(rows), self._loaded.submit(np.stack(images))))
        self._batch = []

    def _store(self, rows: list[Row], future: Future[Any]) -> None:
        logits = future.result()[:, 0]
        if not np.isfinite(logits).all():
            raise DataError("it gave a logit that is not a number")
        probabilities = self._task.calibration.apply(logits)
        for row, logit, probability in zip(rows, logits, probabilities, strict=True):
            row |= {"shadow_logit": logit, "shadow_probability": probability}


def engine_loader(
    engine: str, num_threads: int, precision: str, batch_size: int | None
) -> Callable[[Path, str], Engine]:
    """Returns what loads a bundle's engine on the terms of the live model; see `load_engine`."""

    def load(folder: Path, sha256: str) -> Engine:
        return load_engine(
            folder, engine, num_threads, precision, batch_size=batch_size, sha256=sha256
        )

    return load


def describe_fault(error: Exception) -> str:
    """Returns why a shadow is left out, a line that names no file of a patient."""
    if isinstance(error, OrchestratorError):
        return str(error)
    return f"it failed with {type(error).__name__}"
