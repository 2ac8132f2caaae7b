"""The report of a search: its JSON form, and the page that a person reads."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from orchestrator.evaluation.objectives import OBJECTIVES, higher_is_better
from orchestrator.evaluation.report import tuning_plots
from orchestrator.evaluation.report.page import list_facts, render
from orchestrator.evaluation.wording import (
    INTENDED_USE,
    claim_reach,
    excludes_zero,
    format_difference,
    format_difference_range,
    format_figure,
    format_mean,
    format_range,
    metric_title,
    seeds_note,
)

_SHOWN = 10  # trials in the table, and rows of folds
_SPLITS = ("validation", "test")


def build_tuning_report(
    *,
    trials: Sequence[Mapping[str, Any]],
    best: int,
    objective: str,
    importances: Mapping[str, float],
    held_out: Mapping[str, Any],
    refit: Mapping[str, Any],
    splits: Mapping[str, Any],
    recipe: Mapping[str, Any],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns report.json of a search.

    Args:
        trials: JSON-able, by number.
        best: number of the winner.
        objective: what it was chosen by.
        importances: setting -> share of the spread explained; may be empty.
        held_out: the winner against the default on the fold that no trial saw.
        refit: the training report of the winner on all training rows.
        splits: images by split and class.
        recipe: the resolved spec, JSON-able.
        run: facts about the run, JSON-able.
    """
    winner = next(trial for trial in trials if trial["number"] == best)
    states = [trial["state"] for trial in trials]
    return {
        "kind": "tune",
        "objective": objective,
        "best": dict(winner),
        "counts": {state: states.count(state) for state in sorted(set(states))},
        "trials": [dict(trial) for trial in trials],
        "importances": dict(importances),
        "held_out": dict(held_out),
        "refit": {
            "best_epoch": refit["best_epoch"],
            "threshold": refit["threshold"],
            **{split: refit.get(split) for split in _SPLITS},
        },
        "splits": dict(splits),
        "recipe": dict(recipe),
        "run": dict(run),
        "intended_use": INTENDED_USE,
    }


def render_tuning_html(report: Mapping[str, Any]) -> str:
    """Returns report.html of a search: one page without scripts or outside files.

    Args:
        report: from `build_tuning_report`.
    """
    objective = report["objective"]
    title, higher = metric_title(objective), higher_is_better(objective)
    trials, best = report["trials"], report["best"]
    judged = sorted(
        (trial for trial in trials if trial["value"] is not None),
        key=lambda trial: (-trial["value"] if higher else trial["value"], trial["number"]),
    )
    settings = list(best["config"])
    varied = [s for s in settings if len({trial["config"][s] for trial in judged}) > 1]
    pictures = {
        "history": tuning_plots.history(trials, title, higher, "history"),
        "spread": tuning_plots.spread(
            _seeds(report["held_out"]), "AUROC on the held-out fold", "spread"
        ),
    }
    if report["importances"]:
        pictures["importances"] = tuning_plots.importances(report["importances"], "importances")
    if varied:
        pictures["parallel"] = tuning_plots.parallel_coordinates(
            trials, varied, title, higher, "parallel"
        )
    if len(best["values"]) > 1:
        folds = {f"trial {trial['number']}": trial["values"] for trial in judged[:_SHOWN]}
        pictures["folds"] = tuning_plots.spread(folds, f"{title} of each fold", "folds")
    return render(
        "tuning.html.j2",
        report=report,
        title=title,
        settings=settings,
        shown=[_row(trial) for trial in judged[:_SHOWN]],
        failed=[trial for trial in trials if trial["state"] == "failed"],
        differences=[_difference(name, report["held_out"]) for name in OBJECTIVES],
        seeds_note=seeds_note(report["held_out"]["difference"]["auroc"].get("num_seeds", 1)),
        configs=[(name, report["held_out"][name]["config"]) for name in ("winner", "default")],
        pictures={name: Markup(picture) for name, picture in pictures.items()},
        refit=[
            _refit(split, report["refit"][split]) for split in _SPLITS if report["refit"][split]
        ],
        subtitle=" · ".join(
            str(part) for part in (report["run"].get("run_id"), report["run"].get("started_at"))
        ),
        recipe_facts=list_facts(_flat(report["recipe"])),
        run_facts=list_facts(report["run"] | {"trials": report["counts"]}),
    )


def _seeds(held_out: Mapping[str, Any]) -> dict[str, list[float]]:
    return {name: held_out[name]["metrics"]["auroc"] for name in ("winner", "default")}


def _row(trial: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **trial,
        "shown": [f"{value:.3g}" for value in trial["config"].values()],
        "value": f"{trial['value']:.4f}",
        "epochs": len(trial["history"]),
        "seconds": f"{trial['seconds']:.1f}",
    }


def _difference(metric: str, held_out: Mapping[str, Any]) -> dict[str, Any]:
    """One metric of both configurations and their difference in words and numbers."""
    found = held_out["difference"][metric]
    winner = excludes_zero(found) and (found["value"] > 0) == higher_is_better(metric)
    better = f"the {'winner' if winner else 'default'} is better {claim_reach(found)}"
    return {
        "title": metric_title(metric),
        **{name: format_mean(held_out[name]["metrics"][metric]) for name in ("winner", "default")},
        "difference": format_difference(found["value"]),
        "range": format_difference_range(found) or found.get("note", ""),
        "says": better if excludes_zero(found) else "these images do not tell them apart",
    }


def _refit(split: str, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    metrics = evaluation["metrics"]
    shown = ("auroc", "auprc", "accuracy", "sensitivity", "specificity", "log_loss")
    return {
        "title": split.capitalize(),
        "num_images": evaluation["num_images"],
        "cells": [
            {
                "title": metric_title(name),
                "value": format_figure(metrics[name]["value"]),
                "range": format_range(metrics[name]) or metrics[name].get("note", ""),
            }
            for name in shown
        ],
    }


def _flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with ranges as text."""
    flat: dict[str, Any] = {}
    for name, value in recipe.items():
        if isinstance(value, Mapping) and {"low", "high"} == set(value):
            flat[name] = f"{value['low']:g} to {value['high']:g}"
        else:
            flat[name] = value
    return flat
