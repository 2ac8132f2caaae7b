"""The report of a training run: its JSON form, and the page that a person reads.

Neither writes a file. The report of a scoring run is in `report.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
from markupsafe import Markup

from orchestrator.data.schema import CLASS_NAMES, SPLITS
from orchestrator.evaluation.figures import Calibration, Threshold
from orchestrator.evaluation.metrics import Evaluation
from orchestrator.evaluation.report import plots
from orchestrator.evaluation.report.page import (
    build_view,
    list_facts,
    render,
)
from orchestrator.evaluation.report.review import view_review
from orchestrator.evaluation.report.subgroups import view_subgroups
from orchestrator.evaluation.subgroups import TESTED
from orchestrator.evaluation.wording import (
    INTENDED_USE,
    describe_rule,
    format_range,
    metric_title,
)

_SPLIT_TITLES = {"train": "Training", "val": "Validation", "test": "Test"}
_FINDINGS = {
    "same_patient": "Patients (known from a column or DICOM) in more than one split",
    "same_bytes": "Identical files in more than one split",
    "near_duplicate": "Pairs of look-alike images in different splits",
    "possible": "Equal patient numbers in file names of different splits; numbering may restart "
    "from folder to folder, so this alone proves nothing",
}
_PROOFS = ("same_patient", "same_bytes")


def build_training_report(
    *,
    history: Sequence[Mapping[str, float]],
    best_epoch: int,
    splits: Mapping[str, Mapping[str, int]],
    audit: Mapping[str, Any],
    validation: Evaluation,
    test: Evaluation | None,
    threshold: Threshold,
    calibration: Calibration,
    model: Mapping[str, Any],
    recipe: Mapping[str, Any],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns report.json of a training run.

    Args:
        history: one row an epoch: epoch, loss, accuracy, val_loss, val_accuracy, lr and more.
        best_epoch: the epoch whose weights were kept, numbered as in `history`.
        splits: images by split and class name, the paper's Table I, as `class_by_split` gives it.
        audit: the leakage audit, as `Audit.as_dict` gives it: `blocking`, a number for each of
            same_patient, same_bytes, near_duplicate and possible, and `examples` of each; under
            `files` how many were found and how many could not be used, by reason.
        validation: metrics on the validation rows, at the threshold.
        test: metrics on the test rows; None where there are none.
        threshold: the operating point and its rule.
        calibration: slope and intercept.
        model: facts about the bundle, JSON-able, among them `backbone`.
        recipe: the resolved spec, JSON-able.
        run: facts about the run, JSON-able, such as run_id and versions.

    Returns:
        All of these in JSON form, with intended_use.
    """
    return {
        "kind": "train",
        "best_epoch": best_epoch,
        "history": [dict(row) for row in history],
        "splits": {split: dict(counts) for split, counts in splits.items()},
        "audit": dict(audit),
        "validation": validation.as_dict(),
        "test": test.as_dict() if test else None,
        "threshold": threshold.value,
        "threshold_rule": threshold.rule,
        "calibration": {"slope": calibration.slope, "intercept": calibration.intercept},
        "model": dict(model),
        "recipe": dict(recipe),
        "run": dict(run),
        "intended_use": INTENDED_USE,
    }


def render_training_html(
    report: Mapping[str, Any],
    validation: tuple[npt.ArrayLike, npt.ArrayLike],
    test: tuple[npt.ArrayLike, npt.ArrayLike] | None,
    strip: str | None = None,
) -> str:
    """Returns report.html of a training run: one page without scripts or outside files.

    Args:
        report: from `build_training_report`.
        validation: labels int [N] and calibrated probabilities float [N] of the validation rows.
        test: those of the test rows; None where there are none.
        strip: data URI of training images beside their augmented views. They are patients'
            images: leave it out of a page that goes where the images do not.

    Returns:
        HTML, all text escaped.
    """
    rows = {"validation": validation, "test": test}
    sections = [
        _section(name, report, *columns) for name, columns in rows.items() if columns is not None
    ]
    curves = [
        Markup(plots.learning_curve(report["history"], quantity, report["best_epoch"], quantity))
        for quantity in ("loss", "accuracy")
    ]
    calibration = report["calibration"]
    model = {
        **report["model"],
        "threshold": report["threshold"],
        "threshold chosen by": describe_rule(report["threshold_rule"]),
        "calibration": f"sigmoid({calibration['slope']:.4g} × logit + "
        f"{calibration['intercept']:.4g}), {_describe_calibration(report['recipe'])}",
    }
    return render(
        "training.html.j2",
        report=report,
        sections=sections,
        curves=curves,
        strip=strip,
        subtitle=_subtitle(report),
        split_rows=_split_rows(report["splits"]),
        unused=_unused(report["splits"]),
        class_names=CLASS_NAMES,
        findings=_findings(report["audit"]),
        unusable=_unusable(report["audit"]),
        model_facts=list_facts(model),
        recipe_facts=list_facts(report["recipe"]),
        run_facts=list_facts(report["run"]),
        review=view_review(report["review"]) if "review" in report else None,
        subgroups=view_subgroups(report.get("subgroups")),
        shifts=_shifts(report.get("shifts")),
    )


