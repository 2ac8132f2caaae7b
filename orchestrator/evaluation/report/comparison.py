"""The comparison of several backbones: its JSON form, and the page that a person reads.

The table has the columns of the paper's Table IV, with intervals, and the paper's own figures
beside those of this run.

Over 300 lines: the figures and their page belong together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from orchestrator.data.labelled_rows import LabelledRows
from orchestrator.data.schema import CLASS_NAMES
from orchestrator.errors import DataError
from orchestrator.evaluation.paired import below_best, paired_difference
from orchestrator.evaluation.report import overlays
from orchestrator.evaluation.report.page import list_facts, render
from orchestrator.evaluation.wording import (
    INTENDED_USE,
    NO_FIGURE,
    claim_reach,
    describe_rule,
    excludes_zero,
    format_difference,
    format_difference_range,
    format_figure,
    format_range,
    metric_title,
    seeds_note,
)

# Column of the paper's Table IV -> metric.
COLUMNS = {
    "accuracy": "Accuracy",
    "precision": "Precision (PPV)",
    "recall": "Recall (sensitivity)",
    "auroc": "AUC (AUROC)",
    "f1": "F1",
}
LOSS_TITLES = {"focal": "focal loss", "bce": "binary cross-entropy"}
_ENSEMBLE_NOTES = {
    "mean": (
        "The ensemble takes the mean of the models' calibrated probabilities, with a threshold "
        "chosen as theirs are.",
    ),
    "vote": (
        f"The ensemble calls {CLASS_NAMES[1]} where half of the models or more do; its AUC is that "
        "of the share of their votes.",
    ),
}
WORTH = ("auroc", "auprc", "accuracy", "recall", "specificity", "f1", "brier")

_PAPER_COLUMNS = (*COLUMNS, "validation_accuracy")
# Table IV on the official test folder of 624 images, and the accuracies on validation.
PAPER: dict[str, dict[str, float]] = {
    name: dict(zip(_PAPER_COLUMNS, figures, strict=True))
    for name, figures in {
        "VGG19": (0.814, 0.793, 0.951, 0.910, 0.865, 0.9204),
        "ResNet50": (0.785, 0.751, 0.982, 0.921, 0.851, 0.9501),
        "DenseNet121": (0.809, 0.833, 0.869, 0.879, 0.851, 0.8658),
        "EfficientNetB5": (0.899, 0.896, 0.949, 0.957, 0.900, 0.9414),
    }.items()
}


@dataclass(frozen=True)
class Contender:
    """One trained model of a comparison.

    Attributes:
        backbone: canonical name.
        loss: "focal" or "bce".
        report: its training report, as `build_training_report` gives it.
        rows: those of "validation", and of "test" where there is one.
        probabilities: float [N] of each, calibrated, in the order of the rows.
        cost: JSON-able: features_s, images_per_s, training_s; None where not known.
        repeats: the same recipe trained with other seeds on the same split.
        members: backbones of an ensemble; empty for a single model.
    """

    backbone: str
    loss: str
    report: Mapping[str, Any]
    rows: Mapping[str, LabelledRows]
    probabilities: Mapping[str, npt.NDArray[Any]]
    cost: Mapping[str, Any]
    repeats: tuple["Contender", ...] = ()
    members: tuple[str, ...] = ()

    @property
    def trainings(self) -> tuple["Contender", ...]:
        """The model itself and its repeats."""
        return (self, *self.repeats)

    @property
    def thresholds(self) -> list[float]:
        """That of each training."""
        return [training.report["threshold"] for training in self.trainings]

    @property
    def title(self) -> str:
        """Backbone and loss in words."""
        return f"{self.backbone}, {LOSS_TITLES[self.loss]}"


def build_comparison(
    contenders: Sequence[Contender], *, recipe: Mapping[str, Any], run: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Returns report.json of a comparison.

    Models are judged on the test images where there are any, on the validation images otherwise.

    Args:
        contenders: trained on the same split; each loss of a backbone is one. Figures are those of
            the contender itself, differences count its repeats.
        recipe: the resolved spec, JSON-able.
        run: facts about the run, JSON-able.
        seed: of the differences' resamples.

    Returns:
        `judged_on`, `rows` (one a model), `against_best` (mean AUROC over the seeds minus that of
        the best backbone of the same loss), `focal_minus_bce`, the paper's figures, and the
        arguments.

    Raises:
        DataError: the models were not measured on the same images.
    """
    check_same_images(contenders)
    judged_on = "test" if contenders[0].report.get("test") else "validation"
    return {
        "kind": "compare",
        "judged_on": judged_on,
        "splits": contenders[0].report["splits"],
        "num_images": contenders[0].report[judged_on]["num_images"],
        "num_patients": contenders[0].report[judged_on]["num_patients"],
        "interval": contenders[0].report[judged_on]["interval"],
        "rows": [_row(contender, judged_on) for contender in contenders],
        "against_best": _against_best(contenders, judged_on, seed),
        "focal_minus_bce": _focal_minus_bce(contenders, judged_on, seed),
        "paper": PAPER,
        "notes": [*_ENSEMBLE_NOTES.get(recipe.get("ensemble", "none"), ()), *paper_notes()],
        "recipe": dict(recipe),
        "run": dict(run),
        "intended_use": INTENDED_USE,
    }


