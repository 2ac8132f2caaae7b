"""What a search trains on: the held-out fold, the folds of the trials, the shared feature set.

Feature sets are kept under `runs/features` in the working directory, beside the runs and not in
one of them, so that another search of the same images finds them: their key names everything that
they depend on.
"""

import hashlib
import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

import orchestrator
from orchestrator.config.specs import TuneSpec
from orchestrator.config.workers import Session
from orchestrator.data.decode.images import DECODER_VERSION
from orchestrator.data.source import IngestedSource
from orchestrator.data.splits import fold_rows
from orchestrator.pipelines.prepare.feature_set import IntArray, is_packed
from orchestrator.pipelines.prepare.features import compute_features, feature_engine
from orchestrator.pipelines.tune.head_training import Fold
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import digest, sha256_file, write_json
from orchestrator.runs.lock import hold
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.wait import Wait

HELD_OUT_FOLDS = 5  # one of so many folds of the training rows is held out of the search
# What features depend on besides their key's other parts.
_SOURCES = (
    "pipelines/prepare/feature_set.py",
    "pipelines/prepare/features.py",
    "model/augment.py",
    "model/backbones.py",
    "model/engine/base.py",
    "model/engine/export.py",
    "model/engine/keras.py",
    "model/engine/openvino.py",
    "model/light.py",
    "model/lite.py",
    "model/resample.py",
    "model/small_networks.py",
    "model/torch_file.py",
)
_PACKAGES = ("keras", "tensorflow", "openvino")


@dataclass(frozen=True)
class Division:
    """Which rows are for what.

    Args:
        folds: what each trial trains on and chooses by.
        held_out: int64, training rows that no trial sees.
        augmented: int64, rows that need all views.
        plain: int64, rows that need the plain view alone.
    """

    folds: tuple[Fold, ...]
    held_out: IntArray
    augmented: IntArray
    plain: IntArray


def divide(rows: pa.Table, names: pa.Array, spec: TuneSpec) -> Division:
    """Holds out a patient-grouped fold of the training rows and divides the rest for the trials.

    Args:
        rows: of the data set, in row order.
        names: split of each row.
        spec: seed and number of folds.

    Returns:
        With one fold, trials choose by the validation rows of the split; with several, training
        and validation rows are divided patient by patient and each trial trains on all but one
        fold in turn.

    Raises:
        DataError: too few patients.
    """
    split = np.array([name or "" for name in names.to_pylist()])
    train, val, test = (np.flatnonzero(split == name) for name in ("train", "val", "test"))
    part = fold_rows(rows, train, HELD_OUT_FOLDS, spec.seed)
    held_out, search = train[part == 0], train[part != 0]

    if spec.folds == 1:
        plain = np.concatenate([val, test])
        return Division((build_fold(rows, search, val),), held_out, augmented=train, plain=plain)
    both = np.sort(np.concatenate([search, val]))
    fold = fold_rows(rows, both, spec.folds, spec.seed)
    folds = tuple(build_fold(rows, both[fold != k], both[fold == k]) for k in range(spec.folds))
    return Division(folds, held_out, augmented=np.concatenate([train, val]), plain=test)


def build_fold(rows: pa.Table, train: IntArray, val: IntArray) -> Fold:
    """Returns a fold with the labels of its rows.

    Args:
        rows: of the data set, in row order.
        train: int64, rows to train on.
        val: int64, rows to choose by.
    """
    labels = rows.column("label")
    train_labels, val_labels = (labels.take(pa.array(part)).to_numpy() for part in (train, val))
    return Fold(train, train_labels, val, val_labels)


def prepare_features(
    spec: TuneSpec,
    dataset: IngestedSource,
    rows: pa.Table,
    division: Division,
    store: Path,
    session: Session,
    reporter: Reporter,
) -> Path:
    """Returns the folder of the packed feature set, computing it unless its key is in the store.

    Raises:
        OrchestratorError: the backbone's weights are not to be had, or a worker failed.
    """
    described = describe_features(spec, rows, division, feature_engine(session))
    folder = store / digest(described)[:16]
    if is_packed(folder):
        reporter.say(f"reusing cached features: {folder}")
        return folder
    splits: list[str | None] = [None] * rows.num_rows
    for part, name in ((division.augmented, "train"), (division.plain, "val")):
        for row in part:
            splits[row] = name
    # Another search of the same images finds it done.
    with hold(folder, Wait(session.max_wait_s, reporter.say)):
        write_json(folder / "features.json", described)
        compute_features(spec, dataset, splits, folder, folder.name, session, reporter)
    size = sum(path.stat().st_size for path in folder.glob("*.npy"))
    reporter.say(f"features kept for other searches ({size / 1e6:,.0f} MB): {folder}")
    return folder


def find_store(run: RunDir) -> Path:
    """Returns the folder of feature sets that a run uses, also when resumed from elsewhere."""
    note = run.feature_store
    if not note.exists():
        write_json(note, {"features": str(Path("runs", "features").absolute())})
    return Path(json.loads(note.read_text(encoding="utf-8"))["features"])


def describe_features(
    spec: TuneSpec, rows: pa.Table, division: Division, engine: str
) -> dict[str, object]:
    """Returns everything that features depend on, JSON-able; its digest is their key."""
    hashes = rows.column("sha256").to_pylist()
    augmented = spec.views > 1
    return {
        "images": {
            name: digest([[int(row), hashes[row]] for row in np.sort(part)])
            for name, part in (("augmented", division.augmented), ("plain", division.plain))
        },
        "image_size": spec.image_size,
        "backbone": _identify(spec.backbone),
        "weights": _identify(spec.weights),
        # A view is a function of the seed; random weights are too.
        "seed": spec.seed if augmented or spec.weights == "none" else None,
        "views": spec.views,
        "augmentation": spec.augmentation if augmented else None,
        "dtype": spec.feature_dtype,
        "engine": engine,
        "decoder": DECODER_VERSION,
        "program": _identify_program(),
    }


def _identify(name: str) -> str:
    """A name, or the digest of the file that it names."""
    return sha256_file(Path(name)) if Path(name).is_file() else name


def _identify_program() -> str:
    package = Path(orchestrator.__file__).parent
    found = hashlib.sha256()
    for source in _SOURCES:
        found.update((package / source).read_bytes())
    return digest([found.hexdigest(), *(importlib.metadata.version(name) for name in _PACKAGES)])
