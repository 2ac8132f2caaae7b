"""Frozen-backbone features of V views of each training image, computed over shards on Ray.

The backbone is built and exported once; workers load the export, not the framework that made it.
"""

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.cluster.one_shot import run_calls
from orchestrator.cluster.shards import run_shards
from orchestrator.config.specs import TrainSpec, TuneSpec
from orchestrator.config.workers import Session
from orchestrator.data.shard_files import check_parts, table_images
from orchestrator.data.shards import shard_limit_s
from orchestrator.data.source import IngestedSource
from orchestrator.pipelines.prepare.feature_set import is_packed, pack_features
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import atomic_path

FloatArray = npt.NDArray[np.float32]
_CHUNK = 32  # images of one view


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
    splits: Sequence[str | None]
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
        # A thread a core, each taking images from their pixels to their features: some are being
        # augmented while others are in the engine, and few augmented ones wait.
        with ThreadPoolExecutor(self.num_threads) as pool:
            for view in range(self.views):
                chosen = np.flatnonzero(used if view == 0 else used & (split == "train"))
                for start in range(0, len(chosen), _CHUNK):
                    part = chosen[start : start + _CHUNK]
                    features = pool.submit(self._features, images, rows, part, view)
                    parts.append((rows[part], view, features))
            try:
                done = [(part, view, features.result()) for part, view, features in parts]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return _feature_table(done, self._engine.num_outputs, self.dtype)

    def _features(self, images: Any, rows: Any, part: Any, view: int) -> FloatArray:
        chosen = images[part]  # copied here, so that few copies wait
        if view:
            from orchestrator.model.augment import augment

            chosen = augment(chosen, rows[part], view, self.seed, recipe=self.augmentation)
        features: FloatArray = self._engine.predict(chosen)
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


def compute_features(
    spec: TrainSpec | TuneSpec,
    dataset: IngestedSource,
    splits: Sequence[str | None],
    out: Path,
    owner: str,
    session: Session,
    reporter: Reporter,
) -> None:
    """Computes the features of every used row into a packed feature set, resuming what is there.

    Args:
        spec: names backbone, weights, views, augmentation and seed.
        dataset: decoded images, at the spec's size.
        splits: split of every row, None where it is not used; rows of "train" get all views, the
            others the plain one.
        out: folder of the result: the exported backbone, and what `open_features` opens.
        owner: what its shards belong to: id of the run, or key of a set that runs share.
        session: workers to use.
        reporter: receives each shard.

    Raises:
        OrchestratorError: the backbone's weights are not to be had, or a worker failed.
    """
    if is_packed(out):
        return
    exported = out / "backbone"
    prepare_backbone(spec, exported, session, reporter)
    make_stage = functools.partial(
        FeatureStage,
        dataset,
        splits,
        exported,
        spec.views,
        spec.seed,
        spec.augmentation,
        session.threads_per_worker,
        feature_engine(session),
        spec.feature_dtype if isinstance(spec, TuneSpec) else "float32",
    )
    split = np.array([name or "" for name in splits])
    augmented = np.flatnonzero(split == "train")
    plain = np.flatnonzero((split != "train") & (split != ""))
    reporter.begin("features", spec.views * len(augmented) + len(plain), "images")
    num_shards = dataset.num_shards
    limit_s = shard_limit_s(spec.views * dataset.load_table(0).num_rows, spec.image_size)
    run_shards(make_stage, range(num_shards), out, owner, session, reporter, limit_s)
    check_parts(out, num_shards, owner)
    pack_features(out, dataset.num_shards, augmented, plain, spec.views)
    reporter.end()


def feature_engine(session: Session) -> str:
    """Returns the engine that computes features on these workers."""
    return "keras" if session.gpus_per_worker else "openvino"


def prepare_backbone(
    spec: TrainSpec | TuneSpec,
    folder: Path,
    session: Session,
    reporter: Reporter,
    *,
    engines: bool = True,
) -> None:
    """Builds the backbone in a worker process and writes it, unless it is there.

    Args:
        spec: names backbone, weights, image size and the seed of random weights.
        folder: where to write it.
        session: size of the worker.
        reporter: told when it is built.
        engines: write the form for `load_engine` too, for workers that compute features.

    Raises:
        OrchestratorError: the backbone's weights are not to be had.
    """
    if not (folder / "backbone.keras").exists():
        reporter.say(f"building {spec.backbone} with {spec.weights} weights")
        backbone = (spec.backbone, spec.weights, spec.image_size, spec.seed)
        run_calls(
            _write_backbone,
            [(*backbone, folder, session.threads_per_worker if engines else None)],
            task="building the backbone",
            session=session,
            reporter=reporter,
        )


def _write_backbone(
    name: str, weights: str, size_px: int, seed: int, folder: Path, export_threads: int | None
) -> None:
    """Builds a backbone and writes it: for training, and for feature workers where exported."""
    from orchestrator.model.backbones import build_backbone
    from orchestrator.model.engine.export import export_backbone

    model = build_backbone(name, weights, size_px, seed=seed)
    if export_threads is not None:
        export_backbone(model, folder, export_threads)
        return
    with atomic_path(folder / "backbone.keras") as temporary:
        model.save(temporary)
