"""The model card for programs: `card.json` of a bundle, in Hugging Face's fields of model cards.

What these have no field for is under `orchestrator`. There is no `license` and there are no
`datasets`: the first is unknown, and the images have no name there.

Reference:
    https://github.com/huggingface/hub-docs/blob/main/modelcard.md (the fields)
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.evaluation.metrics import LEVEL
from orchestrator.evaluation.wording import METRIC_TITLES, describe_rule
from orchestrator.model.reproduce import reproduce

if TYPE_CHECKING:
    from orchestrator.model.bundle import BundleInfo

_TASK = {"type": "image-classification", "name": "Image Classification"}
# Names of metrics there, where they differ from ours.
_NAMES = {
    "sensitivity": "recall",
    "ppv": "precision",
    "auroc": "roc_auc",
    "auprc": "average_precision",
    "brier": "brier_score",
}


def render_card_data(info: "BundleInfo", scope: Mapping[str, Any] | None = None) -> str:
    """Returns the content of `card.json`.

    Args:
        info: the bundle's metadata; `files` is not used.
        scope: content of its `scope.json`, where it has one.

    Returns:
        JSON that ends in a newline. A metric that is undefined is left out: there a value is
        required.
    """
    tags = ["chest-x-ray", "radiology", "medical-imaging", "pneumonia", "openvino", info.backbone]
    measured = {
        name for split in info.metrics.values() for name in split.metrics if name in METRIC_TITLES
    }
    card = {
        "library_name": "keras",
        "pipeline_tag": _TASK["type"],
        "tags": tags,
        "metrics": [_NAMES.get(name, name) for name in METRIC_TITLES if name in measured],
        "model-index": [
            {
                "name": f"{info.backbone}-{info.data.fingerprint[:12]}",
                "results": [_result(info, split) for split in info.metrics],
            }
        ],
        "orchestrator": _own(info, scope or {}),
    }
    return json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _result(info: "BundleInfo", split: str) -> dict[str, Any]:
    """The figures of one split."""
    measured = info.metrics[split]
    images = info.data.fingerprint
    if info.recalibration is not None:
        images = info.recalibration.fingerprint
    return {
        "task": _TASK,
        "dataset": {
            "type": "imagefolder",
            "name": f"{split} images of the data set {images[:12]}",
            "split": split,
            "revision": images,
            "args": {
                "num_images": measured.num_images,
                "num_patients": measured.num_patients,
            },
        },
        "metrics": [
            {
                "type": _NAMES.get(name, name),
                "name": title,
                "value": figure.value,
                "args": {"level": LEVEL, "low": figure.low, "high": figure.high}
                | ({"note": figure.note} if figure.note else {}),
            }
            for name, title in METRIC_TITLES.items()
            if (figure := measured.metrics.get(name)) is not None and figure.value is not None
        ],
    }


def _own(info: "BundleInfo", scope: Mapping[str, Any]) -> dict[str, Any]:
    """What the fields above have no room for."""
    kept = {"data", "evidence", "review", "parent", "recalibration", "ancestors", "versions"}
    kept |= {"class_names", "size_px", "weights", "num_parameters", "num_trainable", "created"}
    kept |= {"calibration", "training", "seed", "orchestrator_version", "test_time_views"}
    images = "validation images" if info.recalibration is None else "labelled images of one site"
    return {
        "intended_use": info.intended_use,
        "threshold": {
            "value": info.threshold.value,
            "rule": info.threshold.rule,
            "description": describe_rule(info.threshold.rule, images),
        },
        "scope": {name: scope[name] for name in ("words", "ages", "aspects") if name in scope},
        "reproduce": reproduce(info),
        **info.model_dump(mode="json", include=kept, exclude={"review": {"curve"}}),
    }
