"""What a Ray Train worker does: trains the head on cached features, then releases the bundle."""

import functools
import importlib.metadata
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.cluster.evaluated import write_evaluated
from orchestrator.cluster.features import load_features
from orchestrator.data.schema import CLASS_NAMES
from orchestrator.evaluation.calibration import choose_threshold, fit_calibration
from orchestrator.evaluation.metrics import Evaluation, evaluate
from orchestrator.evaluation.training_report import build_training_report, render_training_html
from orchestrator.model import bundle
from orchestrator.model.strip import MAX_VIEWS, Samples, draw_strip
from orchestrator.run_dir import RunDir, write_json, write_text
from orchestrator.spec import TrainSpec

THRESHOLD_RULE = "youden"
_VERSIONED = ("xray-orchestrator", "keras", "tensorflow", "openvino", "numpy", "ray")


@dataclass(frozen=True)
class Task:
    """All that a worker needs; pickled.

    Args:
        spec: the resolved spec.
        run: folder of the run.
        bundle: folder of the bundle to write.
        num_shards: shards of the feature data set.
        alpha: focal weight of PNEUMONIA, a number.
        lr: Adam's learning rate, a number.
        num_threads: compute threads.
        fingerprint: digest of the training data.
        counts: images by split, then by class.
        audit: the leakage audit, JSON-able.
        samples: images for the report's strip; None where training sees no augmented view.
    """

    spec: TrainSpec
    run: Path
    bundle: Path
    num_shards: int
    alpha: float
    lr: float
    num_threads: int
    fingerprint: str
    counts: dict[str, dict[str, int]]
    audit: dict[str, Any]
    samples: Samples | None


@dataclass(frozen=True)
class _Part:
    """The rows of one split."""

    rows: Any
    labels: Any
    patients: Any


