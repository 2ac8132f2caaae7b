"""What ends a training run: calibration, threshold, evaluation, and the bundle with its report."""

import functools
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow.compute as pc

from orchestrator.config.specs import TrainSpec
from orchestrator.data.labelled_rows import LabelledRows
from orchestrator.data.parquet import open_parquet
from orchestrator.data.schema import CLASS_NAMES
from orchestrator.data.store import Rows
from orchestrator.evaluation.calibration import fit_calibration
from orchestrator.evaluation.figures import Calibration
from orchestrator.evaluation.metrics import evaluate
from orchestrator.evaluation.operating_point import choose_validated
from orchestrator.evaluation.report.training_report import (
    build_training_report,
    render_training_html,
)
from orchestrator.model import bundle
from orchestrator.model.bundle_writer import write_bundle
from orchestrator.model.strip import MAX_VIEWS, draw_strip
from orchestrator.pipelines.train.evaluated import write_evaluated
from orchestrator.pipelines.train.evidence import (
    gather_evidence,
    hide_folders,
    measure_groups,
    measure_shifts,
)
from orchestrator.pipelines.train.review import review_splits
from orchestrator.pipelines.train.scope import describe_scope
from orchestrator.pipelines.train.task import ReleaseTask
from orchestrator.runs.atomic import write_json, write_text
from orchestrator.runs.run_dir import RunDir

_VERSIONED = ("xray-orchestrator", "keras", "tensorflow", "openvino", "numpy", "ray")


@dataclass(frozen=True)
class Trained:
    """What training made.

    Args:
        network: a model of `build_network`, in float32.
        num_trainable: weights that training could change.
        logits: gives the logits, float32 [n], of the rows of a split.
        features: gives the pooled features, float32 [n, D], of manifest rows.
        shifted_logits: gives those of each of the shifted copies, float32 [shifts, n]; None for a
            head on cached features, which sees no images.
    """

    network: Any
    num_trainable: int
    logits: Callable[[LabelledRows], Any]
    features: Callable[[Rows], Any]
    shifted_logits: Callable[[LabelledRows], Any] | None = None


def load_parts(run: RunDir) -> dict[str, LabelledRows]:
    """Returns the rows of each split of a run."""
    table = open_parquet(run.splits).read()
    return {
        name: LabelledRows.of(table.filter(pc.equal(table.column("split"), name)))
        for name in ("train", "val", "test")
    }


def release(
    task: ReleaseTask,
    parts: dict[str, LabelledRows],
    trained: Trained,
    history: list[dict[str, float]],
    best_epoch: int,
) -> dict[str, Any]:
    """Calibrates, chooses the threshold, evaluates and writes the bundle with its report.

    Args:
        task: the run.
        parts: as `load_parts` gives them.
        trained: the network, with the weights of its best epoch.
        history: one row an epoch.
        best_epoch: the epoch, as the history numbers them.

    Returns:
        The training report.
    """
    spec, run = task.training.spec, RunDir(task.training.run)
    write_json(run.evaluating, {"epoch": best_epoch})
    val = parts["val"]
    logits = {"val": trained.logits(val)}
    calibration = Calibration(1.0, 0.0)
    if spec.calibration == "platt":
        calibration = fit_calibration(logits["val"], val.labels)
    probabilities = {"val": calibration.apply(logits["val"])}
    shifted = trained.shifted_logits
    threshold = choose_validated(
        val.labels,
        probabilities["val"],
        spec.threshold,
        None if shifted is None else lambda: calibration.apply(shifted(val)),
        task.cohorts,
    )
    if len(parts["test"]):
        logits["test"] = trained.logits(parts["test"])
        probabilities["test"] = calibration.apply(logits["test"])
    evaluations = {
        name: evaluate(parts[name].labels, p, threshold.value, parts[name].patients, seed=spec.seed)
        for name, p in probabilities.items()
    }
    facts = {
        "backbone": spec.backbone,
        "weights": spec.weights,
        "image_size": spec.image_size,
        "num_parameters": trained.network.count_params(),
        "num_trainable": trained.num_trainable,
        "augmentation": _describe_augmentation(spec, len(parts["train"])),
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
    report |= measure_groups(task, parts, probabilities, threshold.value)
    judged = "test" if "test" in logits else "val"
    report["shifts"] = measure_shifts(
        parts[judged],
        logits[judged],
        trained.shifted_logits,
        calibration,
        threshold.value,
        spec.seed,
    )
    rule = None
    if spec.review_target is not None:
        rule, report["review"] = review_splits(
            spec.review_target, parts, logits, calibration, threshold
        )
    write_evaluated(run, parts, probabilities)
    page = functools.partial(
        render_training_html,
        validation=(val.labels, probabilities["val"]),
        test=(parts["test"].labels, probabilities["test"]) if "test" in probabilities else None,
    )
    write_text(run.report_html, page(report, strip=_strip(task)))
    info = bundle.BundleInfo(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        class_names=CLASS_NAMES,
        size_px=spec.image_size,
        backbone=spec.backbone,
        weights=spec.weights,
        num_parameters=facts["num_parameters"],
        num_trainable=facts["num_trainable"],
        threshold=threshold,
        calibration=calibration,
        review=rule,
        test_time_views=spec.test_time_views,
        metrics={
            name: bundle.Metrics(
                num_images=evaluations[key].num_images,
                num_patients=evaluations[key].num_patients,
                metrics=evaluations[key].metrics,
            )
            for name, key in (("validation", "val"), ("test", "test"))
            if key in evaluations
        },
        data=bundle.TrainingData(
            fingerprint=task.fingerprint, counts=task.counts, population=spec.population
        ),
        training=_without_paths(report)["recipe"],
        seed=spec.seed,
        evidence=gather_evidence(task, report),
        versions={name: importlib.metadata.version(name) for name in _VERSIONED},
    )
    write_bundle(
        task.bundle,
        trained.network,
        info,
        extra={
            "report.html": page(_without_paths(report)),
            bundle.SCOPE_FILE: describe_scope(
                task.scope, trained.features, logits["val"], task.audit
            ),
        },
        num_threads=task.training.num_threads,
    )
    return report


def _describe_augmentation(spec: TrainSpec, num_train: int) -> str:
    """How many augmented images the training saw."""
    if spec.augmentation == "none":
        return "none"
    if spec.features == "live" or spec.finetune != "none":
        return f"{spec.augmentation}: another view of each of {num_train:,} images every epoch"
    if spec.views == 1:
        return "none: one view of each image, the plain one"
    augmented = num_train * (spec.views - 1)
    return f"{spec.augmentation}: {augmented:,} views beside {num_train:,} plain images"


def _strip(task: ReleaseTask) -> str | None:
    """The report's strip of augmented views, for the run's own folder: it shows patients."""
    if task.samples is None:
        return None
    spec = task.training.spec
    num_views = MAX_VIEWS if spec.views == 1 else min(spec.views - 1, MAX_VIEWS)
    return draw_strip(task.samples, num_views, spec.seed, spec.augmentation)


def _without_paths(report: dict[str, Any]) -> dict[str, Any]:
    """The report without file names, for the bundle, which goes where the images do not."""
    named = ("examples", "listing")
    audit = {key: value for key, value in report["audit"].items() if key not in named}
    recipe = {key: value for key, value in report["recipe"].items() if "file" not in key}
    recipe.pop("data")
    return {
        **report,
        "audit": audit,
        "recipe": recipe,
        "subgroups": hide_folders(report["subgroups"]),
    }
