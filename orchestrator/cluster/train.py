"""Train a classifier: folder -> split -> audit -> features -> head -> bundle.

The driver lists, splits, audits and reports; everything that needs Keras runs in workers.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.cluster.features import Backbone, compute_features, prepare_backbone
from orchestrator.cluster.ingest import decode_limits, fingerprint, ingest_manifest
from orchestrator.cluster.live_loop import LiveTask, train_network
from orchestrator.cluster.rate import RateTask, search_rate
from orchestrator.cluster.release import Task
from orchestrator.cluster.session import Session, open_session
from orchestrator.cluster.tracking import Tracking, check_tracking, open_tracking
from orchestrator.cluster.train_loop import train_head
from orchestrator.cluster.trainer import run_training
from orchestrator.data.audit import audit_leakage, render_audit
from orchestrator.data.sample import sample_manifest
from orchestrator.data.schema import CLASS_NAMES, SPLITS
from orchestrator.data.source import IngestedSource, open_ingested, open_manifest
from orchestrator.data.splits import class_by_split, render_class_table, split_rows
from orchestrator.errors import DataError, SpecError
from orchestrator.model.backbones import canonical_name, check_size, check_weights
from orchestrator.model.bundle import INFO_FILE
from orchestrator.model.strip import pick_samples
from orchestrator.progress import Reporter
from orchestrator.run_dir import RunDir, atomic_path, digest, new_run_id, write_json, write_text
from orchestrator.spec import CompareSpec, Resources, TrainSpec, TuneSpec, dump_yaml

_MARKER = "_unfinished.json"
_SHARD_ROWS = 64  # a shard of features is V passes over the backbone: small ones show progress


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
    features: Path | None = None,
) -> TrainResult:
    """Trains by the spec and releases a bundle.

    Args:
        spec: what to train, on what.
        resources: what to use of the cluster.
        reporter: told of every step; the audit and the class-by-split table are said in full.
        run_folder: folder of the run; a new one under `runs/` otherwise.
        features: what `compute_features` wrote for this very split; copied, not computed again.

    Returns:
        Where the bundle, the run and the report are.

    Raises:
        SpecError: the spec cannot be met.
        DataError: the images cannot be trained on, or leak from split to split.
        ClusterError: a worker, the disk or a download failed; the same command goes on later.
    """
    spec = check_spec(spec)
    run, bundle = _claim(spec, run_folder)
    # With the bundle's folder, so that `--resume` finds it whatever the working directory.
    stored = spec.model_copy(update={"out": str(bundle)})
    write_text(run.spec, dump_yaml("train", run.path.name, stored, resources))
    reads = [Path(spec.data), Path(spec.weights), Path(spec.backbone)]
    writes = [run.path, bundle]
    with (
        run.recording_failure("--resume"),  # --out is the bundle's folder
        open_session(resources, reads=reads, writes=writes) as session,
    ):
        if features is not None:
            _take_features(features, run)
        with open_tracking(spec, run) as tracking:
            report = _train(spec, session, run, bundle, reporter, tracking)
    run.finish()
    return TrainResult(bundle, run.path, report)


def check_spec(spec: TrainSpec) -> TrainSpec:
    """Returns the spec with names in their canonical form; raises SpecError before any work."""
    check_tracking(spec)
    backbone = canonical_name(spec.backbone)
    weights = check_weights(backbone, None if spec.weights == "auto" else spec.weights)
    check_size(backbone, spec.image_size)
    on_images = spec.features == "live" or spec.finetune != "none"
    if not on_images and (spec.test_time_views > 1 or spec.threshold == "youden-shifted"):
        raise SpecError(
            "--test-time-views 3 and --threshold youden-shifted need the images at hand: add "
            "--features live, or --finetune"
        )
    if spec.lr == "auto" and spec.features == "live":
        raise SpecError(
            "--lr auto searches on cached features; give a number with --features live, or take "
            "the rate that `orchestrator find-lr` prints"
        )
    return spec.model_copy(update={"backbone": backbone, "weights": weights})


def _claim(spec: TrainSpec, run_folder: Path | None) -> tuple[RunDir, Path]:
    """Takes the bundle's folder, and takes up an unfinished run of the same spec in it.

    While a run lasts the folder holds a note of where the run is; a folder with neither that note
    nor a bundle is somebody else's and is left alone.
    """
    fresh = new_run_id("train")
    bundle = Path(spec.out) if spec.out else Path("models", fresh).absolute()
    marker = bundle / _MARKER
    identity = digest(spec.model_dump(exclude={"out", "overwrite"}))
    run = RunDir((run_folder or Path("runs", fresh)).absolute())
    if bundle.is_dir() and any(bundle.iterdir()):
        note = _read_note(marker)
        finished = (bundle / INFO_FILE).exists()
        if not note and not finished:
            raise SpecError(
                f"--out {bundle} is not empty and holds no bundle; name a new or empty folder"
            )
        same = note.get("spec_digest") == identity and not finished
        if not same and not spec.overwrite:
            state = "a bundle" if finished else "an unfinished run of another spec"
            raise SpecError(f"--out {bundle} holds {state}; name another or add --overwrite")
        if same:
            run = RunDir(Path(note["run"]))
        else:
            shutil.rmtree(bundle)
    elif bundle.exists() and not bundle.is_dir():
        raise SpecError(f"--out {bundle} is a file; name a folder")
    run.start(identity, overwrite=False)
    write_json(marker, {"run": str(run.path), "spec_digest": identity})
    return run, bundle


def _read_note(marker: Path) -> dict[str, Any]:
    try:
        note = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) and {"run", "spec_digest"} <= set(note) else {}


def _take_features(features: Path, run: RunDir) -> None:
    """Copies finished features into a run, whole or not at all."""
    if not run.features.exists():
        temporary = run.path / ".tmp-features"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(features, temporary)
        temporary.rename(run.features)


def _train(
    spec: TrainSpec,
    session: Session,
    run: RunDir,
    bundle: Path,
    reporter: Reporter,
    tracking: Tracking,
) -> dict[str, Any]:
    """All steps inside an open session; returns the report."""
    if spec.features == "live" or spec.finetune != "none":
        _check_workers(session)
    dataset = open_images(spec, session, run, reporter)
    rows = dataset.load_rows()
    names, counts, audit = split_images(spec, rows, run, reporter)
    backbone = Backbone(spec.backbone, spec.weights, spec.image_size, spec.seed)
    if spec.features == "live":
        prepare_backbone(backbone, run.backbone.parent, session, reporter, engines=False)
    elif not run.head.exists():
        compute_features(
            dataset,
            names.to_pylist(),
            backbone,
            spec.views,
            run.features,
            session,
            reporter,
            spec.augmentation,
        )
    labels = rows.column("label").filter(pc.equal(names, "train")).to_numpy()
    searched = RateTask(spec, run.path, dataset.num_shards)
    lr = search_rate(searched, session, reporter)["rate"] if spec.lr == "auto" else spec.lr
    task = Task(
        # Without the address of a tracking store, which may hold a password.
        spec=spec.model_copy(update={"mlflow": None, "lr": lr}),
        run=run.path,
        bundle=bundle,
        num_shards=dataset.num_shards,
        alpha=float(np.mean(labels == 0)) if spec.alpha == "auto" else spec.alpha,
        lr=lr,
        num_threads=session.threads_per_worker,
        fingerprint=fingerprint(rows),
        counts=_by_split(counts),
        audit=audit,
        samples=pick_samples(dataset, rows, names, spec.seed) if _augments(spec) else None,
    )
    run.evaluating.unlink(missing_ok=True)
    told = EpochLines(run, reporter, tracking.epoch)
    report = _fit(task, dataset, run, session, reporter, told)
    tracking.results(report)
    write_json(run.report_json, report)
    (bundle / _MARKER).unlink(missing_ok=True)
    for file in (run.head, run.evaluating):
        file.unlink(missing_ok=True)
    for folder in (run.ingested, run.features, run.checkpoints):
        shutil.rmtree(folder, ignore_errors=True)  # the bundle and the tables are what stays
    return report


def _augments(spec: TrainSpec) -> bool:
    """Whether training sees augmented views."""
    live = spec.features == "live" or spec.finetune != "none"
    return spec.augmentation != "none" and (live or spec.views > 1)


def _fit(
    task: Task,
    dataset: IngestedSource,
    run: RunDir,
    session: Session,
    reporter: Reporter,
    told: "EpochLines",
) -> dict[str, Any]:
    """Trains the head on cached features, then what is trained on images; returns the report."""
    report: dict[str, Any] = {}
    if task.spec.features == "cached" and not run.head.exists():
        reporter.say("starting the training worker")
        report = run_training(
            train_head, {"task": task}, run.checkpoints / "head", 1, session, told.poll
        )
    if not report:
        reporter.say(f"starting {session.num_workers} training worker(s)")
        report = run_training(
            train_network,
            {"live": LiveTask(task, dataset)},
            run.checkpoints / "network",
            session.num_workers,
            session,
            told.poll,
        )
    return report


def _check_workers(session: Session) -> None:
    """Raises SpecError where the workers could not train together."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if session.gpus_per_worker > 1 or 0 < session.gpus_per_worker < 1 < session.num_workers:
        raise SpecError(
            f"asked for {session.gpus_per_worker:g} GPU per worker; training on images takes one: "
            "give --gpus-per-worker 1 and as many --workers as there are GPUs"
        )
    if session.num_workers > 1 and backend != "tensorflow":
        raise SpecError(
            f"{session.num_workers} workers cannot train under KERAS_BACKEND={backend}; give "
            "--workers 1 or KERAS_BACKEND=tensorflow"
        )


