"""The report of a recalibration: its JSON form, and the page that a person reads.

Neither writes a file. Both go into the bundle too, so they name no file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.evaluation.figures import Interval
from orchestrator.evaluation.metrics import Evaluation
from orchestrator.evaluation.operating_point import Need, OperatingPoint
from orchestrator.evaluation.report.page import list_facts, render
from orchestrator.evaluation.report.review import view_review
from orchestrator.evaluation.wording import (
    INTENDED_USE,
    describe_rule,
    format_figure,
    format_range,
    metric_title,
)

SHOWN = ("accuracy", "precision", "recall", "specificity", "auroc", "f1", "log_loss")
_OF_IMAGES = "labelled images of this site"


def build_recalibration(
    *,
    parent: Mapping[str, Any],
    before: Evaluation,
    after: Evaluation,
    num_folds: int,
    point: OperatingPoint,
    threshold_interval: Interval,
    need: Need | None,
    counts: Mapping[str, Any],
    warnings: Sequence[str],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns report.json of a recalibration.

    Args:
        parent: facts about the bundle: backbone, sha256, threshold, threshold_rule, calibration.
        before: the images at the parent's operating point.
        after: the same, each called by a point that was chosen on other patients.
        num_folds: into which the patients were divided for that.
        point: what the new bundle has, chosen on all images.
        threshold_interval: of its threshold, over patients.
        need: how many images the rule needs, where that can be said.
        counts: images by what became of them, and the labelled ones by class.
        warnings: what else the user is to know, a sentence each.
        run: facts about the run, JSON-able.

    Returns:
        All of these in JSON form, with the names of the metrics to show, and intended_use.
    """
    said = [*warnings, *_too_few(need)]
    return {
        "kind": "recalibrate",
        "parent": dict(parent),
        "counts": dict(counts),
        "num_images": before.num_images,
        "num_patients": before.num_patients,
        "threshold": point.threshold.value,
        "threshold_rule": point.threshold.rule,
        "threshold_interval": threshold_interval.as_dict(),
        "calibration": asdict(point.calibration),
        "before": before.as_dict(),
        "after": after.as_dict(),
        "num_folds": num_folds,
        "need": None if need is None else asdict(need) | {"enough": need.enough},
        "shown": list(SHOWN),
        "warnings": said,
        "run": dict(run),
        "intended_use": INTENDED_USE,
    }


def render_recalibration_html(report: Mapping[str, Any]) -> str:
    """Returns report.html of a recalibration: one page without scripts or outside files.

    Args:
        report: from `build_recalibration`.

    Returns:
        HTML, all text escaped.
    """
    parent, run = report["parent"], report["run"]
    return render(
        "recalibration.html.j2",
        report=report,
        subtitle=" · ".join(
            str(part)
            for part in (run.get("run_id"), run.get("started_at"), f"model {parent['backbone']}")
            if part
        ),
        rows=[
            {
                "title": metric_title(name),
                "cells": [
                    {
                        "value": of["metrics"][name]["value"],
                        "range": format_range(of["metrics"][name]),
                    }
                    for of in (report["before"], report["after"])
                ],
            }
            for name in report["shown"]
        ],
        range=format_range(report["threshold_interval"]),
        need_line=_need_line(report["need"]),
        review=view_review(report["review"]) if "review" in report else None,
        parent_facts=list_facts(
            {
                "bundle": parent["sha256"],
                "threshold": parent["threshold"],
                "threshold chosen by": describe_rule(
                    parent["threshold_rule"],
                    _OF_IMAGES if parent["recalibrated"] else "validation images",
                ),
                "calibration": parent["calibration"],
            }
        ),
        facts_now=list_facts(
            {
                "threshold": report["threshold"],
                "threshold chosen by": describe_rule(report["threshold_rule"], _OF_IMAGES),
                "calibration": report["calibration"],
                "images": report["counts"],
                "run": run,
            }
        ),
    )


def _too_few(need: Need | None) -> list[str]:
    """The warning that a rule's floor cannot be relied on, where that is so."""
    if need is None or need.enough:
        return []
    wanted = (
        "no number of images is enough for it: choose a floor below 1"
        if need.needed is None
        else f"it needs {need.of_class} images of {need.needed:,} patients, and there are "
        f"{need.found:,}: label more"
    )
    return [f"on other patients the floor of {need.floor:g} may not be met: {wanted}"]


def _need_line(need: Mapping[str, Any] | None) -> str:
    """How many images the rule needs, and by what reckoning."""
    if need is None:
        return (
            "This rule promises no sensitivity or specificity, so no number of images can be "
            "said to be enough; the interval of the threshold shows how firm it is."
        )
    name, floor = need["of_class"], format_figure(need["floor"])
    found = f"There are {need['found']:,} here."
    if need["needed"] is None:
        return f"No number of {name} images can hold a floor of {floor}. {found}"
    return (
        f"A floor of {floor} needs {name} images of {need['needed']:,} different patients: the "
        f"smallest n with {need['floor']:g}ⁿ ≤ 0.05. With fewer, not even the lowest of their "
        f"probabilities would keep the floor on other patients with 95% confidence (Wilks, 1941). "
        f"{found}"
    )
