"""What a scoring worker does with a shard: decode, predict, one row an image."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.data import schema
from orchestrator.data.pseudonym import FileNaming
from orchestrator.data.source import Source
from orchestrator.errors import DataError
from orchestrator.evaluation.calibration import call_labels
from orchestrator.evaluation.figures import Calibration
from orchestrator.evaluation.selective import Reviewer, decide
from orchestrator.model.bundle import load_scope
from orchestrator.model.engine.load import load_engine
from orchestrator.model.golden import check_engine
from orchestrator.pipelines.score.gate import describe_marks, look_at, name_device, reject_marked
from orchestrator.pipelines.score.shadow_scorer import (
    FIELDS,
    ShadowScorer,
    ShadowTask,
    engine_loader,
)

# Columns of a shard's file beside those of the predictions, while the run lasts.
_MORE = (
    *[schema.REJECTED.field(name) for name in ("size_bytes", "code", "message")],
    *[schema.MANIFEST.field(name) for name in ("mtime_ns", "patient_source")],
    pa.field("known_run", pa.string()),  # the earlier run that scored the same bytes, and its row
    pa.field("known_row", pa.int64()),
    # By `evaluation.scope.FIGURES`, and maker and model; null where the model has no reference
    pa.field("figures", pa.list_(pa.float32())),
    pa.field("device", pa.string()),
    pa.field("file_format", pa.string()),
    *FIELDS,
)


def shard_schema(num_models: int, dicom: Sequence[str] = ()) -> pa.Schema:
    """Schema of a shard's file: every row of it, scored, rejected or known before."""
    return pa.schema([*schema.predictions_schema(num_models, dicom), *_MORE])


# Rows, their images, and each model's outputs to come.
_Batch = tuple[tuple[dict[str, Any], ...], Any, list[Future[Any]]]


@dataclass
class ScoreStage:
    """Decodes and scores one shard.

    Args:
        source: where the pixels come from.
        bundles: folders of the models, reachable by every worker; several are averaged.
        hashes: SHA-256 of each bundle; another one ends the run.
        engine: "openvino" or "keras".
        precision: of the network's arithmetic.
        batch_size: images a call of the network; None for the engine's own.
        calibrations: from logit to probability, of each model.
        threshold: PNEUMONIA is called where probability >= threshold.
        num_threads: compute threads, and decoding processes.
        naming: how rows name their files.
        dicom_columns: what the tables keep of DICOM headers.
        rejects: whether an image out of scope is rejected; it is scored and marked otherwise.
        reviewers: of each model, what decides whether a person is to look; none without a rule.
        shadow: a model that scores the images besides, if any.
    """

    source: Source
    bundles: tuple[Path, ...]
    hashes: tuple[str, ...]
    engine: str
    precision: str
    batch_size: int | None
    calibrations: tuple[Calibration, ...]
    threshold: float
    num_threads: int
    naming: FileNaming
    dicom_columns: tuple[str, ...] = ()
    rejects: bool = False
    reviewers: tuple[Reviewer, ...] = ()
    shadow: ShadowTask | None = None

    def __post_init__(self) -> None:
        self._reader = self.source.open_reader(self.num_threads)
        self._following: int | None = None
        self._scopes = [load_scope(bundle) for bundle in self.bundles]
        self._engines = [
            load_engine(
                bundle,
                self.engine,
                self.num_threads,
                self.precision,
                batch_size=self.batch_size,
                sha256=sha256,
                with_features=scope is not None,
            )
            for bundle, sha256, scope in zip(self.bundles, self.hashes, self._scopes, strict=True)
        ]
        for bundle, engine in zip(self.bundles, self._engines, strict=True):
            engine.check_classifier()
            check_engine(bundle, engine)
        self._batch_size = min(engine.batch_size for engine in self._engines)
        terms = (self.engine, self.num_threads, self.precision, self.batch_size)
        self._shadow = self.shadow and ShadowScorer(
            self.shadow, engine_loader(*terms), self.num_threads
        )
        self._most_computing = 2 * max(engine.num_streams for engine in self._engines)

    def expect(self, following: int | None) -> None:
        """Names the shard after the next one, to be decoded ahead."""
        self._following = following

    def close(self) -> None:
        """Ends the decoding processes, and a call that waits for them."""
        self._reader.close()
        if self._shadow:
            self._shadow.close()

    def __call__(self, shard: int) -> pa.Table:
        """Returns every row of the shard, in order; probability is null where it was rejected."""
        rows: list[dict[str, Any]] = []
        batch: list[tuple[dict[str, Any], Any]] = []
        computing: deque[_Batch] = deque()
        if self._shadow:
            self._shadow.begin(shard, self._following)
        for row, image in self._reader.decode_shard(shard, self._following):
            rows.append(self.naming.apply(row))
            if self._shadow:
                self._shadow.add(rows[-1], image)
            if image is None:
                continue
            batch.append((rows[-1], image))
            if len(batch) == self._batch_size:
                computing.append(self._submit(batch))
                batch = []
            if len(computing) > self._most_computing:
                self._store(computing.popleft())
        if batch:
            computing.append(self._submit(batch))
        while computing:
            self._store(computing.popleft())
        if self._shadow:
            self._shadow.end()
        return pa.Table.from_pylist(rows, shard_schema(len(self.bundles), self.dicom_columns))

    def _submit(self, batch: list[tuple[dict[str, Any], Any]]) -> _Batch:
        rows, images = zip(*batch, strict=True)
        stacked = np.stack(images)
        return rows, stacked, [engine.submit(stacked) for engine in self._engines]

    def _store(self, batch: _Batch) -> None:
        """Waits for a batch and writes its results into its rows."""
        rows, images, futures = batch
        outputs = [future.result() for future in futures]
        logits = [each[:, 0] for each in outputs]
        if not all(np.isfinite(each).all() for each in logits):
            raise DataError(
                "the model gave a logit that is not a number; its weights are damaged or its "
                "precision too low: train again or use --engine keras"
            )
        each = [c.apply(x) for c, x in zip(self.calibrations, logits, strict=True)]
        columns: dict[str, Any] = {"logit": logits[0], "probability": each[0]}
        if len(each) > 1:
            columns = {"probability": np.mean(each, axis=0, dtype=each[0].dtype)}
            columns |= {f"probability_{number}": one for number, one in enumerate(each, 1)}
        columns["predicted"] = call_labels(columns["probability"], self.threshold)
        seen = look_at(self._scopes, rows, images, outputs)
        if self.reviewers:
            strange = np.array([bool(marks) for marks in seen.marks])
            columns |= decide(self.reviewers, logits, {"out_of_scope": strange})
        for place, (row, marks) in enumerate(zip(rows, seen.marks, strict=True)):
            row["scope"] = describe_marks(marks)
            if seen.figures is not None:
                row |= {"figures": seen.figures[place], "device": name_device(row)}
            if marks and self.rejects:
                row |= reject_marked(marks)
            else:
                row |= {name: values[place] for name, values in columns.items()}
