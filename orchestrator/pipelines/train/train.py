"""Train a classifier: folder -> split -> audit -> features -> head -> bundle.

The driver lists, splits, audits and reports; everything that needs Keras runs in workers.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from orchestrator.cluster.ray_train import run_training
from orchestrator.cluster.session import open_session
from orchestrator.config.specs import Resources, TrainSpec
from orchestrator.config.threshold import COHORTS
from orchestrator.config.workers import Session
from orchestrator.data.cohorts import number_cohorts
from orchestrator.data.listing.inputs import check_inputs
from orchestrator.data.source import IngestedSource
from orchestrator.errors import counted
from orchestrator.evaluation.groups import find_groups
from orchestrator.model.bundle_folder import INFO_FILE
from orchestrator.model.network import focal_alpha
from orchestrator.model.strip import pick_samples
from orchestrator.pipelines.prepare.features import (
    compute_features,
    feature_engine,
    prepare_backbone,
)
from orchestrator.pipelines.prepare.images import Prepared, by_split, prepare_images
from orchestrator.pipelines.prepare.ingest import fingerprint
from orchestrator.pipelines.train.check import check_run_folder, check_spec, check_workers
from orchestrator.pipelines.train.head_loop import train_head
from orchestrator.pipelines.train.live_loop import train_network
from orchestrator.pipelines.train.lr_search import search_rate
from orchestrator.pipelines.train.scope import sample_scope
from orchestrator.pipelines.train.task import ReleaseTask, TrainingTask
from orchestrator.pipelines.train.tracking import Tracking, open_tracking
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import atomic_folder, write_json
from orchestrator.runs.life_cycle import BundleFolder, open_run
from orchestrator.runs.run_dir import RunDir, new_run_id


@dataclass(frozen=True)
class TrainResult:
    """What a training run made.

    Args:
        bundle: folder of the released model.
        run: folder of the run.
        report: the training report, as in `report.json`.
    """

    bundle: Path
    run: Path
    report: dict[str, Any]


def train(
    spec: TrainSpec,
    resources: Resources,
    reporter: Reporter,
    *,
    run_folder: Path | None = None,
    prepared: Prepared | None = None,
    features: Path | None = None,
) -> TrainResult:
    """Trains by the spec and releases a bundle.

    Args:
        spec: what to train, on what.
        resources: what to use of the cluster.
        reporter: receives every step; the audit and the class-by-split table are said in full.
        run_folder: folder of the run; the one that the bundle's folder names, or a new one under
            `runs/` otherwise.
        prepared: the images where they are decoded, split and audited already.
        features: what `compute_features` wrote for this very split; copied, not computed again.

    Returns:
        Where the bundle, the run and the report are.

    Raises:
        SpecError: the spec cannot be met.
        DataError: the images cannot be trained on, or leak from split to split.
        ClusterError: a worker, the disk or a download failed; the same command goes on later.
    """
    spec = check_spec(spec)
    check_run_folder(run_folder)
    check_inputs([spec.data])
    out = Path(spec.out or Path("models", new_run_id("train"))).absolute()
    bundle = BundleFolder(out, INFO_FILE)
    with open_run("train", run_folder, spec, resources, reporter=reporter, bundle=bundle) as opened:
        if not opened.completed:
            reads = [Path(spec.data), Path(spec.weights), Path(spec.backbone)]
            writes = [opened.run.path, bundle.path]
            with (
                open_session(resources, reads=reads, writes=writes) as session,
                open_tracking(spec, opened.run) as tracking,
            ):
                if features is not None:
                    _take_features(features, opened.run)
                _train(spec, session, opened.run, out, reporter, tracking, prepared)
    return TrainResult(out, opened.run.path, opened.load_report())


def _take_features(features: Path, run: RunDir) -> None:
    """Copies finished features into a run, whole or not at all."""
    if not run.features.exists():
        with atomic_folder(run.features) as temporary:
            shutil.copytree(features, temporary, dirs_exist_ok=True)


def _train(
    spec: TrainSpec,
    session: Session,
    run: RunDir,
    bundle: Path,
    reporter: Reporter,
    tracking: Tracking,
    prepared: Prepared | None,
) -> None:
    """All steps inside an open session; leaves the report in the run."""
    if spec.features == "live" or spec.finetune != "none":
        check_workers(session)
    if prepared is None:
        prepared = prepare_images(spec, session, run, reporter)
    else:
        prepared.write(run)
    dataset, rows, names = prepared.dataset, prepared.rows, prepared.split
    by_cohort = spec.threshold.endswith(COHORTS)  # told before the work, not after it
    cohorts = number_cohorts(rows.filter(pc.equal(names, "val"))) if by_cohort else None
    if spec.features == "live":
        engines = spec.precision == "f32" and feature_engine(session) == "openvino"
        prepare_backbone(spec, run.backbone.parent, session, reporter, engines=engines)
    elif not run.head.exists():
        splits, uuid = names.to_pylist(), run.load_uuid()
        compute_features(spec, dataset, splits, run.features, uuid, session, reporter)
    labels = rows.column("label").filter(pc.equal(names, "train")).to_numpy()
    lr = search_rate(spec, run, session, reporter)["rate"] if spec.lr == "auto" else spec.lr
    task = ReleaseTask(
        TrainingTask(
            # Without the address of a tracking store, which may hold a password.
            spec=spec.model_copy(update={"mlflow": None, "lr": lr}),
            run=run.path,
            alpha=focal_alpha(spec.alpha, labels),
            lr=lr,
            num_threads=session.threads_per_worker,
        ),
        bundle=bundle,
        fingerprint=fingerprint(rows),
        counts=by_split(prepared.counts),
        audit=prepared.audit,
        scope=sample_scope(dataset, rows, names, spec.seed),
        samples=pick_samples(dataset, rows, names, spec.seed) if _augments(spec) else None,
        cohorts=cohorts,
        layout=prepared.layout,
        groups={name: find_groups(rows.filter(pc.equal(names, name))) for name in ("val", "test")},
    )
    run.evaluating.unlink(missing_ok=True)
    told = EpochLines(run, reporter, tracking.epoch)
    try:
        report = _fit(task, dataset, run, session, reporter, told)
    finally:
        told.end()
    tracking.results(report)
    write_json(run.report_json, report)


def _augments(spec: TrainSpec) -> bool:
    """Whether training sees augmented views."""
    live = spec.features == "live" or spec.finetune != "none"
    return spec.augmentation != "none" and (live or spec.views > 1)


def _fit(
    task: ReleaseTask,
    dataset: IngestedSource,
    run: RunDir,
    session: Session,
    reporter: Reporter,
    told: "EpochLines",
) -> dict[str, Any]:
    """Trains the head on cached features, then what is trained on images; returns the report."""
    report: dict[str, Any] = {}
    if task.training.spec.features == "cached" and not run.head.exists():
        reporter.say("starting the training worker")
        head = run.checkpoints / "head"
        report = run_training(train_head, (task,), head, (1, 1), session, told.poll, reporter.say)
    if not report:
        reporter.say(f"starting {counted(session.num_workers, 'training worker')}")
        report = run_training(
            train_network,
            (task, dataset),
            run.checkpoints / "network",
            session.group,
            session,
            told.poll,
            reporter.say,
        )
    return report


class EpochLines:
    """Says each epoch's line once, from what the worker writes, and shows how the last step goes.

    Args:
        run: the run whose history is read.
        reporter: receives each epoch.
        on_row: called with each row of the history.
    """

    def __init__(
        self, run: RunDir, reporter: Reporter, on_row: Callable[[dict[str, float]], None]
    ) -> None:
        self._run = run
        self._reporter = reporter
        self._on_row = on_row
        self._told = 0
        self._evaluated: int | None = None  # images, once the last step has begun
        self._total = 0

    def poll(self) -> None:
        """Says what is new."""
        try:
            history = json.loads(self._run.history.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        for row in history[self._told :]:
            self._on_row(row)
            self._reporter.say(
                f"epoch {row['epoch']:>3}  loss {row['loss']:.4f}  val loss {row['val_loss']:.4f}  "
                f"val accuracy {row['val_accuracy']:.4f}  val AUROC {row['val_auroc']:.4f}  "
                f"lr {row['lr']:.2g}"
            )
        self._told = len(history)
        if self._run.evaluating.exists():
            self._show(json.loads(self._run.evaluating.read_text(encoding="utf-8")))

    def _show(self, state: dict[str, int]) -> None:
        if self._evaluated is None:
            self._evaluated = 0
            self._reporter.say(f"evaluating epoch {state['epoch']} and writing the bundle")
        if "total" not in state:
            return
        if not self._total:
            self._total = state["total"]
            self._reporter.begin("evaluating", self._total, "images")
        more = max(
            state["done"] - self._evaluated, 0
        )  # a worker in place of a lost one begins anew
        self._reporter.advance(more)
        self._evaluated += more

    def end(self) -> None:
        """Closes the bar, where one is open."""
        if self._total:
            self._reporter.end()