def open_images(
    spec: TrainSpec | CompareSpec | TuneSpec,
    session: Session,
    run: RunDir,
    reporter: Reporter,
    limit: int | None = None,
) -> IngestedSource:
    """Returns the images of a training spec as an ingested data set, ingesting them if need be.

    Args:
        spec: names the data, the image size and the seed.
        session: workers to use.
        run: where an own data set goes.
        reporter: told of the images.
        limit: about so many of the labelled images, whole patients.

    Raises:
        SpecError: a limit on an ingested data set.
        DataError: an ingested data set of another image size, or nothing to read.
    """
    # A resumed run keeps the one it has: another reading would hash DICOM patients under another
    # key, and so split them otherwise.
    finished = open_ingested(run.ingested) if (run.ingested / "dataset.json").is_file() else None
    if finished is not None:
        return finished
    manifest, ingested = open_manifest(Path(spec.data), _SHARD_ROWS)
    if ingested is not None:
        if limit is not None:
            raise SpecError(
                f"--limit {limit} cannot be met on {spec.data}, an ingested data set; name the "
                "folder of X-rays it was made from"
            )
        if ingested.size_px != spec.image_size:
            raise DataError(
                f"{spec.data} holds images of {ingested.size_px} px; expected {spec.image_size}: "
                f"give --image-size {ingested.size_px} or ingest again"
            )
        return ingested
    reporter.say(f"found {manifest.table.num_rows:,} files in {spec.data}")
    if limit is not None:
        manifest = sample_manifest(manifest, limit, seed=spec.seed, shard_rows=_SHARD_ROWS)
        reporter.say(f"took {manifest.table.num_rows:,} of them, patients whole")
    own = RunDir(run.ingested)
    identity = [spec.data, spec.image_size, spec.limits.model_dump(), limit, spec.seed]
    own.start(digest(identity), overwrite=True)
    dataset = ingest_manifest(
        manifest,
        own,
        spec.image_size,
        decode_limits(spec.limits),
        spec.patient_key_file,
        session,
        reporter,
    )
    shutil.copyfile(own.manifest, run.manifest)
    shutil.copyfile(own.rejected, run.rejected)
    return dataset


