"""What a scoring worker does with a shard: decode, predict, one row an image."""

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.data import schema
from orchestrator.data.keyed import keyed_hash
from orchestrator.data.source import Source
from orchestrator.errors import DataError
from orchestrator.evaluation.calibration import Calibration, predict
from orchestrator.model.engine import load_engine

# A shard's file while the run lasts: every row of the shard, scored, rejected or known before.
SHARD_SCHEMA = pa.schema(
    [
        *schema.PREDICTIONS,
        *[schema.REJECTED.field(name) for name in ("size_bytes", "code", "message")],
        *[schema.MANIFEST.field(name) for name in ("mtime_ns", "patient_source")],
        ("known_run", pa.string()),  # the earlier run that scored the same bytes, and its row
        ("known_row", pa.int64()),
    ]
)


_Batch = tuple[tuple[dict[str, Any], ...], Future[Any]]  # rows, and their outputs to come


@dataclass
class ScoreStage:
    """Decodes and scores one shard.

    Args:
        source: where the pixels come from.
        bundle: folder of the model, reachable by every worker.
        engine: "openvino" or "keras".
        precision: of the network's arithmetic.
        batch_size: images a call of the network; None for the engine's own.
        calibration: from logit to probability.
        threshold: PNEUMONIA is called where probability >= threshold.
        num_threads: compute threads, and decoding processes.
        path_key: key under which paths are hashed; None keeps them.
    """

    source: Source
    bundle: Path
    engine: str
    precision: str
    batch_size: int | None
    calibration: Calibration
    threshold: float
    num_threads: int
    path_key: bytes | None

    def __post_init__(self) -> None:
        self._reader = self.source.open_reader(self.num_threads)
        self._following: int | None = None
        self._engine = load_engine(
            self.bundle,
            self.engine,
            self.num_threads,
            self.precision,
            batch_size=self.batch_size,
        )
        self._engine.check_classifier()

    def expect(self, following: int | None) -> None:
        """Names the shard after the next one, to be decoded ahead."""
        self._following = following

    def __call__(self, shard: int) -> pa.Table:
        """Returns every row of the shard, in order; probability is null where it was rejected."""
        rows: list[dict[str, Any]] = []
        batch: list[tuple[dict[str, Any], Any]] = []
        computing: deque[_Batch] = deque()
        for row, image in self._reader.decode_shard(shard, self._following):
            rows.append(row if self.path_key is None else hash_names(row, self.path_key))
            if image is None:
                continue
            batch.append((rows[-1], image))
            if len(batch) == self._engine.batch_size:
                computing.append(self._submit(batch))
                batch = []
            if len(computing) > 2 * self._engine.num_streams:
                self._store(computing.popleft())
        if batch:
            computing.append(self._submit(batch))
        while computing:
            self._store(computing.popleft())
        return pa.Table.from_pylist(rows, SHARD_SCHEMA)

    def _submit(self, batch: list[tuple[dict[str, Any], Any]]) -> _Batch:
        rows, images = zip(*batch, strict=True)
        return rows, self._engine.submit(np.stack(images))

    def _store(self, batch: _Batch) -> None:
        """Waits for a batch and writes its results into its rows."""
        rows, future = batch
        logits = future.result()[:, 0]
        if not np.isfinite(logits).all():
            raise DataError(
                "the model gave a logit that is not a number; its weights are damaged or its "
                "precision too low: train again or use --engine keras"
            )
        probabilities = self.calibration.apply(logits)
        calls = predict(probabilities, self.threshold)
        for row, logit, probability, call in zip(rows, logits, probabilities, calls, strict=True):
            row |= {"logit": logit, "probability": probability, "predicted": call}


def hash_names(row: dict[str, Any], key: bytes) -> dict[str, Any]:
    """Returns a manifest row with keyed hashes in place of its path and what was read from it.

    Args:
        row: columns root, path, patient_id and patient_source among others.
        key: of HMAC-SHA256; the same key and path give the same hash.
    """
    hashed = row | {"path": keyed_hash(key, f"{row['root']}:{row['path']}")}
    if row["patient_source"] == "filename":
        hashed["patient_id"] = keyed_hash(key, row["patient_id"])
    return hashed
