"""What a training measures for its report and its bundle besides the metrics of its splits."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from orchestrator.data.labelled_rows import LabelledRows
from orchestrator.data.shifts import SHIFTS
from orchestrator.evaluation.figures import Calibration
from orchestrator.evaluation.groups import DIMENSIONS
from orchestrator.evaluation.metrics import evaluate
from orchestrator.evaluation.subgroups import TESTED, measure_subgroups
from orchestrator.model.evidence import TrainingEvidence
from orchestrator.pipelines.train.task import ReleaseTask

_MOST_SHIFTED = 200  # images; each is computed nine times more
_FOLDERS = ("root", "site_folder")  # dimensions whose groups bear names of folders


def measure_groups(
    task: ReleaseTask,
    parts: Mapping[str, LabelledRows],
    probabilities: Mapping[str, Any],
    threshold: float,
) -> dict[str, Any]:
    """Returns what a training report says of the groups of the images that it is judged on.

    Args:
        task: the run.
        parts: `val`, and `test` where there is one -> its rows.
        probabilities: by the same names float32 [n], calibrated.
        threshold: the operating point.

    Returns:
        judged_on (`validation` or `test`) and subgroups, as `measure_subgroups` gives them.
    """
    split = "test" if "test" in probabilities else "val"
    part = parts[split]
    return {
        "judged_on": "validation" if split == "val" else split,
        "subgroups": measure_subgroups(
            part.labels,
            probabilities[split],
            threshold,
            part.patients,
            task.groups.get(split, ()),
            task.training.spec.seed,
        ),
    }


def count_shifted(part: LabelledRows) -> int:
    """Returns how many shifted copies `measure_shifts` looks at.

    Args:
        part: the images.
    """
    return min(len(part), _MOST_SHIFTED) * len(SHIFTS)


def measure_shifts(
    part: LabelledRows,
    logits: Any,
    shifted_logits: Callable[[LabelledRows], Any] | None,
    calibration: Calibration,
    threshold: float,
    seed: int,
) -> dict[str, Any]:
    """Returns the figures of shifted copies of some images.

    Args:
        part: the images, of which at most 200 are taken by chance.
        logits: of the images as they are, float32 [n].
        shifted_logits: gives those of each of the shifted copies, as `Trained` has it.
        calibration: from logit to probability.
        threshold: the operating point.
        seed: of the choice, and of the intervals.

    Returns:
        num_images, and metrics: by shift (`none` first) and metric an `Interval`; empty where the
        training saw no images.
    """
    if shifted_logits is None:
        return {"num_images": 0, "metrics": {}}
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(part))[:_MOST_SHIFTED])
    some = LabelledRows(part.rows[chosen], part.labels[chosen], part.patients[chosen])
    metrics = {}
    for name, of in zip(("none", *SHIFTS), (logits[chosen], *shifted_logits(some)), strict=True):
        found = evaluate(some.labels, calibration.apply(of), threshold, some.patients, seed=seed)
        metrics[name] = {metric: found.metrics[metric].as_dict() for metric in TESTED}
    return {"num_images": len(some), "metrics": metrics}


def hide_folders(subgroups: Mapping[str, Any]) -> dict[str, Any]:
    """Returns subgroups with numbers in place of names of folders, which may name patients."""
    numbers: dict[tuple[str, str], str] = {}
    dimensions = []
    for dimension in subgroups["dimensions"]:
        groups = dimension["groups"]
        if dimension["name"] in _FOLDERS:
            title = DIMENSIONS[dimension["name"]].lower()
            for number, group in enumerate(groups, 1):
                numbers[dimension["name"], group["name"]] = f"{title} {number}"
            groups = [
                group | {"name": numbers[dimension["name"], group["name"]]} for group in groups
            ]
        dimensions.append(dimension | {"groups": groups})
    worst = subgroups["worst"]
    if worst is not None:
        hidden = numbers.get((worst["dimension"], worst["group"]), worst["group"])
        worst = worst | {"group": hidden}
    return {**subgroups, "dimensions": dimensions, "worst": worst}


def gather_evidence(task: ReleaseTask, report: Mapping[str, Any]) -> TrainingEvidence:
    """Returns what the bundle keeps of it, without any name of a file or folder.

    Args:
        task: the run.
        report: of the training, with `measure_groups` and `shifts`.
    """
    named = ("examples", "listing")
    return TrainingEvidence(
        layout=task.layout,
        audit={key: value for key, value in report["audit"].items() if key not in named},
        judged_on=report["judged_on"],
        subgroups=hide_folders(report["subgroups"]),
        num_shifted=report["shifts"]["num_images"],
        shifts=report["shifts"]["metrics"],
    )
