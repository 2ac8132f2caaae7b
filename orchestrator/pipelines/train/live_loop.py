"""What a training worker does to train on images: the head, then the unfrozen network.

Each worker runs the same loop on its share of every global batch; rank 0 writes. On CPUs the head
is trained on features that the scoring engine, which is faster, computes of each batch.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.cluster.worker_context import Leave, WorkerContext
from orchestrator.config.threshold import SHIFTED
from orchestrator.data.labelled_rows import LabelledRows
from orchestrator.data.shard_files import Images
from orchestrator.data.shifts import SHIFTS
from orchestrator.data.source import IngestedSource
from orchestrator.data.store import ImageStore, Rows, StoredImages
from orchestrator.model.slices import batch_counts
from orchestrator.pipelines.train.evidence import count_shifted
from orchestrator.pipelines.train.head_loop import epoch_reporter
from orchestrator.pipelines.train.release import Trained, load_parts, release
from orchestrator.pipelines.train.task import ReleaseTask, TrainingTask
from orchestrator.runs.atomic import write_json
from orchestrator.runs.run_dir import RunDir

if TYPE_CHECKING:
    from orchestrator.model.engine.base import Engine
    from orchestrator.model.fit import Batches, Fit
    from orchestrator.model.steps import ModelInputs, Step

_STAGE_FILE = "stage.json"
_BATCHES_A_STREAM = 8  # of an evaluation, at a time: the streams rarely wait for each other
_TELL_S = 2.0


@dataclass(frozen=True)
class _LiveRun:
    """One worker's view of the run.

    Args:
        worker: the worker.
        task: what to do.
        parts: rows of the splits.
        store: the images.
        network: trained in place.
        make_step: as `open_steps` gives it.
        backbone: gives the features of images that the head is trained on; None where it is
            trained as a part of the network.
    """

    worker: WorkerContext
    task: TrainingTask
    parts: dict[str, LabelledRows]
    store: ImageStore
    network: Any
    make_step: "Callable[[Any, int, int, int], Step]"
    backbone: "Engine | None"


def train_network(
    worker: WorkerContext, task: ReleaseTask, dataset: IngestedSource
) -> dict[str, Any]:
    """Trains on images and releases the bundle; the loop of a training of one or more workers.

    Args:
        worker: this worker.
        task: the run.
        dataset: its images, at the training size.

    Returns:
        The training report, from rank 0; empty from the others.
    """
    live, history, best_epoch = fit_network(worker, task.training, dataset)
    if worker.rank:
        return {}
    rows = sum(len(of) for of in task.scope.rows.values()) + len(live.parts["test"])
    copies = len(SHIFTS) if task.training.spec.threshold.endswith(SHIFTED) else 0
    total = rows + len(live.parts["val"]) * (1 + copies)
    total += count_shifted(live.parts["test"] if len(live.parts["test"]) else live.parts["val"])
    told = _Told(RunDir(task.training.run), best_epoch, total)
    return release(task, live.parts, trained_network(live, told), history, best_epoch)


class _Told:
    """Leaves in the run how many images the evaluation has been through.

    Args:
        run: the run.
        epoch: whose weights are evaluated.
        total: images to come.
    """

    def __init__(self, run: RunDir, epoch: int, total: int) -> None:
        self._file, self._facts = run.evaluating, {"epoch": epoch, "total": total}
        self._done, self._write_at = 0, 0.0

    def __call__(self, count: int) -> None:
        """Counts some more images."""
        self._done += count
        if time.monotonic() >= self._write_at or self._done == self._facts["total"]:
            write_json(self._file, self._facts | {"done": self._done})
            self._write_at = time.monotonic() + _TELL_S


def fit_network(
    worker: WorkerContext, task: TrainingTask, dataset: IngestedSource
) -> tuple[_LiveRun, list[dict[str, float]], int]:
    """Trains on images, from the worker's checkpoint where there is one.

    Args:
        worker: this worker.
        task: what to train.
        dataset: its images, at the training size.

    Returns:
        The live run, whose network has the weights of the best epoch, the history and that epoch.
    """
    from orchestrator.model.engine.load import load_engine
    from orchestrator.model.live import open_steps

    make_step = open_steps(worker.size, task.num_threads, worker.num_shares, worker.leaving)
    run = RunDir(task.run)
    network = _build(task, task.spec.precision)
    backbone = None
    if task.spec.features == "live" and run.backbone.with_suffix(".xml").exists():
        backbone = load_engine(run.backbone.parent, "openvino", task.num_threads)
    live = _LiveRun(
        worker, task, load_parts(run), ImageStore(dataset), network, make_step, backbone
    )
    history, best_epoch = _train_stages(live, _take_head(run, network))
    return live, history, best_epoch


def _train_stages(
    live: _LiveRun, history: list[dict[str, float]]
) -> tuple[list[dict[str, float]], int]:
    """Runs what is left of the stages; returns the whole history and the best epoch."""
    spec, resumed = live.task.spec, live.worker.checkpoint
    stages = ["head"] * (spec.features == "live") + ["finetune"] * (spec.finetune != "none")
    done = json.loads((resumed / _STAGE_FILE).read_text()) if resumed else stages[0]
    best_epoch = 0
    for stage in stages[stages.index(done) :]:
        fit = _prepare(live, stage, history)
        if resumed and stage == done:
            fit.load(resumed)
        history, best_epoch = _run(live, stage, fit), fit.best_epoch
    return history, best_epoch


def _prepare(live: _LiveRun, stage: str, history: list[dict[str, float]]) -> "Fit":
    """Compiles the network for a stage."""
    from orchestrator.model.finetune import compile_finetuning, unfreeze
    from orchestrator.model.fit import Fit, FitConfig, FitState, compile_model
    from orchestrator.model.network import build_head

    task, network = live.task, live.network
    spec, num_train = task.spec, len(live.parts["train"])
    if stage == "head":
        trained = network
        if live.backbone:
            trained = build_head(live.backbone.num_outputs, spec.dropout, seed=spec.seed)
        model = compile_model(
            trained, lr=task.lr, alpha=task.alpha, gamma=spec.gamma, seed=spec.seed
        )
        config = FitConfig(spec.epochs, spec.patience, objective=spec.objective)
    else:
        unfreeze(network, spec.finetune)
        model = compile_finetuning(
            network,
            lr=spec.finetune_lr,
            head_lr=task.lr,
            steps=len(batch_counts(num_train, spec.batch_size)) * spec.finetune_epochs,
            warmup=spec.finetune_warmup,
            weight_decay=spec.weight_decay,
            ema=spec.ema,
            alpha=task.alpha,
            gamma=spec.gamma,
            seed=spec.seed,
        )
        # The rate falls to the end, so all epochs are run, and one of the last quarter is taken:
        # an earlier one that leads on validation by chance has not settled.
        config = FitConfig(
            spec.finetune_epochs,
            patience=spec.finetune_epochs,
            plateau=False,
            first_epoch=spec.finetune_epochs * 3 // 4,
            objective=spec.objective,
        )
    step = live.make_step(model, spec.batch_size, num_train, spec.seed)
    return Fit(model, step, config, FitState(history=list(history)))


def _run(live: _LiveRun, stage: str, fit: "Fit") -> list[dict[str, float]]:
    """Runs one stage to its end; the network then holds the weights of its best epoch."""
    from orchestrator.model.live import FeatureBatches, ImageBatches, KeptFeatures
    from orchestrator.model.network import copy_head

    spec, worker = live.task.spec, live.worker
    train, val = live.parts["train"], live.parts["val"]
    batches: Batches = ImageBatches(
        live.store,
        train.rows,
        train.labels,
        spec.batch_size,
        spec.seed,
        spec.augmentation,
        worker.rank,
        worker.size,
        worker.num_shares,
    )
    inputs: ModelInputs = StoredImages(live.store, val.rows)
    backbone = live.backbone if stage == "head" else None
    if backbone:
        batches = FeatureBatches(batches, backbone.predict)
        inputs = KeptFeatures(inputs, backbone.predict)
    notes = {_STAGE_FILE: json.dumps(stage)}
    report = epoch_reporter(fit, RunDir(live.task.run), worker, notes)
    try:
        history = fit.run(batches, inputs, val.labels, report)
    except Leave:
        if fit.state.part.steps:
            report({})
        raise
    if backbone:
        copy_head(fit.model, live.network)
    return history


def _build(task: TrainingTask, precision: str) -> Any:
    """The network as training starts from it, its backbone frozen."""
    from orchestrator.model.engine.keras import set_policy
    from orchestrator.model.keras_file import load_keras_file
    from orchestrator.model.network import build_network

    backbone = load_keras_file(RunDir(task.run).backbone)
    backbone.trainable = False
    network = build_network(backbone, task.spec.dropout, seed=task.spec.seed)
    if precision != "f32":
        set_policy(network, precision)
    return network


def _take_head(run: RunDir, network: Any) -> list[dict[str, float]]:
    """Takes over the head trained on cached features, if there is one; returns its history."""
    from orchestrator.model.network import HEAD_LAYERS

    if not run.head.exists():
        return []
    with np.load(run.head, allow_pickle=False) as stored:
        for index, name in enumerate(HEAD_LAYERS):
            arrays = [stored[f"head/{2 * index}"], stored[f"head/{2 * index + 1}"]]
            network.get_layer(name).set_weights(arrays)
        history: list[dict[str, float]] = json.loads(str(stored["history"]))
    return history


def trained_network(live: _LiveRun, tell: Callable[[int], None] = lambda count: None) -> Trained:
    """A float32 network with the trained weights, which the bundle keeps.

    Args:
        live: the run.
        tell: called with numbers of images that it has been evaluated on.
    """
    from orchestrator.model.engine.export import build_engine
    from orchestrator.model.live import made_ahead

    task = live.task
    network = _build(task, "f32")
    network.set_weights(live.network.get_weights())
    engine = build_engine(network, task.spec.test_time_views, task.num_threads)
    at_a_time = _BATCHES_A_STREAM * engine.batch_size * engine.num_streams

    def outputs(rows: Rows, shift: Callable[[Images], Images] | None = None) -> Any:
        starts = range(0, len(rows), at_a_time)
        images = (live.store.take(rows[start : start + at_a_time]) for start in starts)
        blocks = []
        for block in made_ahead(map(shift, images) if shift else images):
            blocks.append(engine.predict(block))
            tell(len(block))
        return np.concatenate(blocks)

    def logits(part: LabelledRows, shift: Callable[[Images], Images] | None = None) -> Any:
        return outputs(part.rows, shift)[:, 0]

    def shifted_logits(part: LabelledRows) -> Any:
        return np.stack([logits(part, shift) for shift in SHIFTS.values()])

    num_trainable = sum(int(np.prod(v.shape)) for v in live.network.trainable_variables)

    def features(rows: Rows) -> Any:
        return outputs(rows)[:, 1:]

    return Trained(network, num_trainable, logits, features, shifted_logits)