def check_same_images(contenders: Sequence[Contender]) -> None:
    """Raises DataError unless all models were measured on the same images of every split."""
    first = contenders[0]
    for contender in (training for model in contenders for training in model.trainings):
        for split, part in first.rows.items():
            if not np.array_equal(contender.rows[split].rows, part.rows):
                raise DataError(
                    f"{contender.title} was measured on other {split} images than {first.title}; "
                    "remove the comparison's folder and run it again"
                )


def _row(contender: Contender, judged_on: str) -> dict[str, Any]:
    report = contender.report
    return {
        "backbone": contender.backbone,
        "loss": contender.loss,
        "members": list(contender.members),
        "weights": report["model"]["weights"],
        "metrics": report[judged_on]["metrics"],
        "validation_accuracy": report["validation"]["metrics"]["accuracy"],
        "threshold": report["threshold"],
        "best_epoch": report["best_epoch"],
        "num_epochs": len(report["history"]),
        "lr": report["recipe"]["lr"],
        "num_parameters": report["model"]["num_parameters"],
        "num_trainable": report["model"]["num_trainable"],
        "auroc_by_seed": [
            training.report[judged_on]["metrics"]["auroc"]["value"]
            for training in contender.trainings
        ],
        "cost": dict(contender.cost),
    }


def _difference(
    first: Contender, second: Contender, judged_on: str, metric: str, seed: int
) -> dict[str, Any]:
    """A metric of the first minus that of the second on the same images, with its interval."""
    rows = first.rows[judged_on]
    return paired_difference(
        rows.labels,
        _by_seed(first, judged_on),
        _by_seed(second, judged_on),
        (first.thresholds, second.thresholds),
        rows.patients,
        metric,
        seed=seed,
    ).as_dict()


def _by_seed(model: Contender, judged_on: str) -> npt.NDArray[Any]:
    """Probabilities of all trainings, [seeds, N]."""
    return np.stack([training.probabilities[judged_on] for training in model.trainings])


def _against_best(
    contenders: Sequence[Contender], judged_on: str, seed: int
) -> list[dict[str, Any]]:
    rows = contenders[0].rows[judged_on]
    entries = []
    for loss in LOSS_TITLES:
        group = [contender for contender in contenders if contender.loss == loss]
        if len(group) > 1:
            models = [_by_seed(model, judged_on) for model in group]
            best, found = below_best(rows.labels, models, rows.patients, seed=seed)
            entries += [
                {
                    "backbone": group[place].backbone,
                    "best": group[best].backbone,
                    "loss": loss,
                    "auroc": difference.as_dict(),
                }
                for place, difference in found.items()
            ]
    return entries


def _focal_minus_bce(
    contenders: Sequence[Contender], judged_on: str, seed: int
) -> list[dict[str, Any]]:
    by_name = {(contender.backbone, contender.loss): contender for contender in contenders}
    return [
        {
            "backbone": backbone,
            "metrics": {
                metric: _difference(focal, by_name[backbone, "bce"], judged_on, metric, seed)
                for metric in WORTH
            },
        }
        for (backbone, loss), focal in by_name.items()
        if loss == "focal" and (backbone, "bce") in by_name
    ]


def paper_notes() -> list[str]:
    """Returns a sentence for each figure of the paper that does not follow from its others."""
    notes = []
    for name, figures in PAPER.items():
        precision, recall = figures["precision"], figures["recall"]
        f1 = 2 * precision * recall / (precision + recall)
        if abs(f1 - figures["f1"]) > 0.002:
            notes.append(
                f"The paper's F1 of {figures['f1']:.3f} for {name} does not follow from its "
                f"precision and recall, which give {f1:.3f}."
            )
    return notes


