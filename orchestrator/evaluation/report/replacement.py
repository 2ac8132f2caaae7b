"""The report of a live model and a candidate: its JSON form, and the page that a person reads.

Neither writes a file. A promotion reads the JSON form: `PROOF_KIND`, `schema_version`, the bundles'
hashes, the grounds and the verdict are what it is held to.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from orchestrator.evaluation.metrics import LEVEL
from orchestrator.evaluation.model_pair import BALANCED, MIN_PATIENTS, ModelPair
from orchestrator.evaluation.report import overlays, plots
from orchestrator.evaluation.report.page import list_facts, render
from orchestrator.evaluation.subgroups import TESTED
from orchestrator.evaluation.verdict import (
    DECIDING,
    GUARDED,
    PROOF_KIND,
    PROOF_SCHEMA_VERSION,
    Grounds,
    decide,
)
from orchestrator.evaluation.wording import (
    BALANCED_TITLE,
    INTENDED_USE,
    METRIC_TITLES,
    NO_FIGURE,
    describe_rule,
    excludes_zero,
    format_difference,
    format_difference_range,
    format_figure,
    format_range,
    metric_title,
)

_TITLES = METRIC_TITLES | {BALANCED: BALANCED_TITLE}
_LOWER_IS_BETTER = ("log_loss", "brier")
_OF_CALLS = {
    "all": "All images (accuracy)",
    "sensitivity": "Labelled PNEUMONIA (sensitivity)",
    "specificity": "Labelled NORMAL (specificity)",
}


def build_replacement(
    *,
    models: Sequence[Mapping[str, Any]],
    files: Mapping[str, int],
    measured: Mapping[str, Any],
    groups: Mapping[str, Any],
    grounds: Grounds,
    speed: Mapping[str, Any],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns report.json of a comparison of two models.

    Args:
        models: facts about the live model and the candidate: name, sha256, backbone, image_size,
            threshold, threshold_rule, calibration, recalibrated.
        files: files found, by what became of them.
        measured: from `measure_pair`.
        groups: from `measure_groups`.
        grounds: of the verdict.
        speed: by role `images_per_s` (None where there was one shard), `num_images` and `seconds`;
            a run that was taken up again has none.
        run: facts about the run, JSON-able.

    Returns:
        All of these in JSON form, with the verdict.
    """
    return {
        "kind": PROOF_KIND,
        "schema_version": PROOF_SCHEMA_VERSION,
        "verdict": decide(grounds).model_dump(),
        "grounds": grounds.model_dump(),
        "live": dict(models[0]),
        "candidate": dict(models[1]),
        "files": dict(files),
        **{name: value for name, value in measured.items() if name != "endpoints"},
        "groups": dict(groups),
        "speed": dict(speed),
        "run": dict(run),
        "intended_use": INTENDED_USE,
    }


