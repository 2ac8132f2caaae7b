"""What a training leaves in its bundle of the images it was made of, to know other images by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator.data.source import IngestedSource
from orchestrator.data.store import ImageStore, Rows
from orchestrator.evaluation.scope import KNOWN_FACTS, fit_scope
from orchestrator.evaluation.scope_images import ScopeImages, make_thumbnails

_MOST = {"train": 2000, "val": 2000}  # images; more change no limit by much
_AT_A_TIME = 256


@dataclass(frozen=True)
class ScopeSample:
    """Some images of each split; pickled to the worker that releases.

    Attributes:
        rows: of `train` and `val`, manifest rows.
        images: what is looked at of them.
        facts: what the headers of all training images say, by name, None where nothing.
    """

    rows: dict[str, Rows]
    images: dict[str, ScopeImages]
    facts: dict[str, list[Any]] = field(default_factory=dict)


def sample_scope(
    dataset: IngestedSource, rows: pa.Table, splits: pa.Array, seed: int
) -> ScopeSample:
    """Returns a random sample of the training and of the validation images.

    Args:
        dataset: where the images are.
        rows: its rows, with columns width_px and height_px, and what is known of DICOM headers.
        splits: the split of each row.
        seed: of the choice.
    """
    store, rng = ImageStore(dataset), np.random.default_rng(seed)
    split = np.array(splits.to_pylist(), object)
    chosen = {
        name: np.sort(rng.permutation(np.flatnonzero(split == name))[:most])
        for name, most in _MOST.items()
    }
    sizes = [rows.column(name).to_numpy() for name in ("width_px", "height_px")]
    images = {
        name: ScopeImages(_thumbnails(store, of), *(size[of].astype(np.int64) for size in sizes))
        for name, of in chosen.items()
    }
    train = pa.array(split == "train")
    facts = {
        name: rows.column(name).filter(train).to_pylist()
        for name in KNOWN_FACTS
        if name in rows.column_names
    }
    return ScopeSample(chosen, images, facts)


def describe_scope(
    sample: ScopeSample,
    features: Callable[[Rows], Any],
    logits: npt.NDArray[np.float32],
    audit: Mapping[str, Any],
) -> str:
    """Returns the content of the bundle's `scope.json`.

    Args:
        sample: the images.
        features: gives the pooled features, float32 [n, D], of manifest rows.
        logits: of the validation images, float32 [N].
        audit: of the training; counts the files found and rejected.
    """
    of_train, of_val = (features(sample.rows[name]) for name in ("train", "val"))
    images = sample.images
    counts = audit.get("files", {})
    files = {"found": counts["found"], **counts["rejected_by_code"]} if counts else {}
    reference = fit_scope(
        images["train"], of_train, images["val"], of_val, logits, files, sample.facts
    )
    return reference.model_dump_json() + "\n"


def _thumbnails(store: ImageStore, rows: Rows) -> npt.NDArray[np.uint8]:
    starts = range(0, len(rows), _AT_A_TIME)
    return np.concatenate(
        [make_thumbnails(store.take(rows[start : start + _AT_A_TIME])) for start in starts]
    )