def split_images(
    spec: TrainSpec | TuneSpec, rows: pa.Table, run: RunDir, reporter: Reporter
) -> tuple[pa.Array, dict[str, dict[str, int]], dict[str, Any]]:
    """Splits and audits, says both, stores both.

    Raises:
        DataError: proven leakage, unless the spec allows it.
    """
    split = split_rows(rows, seed=spec.seed, merge_val=spec.merge_val)
    counts = class_by_split(rows, split.names)
    audit = audit_leakage(rows, split.names)
    for line in [*render_class_table(counts), *render_audit(audit)]:
        reporter.say(line)
    stored = rows.select(["row", "path", "label", "patient_id", "sha256"])
    with atomic_path(run.splits) as temporary:
        pq.write_table(stored.append_column("split", split.names), temporary)
    described = audit.as_dict()
    write_json(run.audit, {"layout": split.layout, "class_by_split": counts, "leakage": described})
    if audit.blocking and not spec.allow_leakage:
        raise DataError(
            f"images leak between the splits of {spec.data} (see {run.audit}); mend the folders "
            "or the patient ids, or add --allow-leakage"
        )
    return split.names, counts, described


def _by_split(counts: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Images by split, then by class: what of the class-by-split table the bundle keeps."""
    return {
        split: {name: counts[split][name] for name in CLASS_NAMES}
        for split in SPLITS
        if split in counts
    }


class EpochLines:
    """Says each epoch's line once, from the history that the worker writes, and the last step.

    Args:
        run: the run whose history is read.
        reporter: told of each epoch.
        on_row: called with each row of the history.
    """

    def __init__(
        self, run: RunDir, reporter: Reporter, on_row: Callable[[dict[str, float]], None]
    ) -> None:
        self._run = run
        self._reporter = reporter
        self._on_row = on_row
        self._told = 0
        self._evaluating = False

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
        if not self._evaluating and self._run.evaluating.exists():
            self._evaluating = True
            best = self._run.evaluating.read_text(encoding="utf-8").strip()
            self._reporter.say(f"evaluating epoch {best} and writing the bundle")