def render_replacement_html(report: Mapping[str, Any], pair: ModelPair) -> str:
    """Returns report.html of a comparison: one page without scripts or outside files.

    Args:
        report: from `build_replacement`.
        pair: the models' outputs.

    Returns:
        HTML, all text escaped.
    """
    grounds, metrics = report["grounds"], report["metrics"]
    models = [report["live"], report["candidate"]]
    names = ["Live", "Candidate"]
    has_both = report["areas"] is not None
    curves = reliability = None
    if has_both:
        of_models = zip(names, pair.probabilities, strict=True)
        shown = [(name, pair.labels, of) for name, of in of_models]
        curves = Markup(overlays.compare_models(shown, "curves"))
        reliability = [
            Markup(plots.reliability(pair.labels, of, f"reliability-{number}"))
            for number, of in enumerate(pair.probabilities)
        ]
    return render(
        "replacement.html.j2",
        report=report,
        subtitle=" · ".join(
            str(part)
            for part in (
                report["run"].get("run_id"),
                report["run"].get("started_at"),
                f"live {models[0]['name']}",
                f"candidate {models[1]['name']}",
            )
            if part
        ),
        endpoints=[_endpoint(name, grounds, metrics[name]) for name in grounds["endpoints"]],
        rule=_rule_line(grounds),
        metrics=[
            {
                "title": title + (" (lower is better)" if name in _LOWER_IS_BETTER else ""),
                "cells": [_cell(metrics[name][role]) for role in ("live", "candidate")],
                "difference": _difference(metrics[name]["difference"]),
            }
            for name, title in _TITLES.items()
        ],
        calls=[{"title": _OF_CALLS[name], **test} for name, test in report["calls"].items()],
        names=names,
        curves=curves,
        reliability=reliability,
        calibration=list(zip(names, report["calibration"], strict=True)),
        group_titles=[metric_title(metric) for metric in TESTED],
        dimensions=[
            dimension
            | {
                "groups": [
                    group | {"cells": [_group_cell(f) for f in group["figures"].values()]}
                    for group in dimension["groups"]
                ]
            }
            for dimension in report["groups"]["dimensions"]
        ],
        min_patients=MIN_PATIENTS,
        speed=[_speed(name, report["speed"].get(name.lower())) for name in names],
        facts_of=[_model_facts(model) for model in models],
        run_facts=list_facts(report["run"]),
    )


def _endpoint(name: str, grounds: Mapping[str, Any], metric: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the table that the verdict rests on."""
    end, margin, least = grounds["endpoints"][name], grounds["margin"], grounds["superiority"]
    asked = []
    if name in GUARDED:
        asked.append(("not worse", end["low"] > -margin))
    if name in DECIDING:
        asked.append(("better", end["gain_low"] > least))
    return {
        "title": _TITLES[name],
        "cells": [format_figure(metric[role]["value"]) for role in ("live", "candidate")],
        "value": format_difference(end["value"]),
        "range": format_difference_range(end),
        "gain": format_difference(end["gain_low"]) if name in DECIDING else "",
        "asked": asked,
    }


def _rule_line(grounds: Mapping[str, Any]) -> str:
    margin, least = grounds["margin"], grounds["superiority"]
    by = f"by more than {least:g}" if least else "at all"
    return (
        "Stated beforehand: a candidate is promoted if AUROC, sensitivity and specificity are each "
        f"not worse by {margin:g} (the {LEVEL:.0%} interval of the difference lies above "
        f"−{margin:g}), and AUROC or balanced accuracy is better {by} (the low end of the 97.5% "
        "interval; two may decide, so each has half the chance of error). It is not needed if one "
        f"of the three is worse, or if neither of the two can be better by {margin:g}. Intervals "
        "are of resampled patients and never narrower than what patients without a difference "
        "leave open. All other figures on this page decide nothing, except that a group of "
        "patients that the candidate serves worse keeps it from being promoted."
    )


def _cell(interval: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": interval["value"], "range": format_range(interval)}


def _difference(interval: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "value": format_difference(interval["value"]),
        "range": format_difference_range(interval) or interval.get("note", ""),
        "apart": excludes_zero(interval),
    }


def _group_cell(figure: Mapping[str, Any]) -> dict[str, Any]:
    value = figure["difference"]
    return {
        "value": format_difference(value),
        "range": format_difference_range(figure),
        "is_few": value is not None and figure["p"] is None,
        "is_worse": figure["is_worse"],
    }


def _speed(name: str, cost: Mapping[str, Any] | None) -> dict[str, str]:
    rate = cost and cost["images_per_s"]
    whole = cost["num_images"] / cost["seconds"] if cost and cost["seconds"] else None
    return {
        "name": name,
        "rate": f"{rate:.1f}" if rate else NO_FIGURE,
        "whole": f"{whole:.1f}" if whole else NO_FIGURE,
    }


def _model_facts(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    images = "labelled images of one site" if model["recalibrated"] else "validation images"
    shown = {name: value for name, value in model.items() if name != "recalibrated"}
    return list_facts(shown | {"threshold_rule": describe_rule(model["threshold_rule"], images)})
