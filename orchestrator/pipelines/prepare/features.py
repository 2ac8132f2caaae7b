"""Frozen-backbone features of V views of each training image, computed over shards on Ray.

The backbone is built and exported once; workers load the export, not the framework that made it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.cluster.one_shot import run_calls
from orchestrator.cluster.shards import Stage, run_shards
from orchestrator.config.workers import Session
from orchestrator.data.shard_files import part_path, read_part, table_images
from orchestrator.data.source import IngestedSource
from orchestrator.errors import DataError
from orchestrator.pipelines.prepare.feature_set import is_packed, open_features
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import atomic_path

FloatArray = npt.NDArray[np.float32]


@dataclass
class FeatureStage:
    """Features of one shard of an ingested data set.

    Args:
        dataset: decoded images.
        splits: split of every row of the data set, None where the row is not used.
        backbone: folder of the exported backbone.
        views: views of a training row: the plain image first, augmented ones after it.
        seed: seed of the augmentation; a view depends on (seed, row, view) alone.
        augmentation: a recipe of `model.augment`.
        num_threads: compute threads.
        engine: "openvino" or "keras".
        dtype: "float16" or "float32", of the stored features.
    """

    dataset: IngestedSource
    splits: list[str | None]
    backbone: Path
    views: int
    seed: int
    augmentation: str
    num_threads: int
    engine: str
    dtype: str = "float32"

    def __post_init__(self) -> None:
        from orchestrator.model.engine.load import load_engine

        self._engine = load_engine(self.backbone, self.engine, self.num_threads)

    def __call__(self, shard: int) -> pa.Table:
        """Returns columns row int64, view int16, feature `dtype` [D]; one row a view."""
        table = self.dataset.load_table(shard)
        rows = table.column("row").to_numpy()
        split = np.array([self.splits[row] or "" for row in rows], dtype=object)
        used = (split != "") & pc.is_null(table.column("code")).to_numpy()
        images = table_images(table)
        parts: list[tuple[Any, int, Any]] = []
        for view in range(self.views):
            chosen = used if view == 0 else used & (split == "train")
            if chosen.any():
                parts.append(
                    (rows[chosen], view, self._features(images[chosen], rows[chosen], view))
                )
        return _feature_table(parts, self._engine.num_outputs, self.dtype)

    def _features(self, images: Any, rows: Any, view: int) -> FloatArray:
        if view:
            from orchestrator.model.augment import augment

            images = augment(images, rows, view, self.seed, recipe=self.augmentation)
        features: FloatArray = self._engine.predict(images)
        return features


def _feature_table(parts: list[tuple[Any, int, Any]], width: int, dtype: str) -> pa.Table:
    number = pa.from_numpy_dtype(np.dtype(dtype))
    stored = pa.schema(
        [("row", pa.int64()), ("view", pa.int16()), ("feature", pa.list_(number, width))]
    )
    if not parts:
        return stored.empty_table()
    features = np.concatenate([part[2] for part in parts]).astype(dtype)
    return pa.Table.from_arrays(
        [
            pa.array(np.concatenate([part[0] for part in parts])),
            pa.array(np.repeat([p[1] for p in parts], [len(p[0]) for p in parts]).astype(np.int16)),
            pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), width),
        ],
        schema=stored,
    )


@dataclass(frozen=True)
class Backbone:
    """What to export before the first image.

    Args:
        name: registry name or path of a `.keras` feature extractor.
        weights: kind of weights, or a path.
        size_px: height and width of the images, px.
        seed: of random weights.
    """

    name: str
    weights: str
    size_px: int
    seed: int


def compute_features(
    dataset: IngestedSource,
    splits: list[str | None],
    backbone: Backbone,
    views: int,
    out: Path,
    session: Session,
    reporter: Reporter,
    augmentation: str = "paper",
    dtype: str = "float32",
) -> None:
    """Computes the features of every used row into `out`, resuming what is there.

    Args:
        dataset: decoded images, at the backbone's size.
        splits: split of every row, None where it is not used.
        backbone: what computes the features.
        views: views of a training row, the plain image included; other rows have one.
        out: folder of the result: the exported backbone and one Arrow file a shard.
        session: workers to use.
        reporter: told of each shard.
        augmentation: a recipe of `model.augment`.
        dtype: "float16" or "float32", of the stored features.

    Raises:
        OrchestratorError: the backbone's weights are not to be had, or a worker failed.
    """
    if is_packed(out):
        return
    exported = out / "backbone"
    prepare_backbone(backbone, exported, session, reporter)
    engine = feature_engine(session)

    def make_stage() -> Stage:
        return FeatureStage(
            dataset,
            splits,
            exported,
            views,
            backbone.seed,
            augmentation,
            session.threads_per_worker,
            engine,
            dtype,
        )

    train_rows = sum(split == "train" for split in splits)
    used_rows = sum(split is not None for split in splits)
    reporter.begin("features", used_rows + (views - 1) * train_rows, "images")
    for shard in range(dataset.num_shards):
        if part_path(out, shard).exists():
            reporter.advance(read_part(part_path(out, shard)).num_rows)
    run_shards(
        make_stage,
        range(dataset.num_shards),
        out,
        session,
        lambda done: reporter.advance(done.num_rows),
    )
    reporter.end()


def feature_engine(session: Session) -> str:
    """Returns the engine that computes features on these workers."""
    return "keras" if session.gpus_per_worker else "openvino"


def prepare_backbone(
    backbone: Backbone, folder: Path, session: Session, reporter: Reporter, *, engines: bool = True
) -> None:
    """Builds the backbone in a worker process and writes it, unless it is there.

    Args:
        backbone: what to build.
        folder: where to write it.
        session: size of the worker.
        reporter: told when it is built.
        engines: write the form for `load_engine` too, for feature workers.

    Raises:
        OrchestratorError: the backbone's weights are not to be had.
    """
    if not (folder / "backbone.keras").exists():
        reporter.say(f"building {backbone.name} with {backbone.weights} weights")
        run_calls(
            _export_backbone if engines else _save_backbone,
            [(backbone, folder, session.threads_per_worker)],
            task="building the backbone",
            num_cpus=session.cpus_per_worker,
            num_gpus=session.gpus_per_worker,
        )


def load_features(
    folder: Path, num_shards: int, rows: npt.NDArray[np.int64], views: int
) -> FloatArray:
    """Reads features back in the order of `rows`.

    Args:
        folder: where `compute_features` wrote.
        num_shards: shards of the data set.
        rows: int64 [N], manifest rows.
        views: views wanted of each row, counted from the plain image.

    Returns:
        float32 [views, N, D].

    Raises:
        DataError: a wanted view is not there, or is there twice.
    """
    if is_packed(folder):
        return open_features(folder).take(rows, views)
    place = {int(row): index for index, row in enumerate(rows)}
    out: FloatArray | None = None
    filled = np.zeros((views, len(rows)), np.int8)
    for shard in range(num_shards):
        table = read_part(part_path(folder, shard))
        width = table.schema.field("feature").type.list_size
        if out is None:
            out = np.empty((views, len(rows), width), np.float32)
        index = np.array([place.get(row, -1) for row in table.column("row").to_pylist()], np.int64)
        view = table.column("view").to_numpy().astype(np.int64)
        wanted = (index >= 0) & (view < views)
        flat = table.column("feature").combine_chunks().flatten().to_numpy()
        out[view[wanted], index[wanted]] = flat.reshape(-1, width)[wanted]
        np.add.at(filled, (view[wanted], index[wanted]), 1)
    if out is None or not (filled == 1).all():
        raise DataError(
            f"{folder} lacks or doubles {int((filled != 1).sum())} features; remove it and run the "
            "same command again"
        )
    return out


def _export_backbone(backbone: Backbone, folder: Path, threads: int) -> None:
    """Builds the backbone and writes it for the feature workers."""
    from orchestrator.model.backbones import build_backbone
    from orchestrator.model.engine.export import export_backbone

    model = build_backbone(backbone.name, backbone.weights, backbone.size_px, seed=backbone.seed)
    export_backbone(model, folder, threads)


def _save_backbone(backbone: Backbone, folder: Path, threads: int) -> None:
    """Builds the backbone and writes it for training on images."""
    from orchestrator.model.backbones import build_backbone

    model = build_backbone(backbone.name, backbone.weights, backbone.size_px, seed=backbone.seed)
    with atomic_path(folder / "backbone.keras") as temporary:
        model.save(temporary)