def _section(
    name: str, report: Mapping[str, Any], labels: npt.ArrayLike, probabilities: npt.ArrayLike
) -> dict[str, Any]:
    """The view of one evaluation with its histogram."""
    view = build_view(report[name], labels, probabilities, name)
    svg = plots.histogram(probabilities, labels, report["threshold"], f"{name}-histogram")
    return {
        "name": name,
        "title": name.capitalize(),
        "view": view,
        "histogram": Markup(svg),
        "num_images": report[name]["num_images"],
    }


def _shifts(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The table of shifted copies; None where none were measured."""
    if not found or not found["metrics"]:
        return None
    return {
        "num_images": found["num_images"],
        "titles": [metric_title(metric) for metric in TESTED],
        "rows": [
            {
                "name": name,
                "figures": [
                    {"value": figures[metric]["value"], "range": format_range(figures[metric])}
                    for metric in TESTED
                ],
            }
            for name, figures in found["metrics"].items()
        ],
    }


def _describe_calibration(recipe: Mapping[str, Any]) -> str:
    if recipe.get("calibration") == "none":
        return "the network's own probabilities"
    return "Platt scaling on validation images"


def _subtitle(report: Mapping[str, Any]) -> str:
    parts = [report["run"].get("run_id"), report["run"].get("started_at")]
    parts.append(report["model"]["backbone"])
    return " · ".join(str(part) for part in parts if part)


def _split_rows(splits: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """Rows of the class-by-split table: each split with its counts by class, then their sum."""
    rows: list[dict[str, Any]] = []
    for split in [split for split in SPLITS if split in splits]:
        counts = [splits[split].get(name, 0) for name in CLASS_NAMES]
        rows.append({"title": _SPLIT_TITLES[split], "counts": counts})
    sums = [sum(row["counts"][label] for row in rows) for label in range(len(CLASS_NAMES))]
    rows.append({"title": "Total", "counts": sums})
    for row in rows:
        row["total"] = sum(row["counts"])
    return rows


def _unused(splits: Mapping[str, Mapping[str, int]]) -> int:
    """Images found that no split uses."""
    counts = splits.get("unused", {})
    return sum(number for name, number in counts.items() if name != "patients")


def _unusable(audit: Mapping[str, Any]) -> str | None:
    """Returns how many of the files found could not be used, and why, or None."""
    files = audit.get("files", {})
    if not files.get("rejected"):
        return None
    reasons = ", ".join(f"{code} {number:,}" for code, number in files["rejected_by_code"].items())
    return f"{files['rejected']:,} of {files['found']:,} files found cannot be used: {reasons}."


def _findings(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the audit: title, number of cases, how grave, and the images of the first case."""
    rows = []
    for kind, title in _FINDINGS.items():
        examples = audit.get("examples", {}).get(kind, [])
        grave = "bad" if audit[kind] else "ok"
        unknown = audit.get("images_without_patient", 0) if kind == "same_patient" else 0
        rows.append(
            {
                "title": title + (f"; unknown for {unknown:,} images" if unknown else ""),
                "count": audit[kind],
                "class": grave if kind in _PROOFS else "",
                "images": list(zip(examples[0]["splits"], examples[0]["paths"], strict=True))
                if examples
                else [],
            }
        )
    return rows
