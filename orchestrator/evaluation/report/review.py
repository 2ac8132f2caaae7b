"""The part of a report on what is accepted and what is left to a person: JSON form and view."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup

from orchestrator.evaluation.bootstrap import FloatArray, IntArray, cluster_rows
from orchestrator.evaluation.calibration import call_labels
from orchestrator.evaluation.report.svg import BLUE, GREY, INK, STYLE, build_figure, render_svg
from orchestrator.evaluation.review_rule import (
    ACCEPT,
    REVIEW,
    REVIEW_REASONS,
    ReviewPoint,
    ReviewRule,
    describe_review,
)
from orchestrator.evaluation.selective import BoolArray, build_curve
from orchestrator.evaluation.tally import UNLABELLED, Tally
from orchestrator.evaluation.wording import NO_FIGURE


def measure_review(
    margins: FloatArray, accepted: BoolArray, wrong: BoolArray, groups: IntArray
) -> dict[str, Any]:
    """Returns what accepting gave on labelled images, JSON-able.

    Args:
        margins: float64 [N], as `find_margins` gives them.
        accepted: bool [N].
        wrong: bool [N], whether an image's call is not its label.
        groups: int64 [N], images of one patient have one number.

    Returns:
        Images and patients in all and accepted, those wrong among them, and the `curve`: share of
        images accepted and share of these wrong at each of `MARGINS`, by rising coverage.
    """
    bad = accepted & wrong
    return {
        "num_images": len(margins),
        "num_patients": len(np.unique(groups)),
        "num_wrong": int(wrong.sum()),
        "accepted": int(accepted.sum()),
        "wrong": int(bad.sum()),
        "patients": len(np.unique(groups[accepted])),
        "failed": len(np.unique(groups[bad])),
        "curve": _curve(build_curve(margins, wrong, groups), len(margins)),
    }


def build_review(tally: Tally, rules: Sequence[ReviewRule]) -> dict[str, Any] | None:
    """Returns what a scoring report says of its review rule, JSON-able; None without one.

    Args:
        tally: the rows of the run.
        rules: of each model.
    """
    if not rules:
        return None
    measured = {}
    labelled = tally.labels != UNLABELLED
    if labelled.any():
        labels, probabilities = tally.labels[labelled], tally.probabilities[labelled]
        wrong = call_labels(probabilities, tally.threshold) != labels
        groups = cluster_rows(tally.patients, len(labels))
        measured["Labelled images"] = measure_review(
            tally.margins[labelled], tally.accepted[labelled], wrong, groups
        )
    return {
        "rules": [rule.as_dict() for rule in rules],
        "counts": {word: tally.decisions[word] for word in (ACCEPT, REVIEW)},
        "reasons": dict(tally.review_reasons.most_common()),
        "measured": measured,
    }


def view_review(review: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the templates show of a report's `review`.

    Args:
        review: `rules`, and `measured` by title; of a scoring run `counts` and `reasons` too.
    """
    counts = review.get("counts")
    return {
        "counts": counts,
        "promises": [describe_review(rule) for rule in review["rules"]],
        "reasons": [
            {"word": word, "count": count, "meaning": REVIEW_REASONS.get(word, word)}
            for word, count in review.get("reasons", {}).items()
        ],
        "measured": [_section(title, found) for title, found in review["measured"].items()],
    }


def _section(title: str, found: Mapping[str, Any]) -> dict[str, Any]:
    coverage = found["accepted"] / found["num_images"]
    point = (coverage, _share(found["wrong"], found["accepted"]))
    name = f"{title.lower().replace(' ', '-')}-review"
    return {
        "title": title,
        "plot": Markup(plot_curve(found["curve"], point, name)),
        "line": (
            f"{found['accepted']:,} of {found['num_images']:,} images ({coverage:.1%}) are "
            f"accepted, {found['wrong']:,} of them ({_percent(found['wrong'], found['accepted'])}) "
            f"wrongly; of {found['patients']:,} patients with an accepted image, "
            f"{found['failed']:,} have a wrong one. If all were accepted, {found['num_wrong']:,} "
            f"({_percent(found['num_wrong'], found['num_images'])}) would be wrong."
        ),
    }


def plot_curve(
    curve: Sequence[Sequence[float]], point: tuple[float, float | None], name: str
) -> str:
    """Draws the share of accepted images that are called right against the share accepted.

    Args:
        curve: pairs of coverage and error, by rising coverage.
        point: coverage and error of the rule; an error of None is not marked.
        name: unique on the page.

    Returns:
        One <svg> element.
    """
    with mpl.rc_context(STYLE):
        figure, axes = build_figure(4.6, 3.4)
        coverage, error = np.array([[0.0, np.nan], *curve], np.float64).T
        axes.plot(100 * coverage, 100 * (1 - error), color=BLUE, linewidth=2, drawstyle="steps-pre")
        if point[1] is not None:
            place = (100 * point[0], 100 * (1 - point[1]))
            axes.axvline(place[0], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
            axes.plot(*place, "o", color=INK, markersize=7, zorder=4)
        lowest = 100 * (1 - np.nanmax(error, initial=0.0))
        axes.set(
            xlim=(0, 101),
            ylim=(max(min(lowest - 1, 98), 0), 100.3),
            xlabel="accepted, % of images",
            ylabel="called right, % of accepted",
        )
        return render_svg(figure, name, "Accuracy of accepted images against their share")


def _curve(points: Sequence[ReviewPoint], total: int) -> list[list[float]]:
    """Coverage and error of each point, of points that accept equally many the last."""
    found = {point.accepted: point.wrong / point.accepted for point in points}
    return [[accepted / total, error] for accepted, error in found.items()]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else NO_FIGURE
