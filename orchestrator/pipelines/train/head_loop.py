"""What a training worker does to train the head on cached features."""

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.cluster.worker_context import WorkerContext
from orchestrator.data.labelled_rows import LabelledRows
from orchestrator.data.store import Rows
from orchestrator.pipelines.prepare.feature_set import open_features
from orchestrator.pipelines.train.release import Trained, load_parts, release
from orchestrator.pipelines.train.task import ReleaseTask, TrainingTask
from orchestrator.runs.atomic import atomic_path, write_json
from orchestrator.runs.run_dir import RunDir

if TYPE_CHECKING:
    from orchestrator.model.fit import Fit


def train_head(worker: WorkerContext, task: ReleaseTask) -> dict[str, Any]:
    """Trains the head and releases the bundle; the loop of a one-worker training.

    Args:
        worker: the only worker.
        task: the run.

    Returns:
        The training report; an empty one where fine-tuning is to follow, which starts from the
        head left in the run.
    """
    from orchestrator.model.fit import ArrayBatches, Fit, FitConfig, compile_model
    from orchestrator.model.network import build_head
    from orchestrator.model.steps import KerasStep

    training = task.training
    spec, run = training.spec, RunDir(training.run)
    parts = load_parts(run)
    train, val = parts["train"], parts["val"]
    views = open_features(run.features).take(train.rows, spec.views)
    val_features = _plain_features(run, val.rows)
    head = build_head(views.shape[-1], spec.dropout, seed=spec.seed)
    model = compile_model(
        head, lr=training.lr, alpha=training.alpha, gamma=spec.gamma, seed=spec.seed
    )
    plan = FitConfig(spec.epochs, spec.patience, objective=spec.objective)
    fit = Fit(model, KerasStep(model, spec.batch_size, spec.seed, worker.leaving), plan)
    if worker.checkpoint is not None:
        fit.load(worker.checkpoint)
    batches = ArrayBatches(views, train.labels, spec.batch_size, spec.seed)
    history = fit.run(batches, val_features, val.labels, epoch_reporter(fit, run, worker))
    if spec.finetune != "none":
        write_head(run, head, history)
        return {}
    return release(task, parts, _trained(training, head), history, fit.best_epoch)


def _trained(task: TrainingTask, head: Any) -> Trained:
    """The whole network with this head; logits of the head on cached features."""
    from orchestrator.model.keras_file import load_keras_file
    from orchestrator.model.network import build_network, copy_head, logit_model

    spec, run = task.spec, RunDir(task.run)
    network = build_network(load_keras_file(run.backbone), spec.dropout, seed=spec.seed)
    copy_head(head, network)
    to_logit = logit_model(head)

    def logits(part: LabelledRows) -> Any:
        features = _plain_features(run, part.rows)
        return to_logit.predict(features, batch_size=spec.batch_size, verbose=0)[:, 0]

    return Trained(network, head.count_params(), logits, lambda rows: _plain_features(run, rows))


def _plain_features(run: RunDir, rows: Rows) -> Any:
    return open_features(run.features).take(rows)[0]


def write_head(run: RunDir, head: Any, history: list[dict[str, float]]) -> None:
    """Leaves the trained head and its history in the run, for fine-tuning to start from."""
    with atomic_path(run.head) as temporary, temporary.open("wb") as handle:
        weights = {f"head/{index}": array for index, array in enumerate(head.get_weights())}
        np.savez(handle, history=np.array(json.dumps(history)), **weights)


def epoch_reporter(
    fit: "Fit",
    run: RunDir,
    worker: WorkerContext,
    notes: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[dict[str, float]], None]:
    """Returns what every worker calls after each epoch: history and checkpoint, by rank 0.

    Args:
        fit: the training.
        run: where the history goes.
        worker: this worker.
        notes: more files of the checkpoint, name -> text.
    """

    def on_epoch(row: dict[str, float]) -> None:
        if worker.rank:
            worker.report(row)
            return
        write_json(run.history, fit.state.history)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            fit.save(folder)
            for file, text in notes.items():
                (folder / file).write_text(text, encoding="utf-8")
            worker.report(row, folder)

    return on_epoch
