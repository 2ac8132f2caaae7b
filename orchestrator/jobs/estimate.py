"""Disk and memory that a run takes, estimated from the files found and the kind of run.

The constants were measured (Python 3.11, ray 2.60, openvino 2026.4, tensorflow 2.21, pyarrow 26);
each estimate says what it was worked out from. Estimates are upper bounds for planning, not
limits.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.workers import Session
from orchestrator.data.listing.inputs import list_inputs
from orchestrator.data.listing.options import ListingOptions
from orchestrator.data.parquet import open_parquet
from orchestrator.data.rejections import Rejections
from orchestrator.data.source import open_ingested
from orchestrator.data.splits import TEST_OF_POOL, VAL_OF_POOL
from orchestrator.errors import DataError
from orchestrator.model.backbones import sizes_of
from orchestrator.model.bundle import IR_WEIGHTS_FILE, BundleInfo
from orchestrator.model.engine.base import default_batch_size

MIB = 2**20

# Files: a row of a scored shard (Arrow), of predictions and of the manifest (Parquet), and what a
# file of each costs besides its rows. Paths of 60 characters.
_SHARD_ROW, _SHARD_FILE = 260, 3000
_PREDICTION_ROW, _PREDICTION_FILE = 190, 4000
_MANIFEST_ROW = 116
_SHADOW_ROW = 80
_INGESTED_ROW = 300  # besides the pixels

# A process: its packages, its weights twice (as read and as compiled), and for every pixel of a
# batch the network's intermediate results. OpenVINO took 120 bytes a pixel with EfficientNet-Lite0
# at 224 px, 185 with B5 at 150 px and 145 at 456 px; TensorFlow 300 with B5 at 150 px. What
# training the whole network takes is in the registry of backbones.
_OPENVINO_BASE, _OPENVINO_PIXEL = 300 * MIB, 200
_TENSORFLOW_BASE, _TENSORFLOW_PIXEL = 850 * MIB, 300
_DECODER = 40 * MIB


@dataclass(frozen=True)
class Estimate:
    """One estimated size.

    Args:
        what: disk or memory, and whose.
        num_bytes: how much.
        basis: what it was worked out from.
    """

    what: str
    num_bytes: int
    basis: str


@dataclass(frozen=True)
class InputFacts:
    """An input.

    Args:
        num_files: files found.
        num_bytes: their sizes together.
        largest_bytes: size of the largest.
        num_labelled: files with a label.
        has_splits: whether folders or a column divide them.
        size_px: of the images of an ingested data set; None for files.
    """

    num_files: int
    num_bytes: int
    largest_bytes: int
    num_labelled: int
    has_splits: bool
    size_px: int | None

    @classmethod
    def of(cls, sources: Sequence[str], options: ListingOptions | None = None) -> "InputFacts":
        """Lists an input: folders, files, a table of paths, or an ingested data set.

        Args:
            sources: paths and addresses.
            options: what else the job says of them.

        Raises:
            DataError: nothing there, or nothing that can be read.
        """
        ingested = open_ingested(Path(sources[0])) if Path(sources[0]).is_dir() else None
        if ingested is not None:
            columns = ["path", "size_bytes", "label", "split", "code", "message"]
            table = open_parquet(ingested.files.manifest).read(columns)
            rows: Iterable[Any] = zip(
                *(table.column(name).to_pylist() for name in columns), strict=True
            )
        else:
            listed = list_inputs(sources, options)
            rows = (
                (r.path, r.size_bytes, r.label, r.split, r.code, r.message) for r in listed.rows()
            )
        files = size = largest = labelled = 0
        has_splits = False
        rejections = Rejections()
        for path, num_bytes, label, split, code, message in rows:
            if code is not None:
                rejections.add([{"path": path, "code": code, "message": message}])
            files, size = files + 1, size + (num_bytes or 0)
            largest = max(largest, num_bytes or 0)
            labelled += label is not None
            has_splits |= split is not None
        if files and rejections.total == files:
            raise DataError(
                f"none of the {files:,} files can be read; {rejections.describe(files)}"
            )
        return cls(
            files, size, largest, labelled, has_splits, ingested.size_px if ingested else None
        )


def estimate_scoring(
    found: InputFacts, spec: Any, info: BundleInfo, session: Session | None
) -> list[Estimate]:
    """Returns what scoring takes.

    Args:
        found: the input.
        spec: a `ScoreSpec`.
        info: the bundle.
        session: the workers, for their number and threads.
    """
    rows, shards = found.num_files, -(-found.num_files // spec.shard_rows)
    kept = rows * (_PREDICTION_ROW + _MANIFEST_ROW) + shards * _PREDICTION_FILE
    working = rows * _SHARD_ROW + shards * _SHARD_FILE
    weights = info.files[IR_WEIGHTS_FILE].size_bytes
    return [
        Estimate(
            "disk of the run folder, kept",
            kept,
            f"{rows:,} files x {_PREDICTION_ROW + _MANIFEST_ROW} B and {shards:,} shards x "
            f"{_PREDICTION_FILE} B",
        ),
        Estimate(
            "disk besides, while it runs",
            working,
            f"{rows:,} files x {_SHARD_ROW} B and {shards:,} shards x {_SHARD_FILE} B",
        ),
        _engine_memory(weights, spec.batch_size, info.size_px, found, session),
    ]


def estimate_shadow(
    found: InputFacts, spec: Any, info: BundleInfo, session: Session | None
) -> list[Estimate]:
    """Returns what a shadow takes besides the live model.

    Args:
        found: the input.
        spec: a `ScoreSpec`.
        info: the shadow's bundle.
        session: the workers, for their number and threads.
    """
    weights = info.files[IR_WEIGHTS_FILE].size_bytes
    memory = _engine_memory(weights, spec.batch_size, info.size_px, found, session)
    return [
        Estimate(
            "disk of the shadow's table, kept",
            found.num_files * _SHADOW_ROW,
            f"{found.num_files:,} files x {_SHADOW_ROW} B",
        ),
        Estimate(
            "memory of a worker, for the shadow",
            memory.num_bytes,
            f"{memory.basis}; each image is computed twice, and decoded twice where the live model "
            f"takes another size than {info.size_px} px",
        ),
    ]


def estimate_training(
    found: InputFacts, spec: Any, backbones: list[str], session: Session | None
) -> list[Estimate]:
    """Returns what training, a search or a comparison takes.

    Args:
        found: the images.
        spec: with `image_size`, `views`, `batch_size` and, but for a comparison, `features`; a
            comparison with `loss`.
        backbones: canonical names.
        session: the workers, for their number and threads.
    """
    rows = min(found.num_files, getattr(spec, "limit", None) or found.num_files)
    size, pixels = spec.image_size, spec.image_size**2
    estimates = []
    if found.size_px is None:
        estimates.append(
            Estimate(
                "disk of decoded images, while it runs",
                rows * (pixels + _INGESTED_ROW),
                f"{rows:,} files x ({size} x {size} + {_INGESTED_ROW}) B",
            )
        )
    entries = [sizes_of(name) for name in backbones]
    cached = getattr(spec, "features", "cached") == "cached"
    features = 0
    if cached:
        train = rows if found.has_splits else round(rows * (1 - TEST_OF_POOL - VAL_OF_POOL))
        views = rows + train * (spec.views - 1)
        # A comparison has the features of one backbone at a time.
        width = max(entry.num_features for entry in entries)
        features = views * 4 * width
        estimates.append(
            Estimate(
                "disk of features, while it runs",
                2 * features,
                f"{views:,} views x {width:,} features x 4 B, as computed and packed or copied",
            )
        )
    weights = 4 * sum(entry.num_params for entry in entries) * getattr(spec, "seeds", 1)
    if getattr(spec, "loss", "focal") == "bce":  # with either loss
        weights *= 2
    estimates.append(
        Estimate(
            "disk of the bundle, kept",
            2 * weights,
            f"{weights // 4:,} parameters x 4 B, for Keras and for OpenVINO",
        )
    )
    largest = 4 * max(entry.num_params for entry in entries)
    if cached:
        estimates.append(_engine_memory(largest, None, size, found, session))
    pixel = max(entry.training_bytes for entry in entries)
    estimates.append(_trainer_memory(spec, features, largest, pixel))
    return estimates


def _engine_memory(
    weights: int, batch: int | None, size: int, found: InputFacts, session: Session | None
) -> Estimate:
    """Memory of one worker that runs a network over images; on a GPU the network takes its own."""
    threads = session.threads_per_worker if session else 1
    on_gpu = session is not None and session.gpus_per_worker > 0
    base, pixel = _OPENVINO_BASE, _OPENVINO_PIXEL
    # Every thread has a batch of its own.
    images = threads * (batch or default_batch_size("openvino", size))
    if on_gpu:
        base, pixel = _TENSORFLOW_BASE, _TENSORFLOW_PIXEL
        images = batch or default_batch_size("keras", size)
    total = base + 2 * weights + images * size * size * pixel
    basis = (
        f"{base // MIB} MiB, twice {weights / MIB:.0f} MiB of weights, {images} images x "
        f"{size} x {size} x {pixel} B"
    )
    if found.size_px is None:
        total += threads * (_DECODER + 10 * found.largest_bytes)
        basis += f", {threads} decoders x ({_DECODER // MIB} MiB + 10 x the largest file)"
    return Estimate("memory of a worker", total, basis)


def _trainer_memory(spec: Any, features: int, weights: int, trained: int) -> Estimate:
    """Memory of a process that trains a head, or the network."""
    whole = getattr(spec, "finetune", "none") != "none"
    total, basis = _TENSORFLOW_BASE + features, f"{_TENSORFLOW_BASE // MIB} MiB"
    if features:
        basis += f", {features / MIB:.0f} MiB of features"
    if whole or not features:
        # Trained: weights, gradients, two moments and an average; forward results are kept.
        copies, pixel = (5, trained) if whole else (2, _TENSORFLOW_PIXEL)
        total += copies * weights + spec.batch_size * spec.image_size**2 * pixel
        basis += (
            f", {copies} x {weights / MIB:.0f} MiB of weights, {spec.batch_size} images x "
            f"{spec.image_size} x {spec.image_size} x {pixel} B"
        )
    return Estimate("memory of a training process", total, basis)
