"""The part of a report that compares groups of images: what `templates/subgroups.html.j2` shows."""

from collections.abc import Mapping
from typing import Any

from orchestrator.evaluation.groups import DIMENSIONS
from orchestrator.evaluation.subgroups import TESTED
from orchestrator.evaluation.wording import (
    NO_FIGURE,
    format_figure,
    format_range,
    lower_title,
    metric_title,
)


def view_subgroups(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns what the page shows of `measure_subgroups`; None where no image has a label."""
    if found is None:
        return None
    return {
        "titles": [metric_title(metric) for metric in TESTED],
        "dimensions": [
            dimension | {"groups": [_view_group(group) for group in dimension["groups"]]}
            for dimension in found["dimensions"]
        ],
        "is_worse": bool(found["worst"] and found["worst"]["is_worse"]),
        "answer": _answer(found),
        "method_line": _method_line(found["method"]),
    }


def _view_group(group: Mapping[str, Any]) -> dict[str, Any]:
    patients, figures = group["num_patients"], group["metrics"].values()
    return {
        **group,
        "patients": NO_FIGURE if patients is None else f"{patients:,}",
        "figures": [figure | {"range": format_range(figure)} for figure in figures],
    }


def _answer(found: Mapping[str, Any]) -> str:
    """Names the worst group, and says whether chance alone may have made it so."""
    worst, method = found["worst"], found["method"]
    if worst is None:
        return (
            f"No group could be tested: none has {method['min_patients']} patients of the class "
            "that a figure is about, and as many outside it."
        )
    group = (
        f"{DIMENSIONS[worst['dimension']]}: {worst['group']}, with "
        f"{lower_title(worst['metric'])} {format_figure(worst['value'])} against "
        f"{format_figure(worst['rest'])} of the other images"
    )
    chance = f"corrected p {format_figure(worst['p_adjusted'])}"
    if not worst["is_worse"]:
        return (
            f"No group is significantly worse after correction for {method['num_tests']} "
            f"comparisons. The lowest is {group} ({chance})."
        )
    num_worse = sum(
        figure["is_worse"]
        for dimension in found["dimensions"]
        for group_ in dimension["groups"]
        for figure in group_["metrics"].values()
    )
    others = f" {num_worse} figures in all are worse; they are marked." if num_worse > 1 else ""
    return f"Served worst is {group} ({chance}).{others}"


def _method_line(method: Mapping[str, Any]) -> str:
    tests = (
        "Each group is compared with all other images of its table, by one-sided tests clustered by"
        f" patient; “worse” is a p under {method['level']:g} after {method['correction']}’s "
        f"correction for {method['num_tests']} tests. "
    )
    return (tests if method["num_tests"] else "") + (
        "Intervals are 95% percentile bootstraps "
        "clustered by patient, each for itself: they are not corrected. Grey figures marked “few” "
        f"rest on fewer than {method['min_patients']} patients of the class they are about (images,"
        " where no patient is known), in the group or outside it, and are not tested."
    )
