"""What a Ray Train worker does to train on images: the head, then the unfrozen network.

Each worker runs the same loop on its share of every global batch; rank 0 writes.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.config.specs import TrainSpec
from orchestrator.data.shard_files import Images
from orchestrator.data.shifts import SHIFTS
from orchestrator.data.source import IngestedSource
from orchestrator.data.store import ImageStore, StoredImages
from orchestrator.model.slices import batch_counts
from orchestrator.pipelines.train.head_loop import epoch_reporter
from orchestrator.pipelines.train.release import Part, Task, Trained, load_parts, release
from orchestrator.runs.run_dir import RunDir

if TYPE_CHECKING:
    from orchestrator.model.fit import Fit, Step

_STAGE_FILE = "stage.json"


@dataclass(frozen=True)
class LiveTask:
    """All that a worker needs; pickled.

    Args:
        task: the run.
        dataset: its images, at the training size.
    """

    task: Task
    dataset: IngestedSource


@dataclass(frozen=True)
class _Worker:
    """One worker's view of the run.

    Args:
        live: what to do.
        parts: rows of the splits.
        store: the images.
        network: trained in place.
        make_step: as `open_steps` gives it.
        rank: this worker's number.
        size: number of workers.
    """

    live: LiveTask
    parts: dict[str, Part]
    store: ImageStore
    network: Any
    make_step: "Callable[[Any, int, int], Step]"
    rank: int
    size: int


def train_network(config: dict[str, Any]) -> dict[str, Any]:
    """Trains on images and releases the bundle; the loop of a Ray Train run.

    Args:
        config: {"live": LiveTask}.

    Returns:
        The training report, from rank 0; empty from the others.
    """
    worker, history, best_epoch = fit_network(config["live"])
    if worker.rank:
        return {}
    return release(worker.live.task, worker.parts, trained_network(worker), history, best_epoch)


def fit_network(live: LiveTask) -> tuple[_Worker, list[dict[str, float]], int]:
    """Trains on images inside a Ray Train worker, from its last checkpoint where there is one.

    Returns:
        The worker, whose network has the weights of the best epoch, the history and that epoch.
    """
    import ray.train

    from orchestrator.model.live import open_steps

    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    make_step = open_steps(size, live.task.num_threads)
    run = RunDir(live.task.run)
    worker = _Worker(
        live,
        load_parts(run),
        ImageStore(live.dataset),
        _build(live.task, live.task.spec.precision),
        make_step,
        rank,
        size,
    )
    history = _take_head(run, worker.network)
    resumed = ray.train.get_checkpoint()
    if resumed is None:
        history, best_epoch = _train_stages(worker, history, None)
    else:
        with resumed.as_directory() as folder:
            history, best_epoch = _train_stages(worker, history, Path(folder))
    return worker, history, best_epoch


def _stages(spec: TrainSpec) -> list[str]:
    head = ["head"] if spec.features == "live" else []
    return head if spec.finetune == "none" else [*head, "finetune"]


def _train_stages(
    worker: _Worker, history: list[dict[str, float]], resumed: Path | None
) -> tuple[list[dict[str, float]], int]:
    """Runs what is left of the stages; returns the whole history and the best epoch."""
    stages = _stages(worker.live.task.spec)
    done = json.loads((resumed / _STAGE_FILE).read_text()) if resumed else stages[0]
    best_epoch = 0
    for stage in stages[stages.index(done) :]:
        fit = _prepare(worker, stage, history)
        if resumed and stage == done:
            fit.load(resumed)
        history, best_epoch = _run(worker, stage, fit), fit.best_epoch
    return history, best_epoch


def _prepare(worker: _Worker, stage: str, history: list[dict[str, float]]) -> "Fit":
    """Compiles the network for a stage."""
    from orchestrator.model.finetune import compile_finetuning, unfreeze
    from orchestrator.model.fit import Fit, FitConfig, FitState, compile_model

    task, network = worker.live.task, worker.network
    spec, num_train = task.spec, len(worker.parts["train"].rows)
    if stage == "head":
        compile_model(network, lr=task.lr, alpha=task.alpha, gamma=spec.gamma, seed=spec.seed)
        config = FitConfig(spec.epochs, spec.patience, objective=spec.objective)
    else:
        unfreeze(network, spec.finetune)
        compile_finetuning(
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
    step = worker.make_step(network, spec.batch_size, num_train)
    return Fit(network, step, config, FitState(history=list(history)))


def _run(worker: _Worker, stage: str, fit: "Fit") -> list[dict[str, float]]:
    """Runs one stage to its end; the network then holds the weights of its best epoch."""
    from orchestrator.model.live import ImageBatches

    spec = worker.live.task.spec
    train, val = worker.parts["train"], worker.parts["val"]
    batches = ImageBatches(
        worker.store,
        train.rows,
        train.labels,
        spec.batch_size,
        spec.seed,
        spec.augmentation,
        worker.rank,
        worker.size,
    )
    report = epoch_reporter(
        fit, RunDir(worker.live.task.run), worker.rank, {_STAGE_FILE: json.dumps(stage)}
    )
    return fit.run(batches, StoredImages(worker.store, val.rows), val.labels, report)


def _build(task: Task, precision: str) -> Any:
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


def trained_network(worker: _Worker) -> Trained:
    """A float32 network with the trained weights, which the bundle keeps."""
    from orchestrator.model.engine.export import build_engine
    from orchestrator.model.views import scoring_model

    task = worker.live.task
    network = _build(task, "f32")
    network.set_weights(worker.network.get_weights())
    model = scoring_model(network, task.spec.test_time_views)
    engine = build_engine(model, task.num_threads, task.spec.batch_size)

    def logits(part: Part, shift: Callable[[Images], Images] | None = None) -> Any:
        blocks = []
        for start in range(0, len(part.rows), engine.batch_size):
            images = worker.store.take(part.rows[start : start + engine.batch_size])
            blocks.append(engine.logits(shift(images) if shift else images))
        return np.concatenate(blocks)

    def shifted_logits(part: Part) -> Any:
        return np.stack([logits(part, shift) for shift in SHIFTS.values()])

    num_trainable = sum(int(np.prod(v.shape)) for v in worker.network.trainable_variables)
    return Trained(network, num_trainable, logits, shifted_logits)