def render_comparison_html(report: Mapping[str, Any], contenders: Sequence[Contender]) -> str:
    """Returns report.html of a comparison: one page without scripts or outside files.

    Args:
        report: from `build_comparison`.
        contenders: the same.

    Returns:
        HTML, all text escaped.
    """
    judged_on = report["judged_on"]
    groups = []
    for loss, title in LOSS_TITLES.items():
        group = [contender for contender in contenders if contender.loss == loss]
        if group:
            curves = [
                (c.backbone, c.rows[judged_on].labels, c.probabilities[judged_on]) for c in group
            ]
            rows = [row for row in report["rows"] if row["loss"] == loss]
            groups.append(
                {
                    "loss": loss,
                    "title": title,
                    "rows": [_view(row) for row in rows],
                    "differences": [
                        {**entry, "shown": _shown(entry["auroc"])}
                        for entry in report["against_best"]
                        if entry["loss"] == loss
                    ],
                    "picture": Markup(overlays.compare_models(curves, f"curves-{loss}")),
                }
            )
    return render(
        "comparison.html.j2",
        report=report,
        groups=groups,
        columns=COLUMNS,
        worth=[
            {
                "backbone": entry["backbone"],
                "cells": [_shown(entry["metrics"][metric]) for metric in WORTH],
            }
            for entry in report["focal_minus_bce"]
        ],
        seeds_note=seeds_note(max(len(contender.trainings) for contender in contenders)),
        worth_titles=[metric_title(name) for name in WORTH],
        training_images=sum(
            number for name, number in report["splits"]["train"].items() if name != "patients"
        ),
        other_data=_other_data(report),
        subtitle=" · ".join(
            str(part) for part in (report["run"].get("run_id"), report["run"].get("started_at"))
        ),
        recipe_facts=list_facts(report["recipe"]),
        run_facts=list_facts(report["run"]),
    )


def _view(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of one model: a cell of three lines for each column."""
    paper = PAPER.get(row["backbone"], {})
    cells = [
        {
            "value": row["metrics"][metric]["value"],
            "range": format_range(row["metrics"][metric]),
            "paper": paper.get(metric),
        }
        for metric in COLUMNS
    ]
    cells.append(
        {
            "value": row["validation_accuracy"]["value"],
            "range": format_range(row["validation_accuracy"]),
            "paper": paper.get("validation_accuracy"),
        }
    )
    cost, areas = row["cost"], row["auroc_by_seed"]
    return {
        **row,
        "cells": cells,
        "areas": ", ".join(map(format_figure, areas)) if len(areas) > 1 else "",
        "parameters": f"{row['num_parameters'] / 1e6:.1f} M",
        "trained": f"{row['num_trainable'] / 1e6:.2f} M",
        "speed": NO_FIGURE if cost["images_per_s"] is None else f"{cost['images_per_s']:.1f}",
        "features": NO_FIGURE if cost["features_s"] is None else f"{cost['features_s']:.0f}",
        "training": NO_FIGURE if cost["training_s"] is None else f"{cost['training_s']:.0f}",
        "epochs": NO_FIGURE if row["members"] else f"{row['num_epochs']} ({row['best_epoch']})",
        "rate": NO_FIGURE if row["members"] else f"{row['lr']:.2g}",
    }


def _other_data(report: Mapping[str, Any]) -> str:
    """Why the paper's figures are not those of the same experiment."""
    kinds = sorted({row["weights"] for row in report["rows"] if not row["members"]})
    weights = " and ".join("no weights (random)" if kind == "none" else kind for kind in kinds)
    return (
        f"The paper's figures are of ImageNet weights, its own training of 5,216 images and the "
        f"official test folder of 624; this run starts from {weights} and its "
        f"figures are of {report['num_images']:,} {report['judged_on']} images. The paper calls "
        f"{CLASS_NAMES[1]} from a probability of 0.5; this run's thresholds: "
        f"{describe_rule(report['recipe']['threshold'])}."
    )


def _shown(interval: Mapping[str, Any]) -> dict[str, Any]:
    """A difference as text, whether its interval leaves out zero, and what that is worth."""
    return {
        "value": format_difference(interval["value"]),
        "range": format_difference_range(interval) or interval.get("note", ""),
        "apart": excludes_zero(interval),
        "reach": claim_reach(interval),
    }
