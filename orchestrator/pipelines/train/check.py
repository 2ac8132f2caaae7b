"""What a training can be asked for, checked before any work."""

import os
from pathlib import Path

from orchestrator.config.specs import TrainSpec
from orchestrator.config.threshold import SHIFTED
from orchestrator.config.workers import Session
from orchestrator.data.schema import escape_path
from orchestrator.errors import SpecError
from orchestrator.model.backbones import canonical_name, check_size, check_weights
from orchestrator.model.lite import find_weights
from orchestrator.pipelines.train.tracking import check_tracking


def check_spec(spec: TrainSpec) -> TrainSpec:
    """Returns the spec with names in their canonical form; raises SpecError before any work."""
    check_tracking(spec)
    backbone = canonical_name(spec.backbone)
    weights = check_weights(backbone, None if spec.weights == "auto" else spec.weights)
    check_size(backbone, spec.image_size)
    if weights == "offline":
        find_weights(backbone)
    on_images = spec.features == "live" or spec.finetune != "none"
    if not on_images and (spec.test_time_views > 1 or spec.threshold.endswith(SHIFTED)):
        raise SpecError(
            f"--test-time-views 3 and a --threshold with {SHIFTED} need the images: add "
            "--features live, or --finetune"
        )
    if spec.lr == "auto" and spec.features == "live":
        raise SpecError(
            "--lr auto searches on cached features; give a number with --features live, or take "
            "the rate that `orchestrator find-lr` prints"
        )
    views = 1 if spec.augmentation == "none" else spec.views
    return spec.model_copy(update={"backbone": backbone, "weights": weights, "views": views})


def check_workers(session: Session) -> None:
    """Raises SpecError where the workers could not train together."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    most = session.group[1]
    if session.gpus_per_worker > 1 or 0 < session.gpus_per_worker < 1 < most:
        raise SpecError(
            f"asked for {session.gpus_per_worker:g} GPU per worker; training on images takes one: "
            "give --gpus-per-worker 1 and as many --workers as there are GPUs"
        )
    if most > 1 and backend != "tensorflow":
        raise SpecError(
            f"{most} workers cannot train under KERAS_BACKEND={backend}; give "
            "--workers 1 or KERAS_BACKEND=tensorflow"
        )


def check_run_folder(folder: Path | None) -> None:
    """Raises SpecError for a run folder, or the folder of `runs/`, whose name is not UTF-8.

    Ray Train and Ray Tune cannot keep their checkpoints in such a folder.
    """
    named = os.fsencode((folder or Path("runs")).absolute())
    try:
        named.decode()
    except UnicodeDecodeError as error:
        raise SpecError(
            f"checkpoints cannot be kept in {escape_path(named)}, whose name is not UTF-8; "
            "name another folder with --out, or work in another one"
        ) from error