def train_head(config: dict[str, Any]) -> dict[str, Any]:
    """Trains the head and releases the bundle; the loop of a one-worker Ray Train run.

    Args:
        config: {"task": Task}.

    Returns:
        The training report.
    """
    import ray.train

    from orchestrator.model.fit import ArrayBatches, Fit, FitConfig, KerasStep, compile_model
    from orchestrator.model.network import build_head

    task: Task = config["task"]
    spec, run = task.spec, RunDir(task.run)
    parts = _load_parts(run)
    train, val = parts["train"], parts["val"]
    views = load_features(run.features, task.num_shards, train.rows, spec.views)
    val_features = _plain_features(task, val)
    head = build_head(views.shape[-1], spec.dropout, seed=spec.seed)
    compile_model(head, lr=task.lr, alpha=task.alpha, gamma=spec.gamma, seed=spec.seed)
    fit = Fit(head, KerasStep(head, spec.batch_size), FitConfig(spec.epochs, spec.patience))
    resumed = ray.train.get_checkpoint()
    if resumed is not None:
        with resumed.as_directory() as folder:
            fit.load(Path(folder))

    def on_epoch(row: dict[str, float]) -> None:
        write_json(run.history, fit.state.history)
        with tempfile.TemporaryDirectory() as folder:
            fit.save(Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(row, checkpoint=checkpoint)

    batches = ArrayBatches(views, train.labels, spec.batch_size, spec.seed)
    history = fit.run(batches, val_features, val.labels, on_epoch)
    return _release(task, parts, head, history, fit.best_epoch)


def _load_parts(run: RunDir) -> dict[str, _Part]:
    table = pq.read_table(run.splits)
    parts = {}
    for name in ("train", "val", "test"):
        chosen = table.filter(pa.compute.equal(table.column("split"), name))
        parts[name] = _Part(
            chosen.column("row").to_numpy(),
            chosen.column("label").to_numpy(),
            np.array(chosen.column("patient_id").to_pylist(), object),
        )
    return parts


def _plain_features(task: Task, part: _Part) -> Any:
    return load_features(RunDir(task.run).features, task.num_shards, part.rows, 1)[0]


def _release(
    task: Task, parts: dict[str, _Part], head: Any, history: list[dict[str, float]], best_epoch: int
) -> dict[str, Any]:
    """Calibrates, chooses the threshold, evaluates and writes the bundle with its report."""
    from orchestrator.model.keras_file import load_keras_file
    from orchestrator.model.network import build_network, copy_head, logit_model

    spec, run = task.spec, RunDir(task.run)
    to_logit = logit_model(head)

    def logits(part: _Part) -> Any:
        features = _plain_features(task, part)
        return to_logit.predict(features, batch_size=spec.batch_size, verbose=0)[:, 0]

    val = parts["val"]
    val_logits = logits(val)
    calibration = fit_calibration(val_logits, val.labels)
    probabilities = {"val": calibration.apply(val_logits)}
    threshold = choose_threshold(val.labels, probabilities["val"], THRESHOLD_RULE)
    if len(parts["test"].rows):
        probabilities["test"] = calibration.apply(logits(parts["test"]))
    evaluations = {
        name: evaluate(parts[name].labels, p, threshold.value, parts[name].patients, seed=spec.seed)
        for name, p in probabilities.items()
    }
    network = build_network(
        load_keras_file(run.features / "backbone" / "backbone.keras"), spec.dropout, seed=spec.seed
    )
    copy_head(head, network)
    facts = {
        "backbone": spec.backbone,
        "weights": spec.weights,
        "image_size": spec.image_size,
        "num_parameters": network.count_params(),
        "num_trainable": head.count_params(),
    }
    report = build_training_report(
        history=history,
        best_epoch=best_epoch,
        splits=task.counts,
        audit=task.audit,
        validation=evaluations["val"],
        test=evaluations.get("test"),
        threshold=threshold,
        calibration=calibration,
        model=facts,
        recipe=spec.model_dump(mode="json", exclude={"out", "overwrite"}),
        run={"run_id": run.path.name, "started_at": run.load_status().get("running_at")},
    )
    write_evaluated(run, parts, probabilities)
    page = functools.partial(
        render_training_html,
        _without_paths(report),
        (val.labels, probabilities["val"]),
        (parts["test"].labels, probabilities["test"]) if "test" in probabilities else None,
    )
    write_text(run.report_html, page(strip=_strip(task)))
    info = bundle.BundleInfo(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        class_names=CLASS_NAMES,
        size_px=spec.image_size,
        backbone=spec.backbone,
        weights=spec.weights,
        num_parameters=facts["num_parameters"],
        num_trainable=facts["num_trainable"],
        threshold=bundle.Operating(value=threshold.value, rule=threshold.rule),
        calibration=bundle.Calibration(slope=calibration.slope, intercept=calibration.intercept),
        metrics={
            name: _figures(evaluations[key])
            for name, key in (("validation", "val"), ("test", "test"))
            if key in evaluations
        },
        data=bundle.TrainingData(fingerprint=task.fingerprint, counts=task.counts),
        training=_without_paths(report)["recipe"],
        seed=spec.seed,
        versions={name: importlib.metadata.version(name) for name in _VERSIONED},
    )
    bundle.write_bundle(
        task.bundle, network, info, extra={"report.html": page()}, num_threads=task.num_threads
    )
    return report


def _strip(task: Task) -> str | None:
    """Training images beside their augmented views, where training sees any."""
    if task.samples is None:
        return None
    return draw_strip(task.samples, min(task.spec.views - 1, MAX_VIEWS), task.spec.seed)


def _without_paths(report: dict[str, Any]) -> dict[str, Any]:
    """The report without file names, for the bundle, which goes where the images do not."""
    audit = {key: value for key, value in report["audit"].items() if key != "examples"}
    recipe = {key: value for key, value in report["recipe"].items() if "file" not in key}
    recipe.pop("data")
    return {**report, "audit": audit, "recipe": recipe}


def _figures(evaluation: Evaluation) -> bundle.Metrics:
    figures = {
        name: bundle.Figure(**interval.as_dict()) for name, interval in evaluation.metrics.items()
    }
    return bundle.Metrics(
        num_images=evaluation.num_images, num_patients=evaluation.num_patients, metrics=figures
    )
