"""Pictures that lay several curves over one another: models against models, loss against rate."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from orchestrator.evaluation.report.svg import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    STYLE,
    build_figure,
    render_svg,
    thin_curve,
)

# Okabe and Ito's colours without the yellow, which is too light for a line, and dashes besides,
# so that lines can be told apart in grey. Seven and four: 28 lines until a pair comes again.
_COLOURS = (BLUE, ORANGE, GREEN, "#AA4A86", "#56A5D9", "#B8860B", INK)
_DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (8, 2, 2, 2)))
_STYLES = list(zip(itertools.cycle(_COLOURS), _DASHES * len(_COLOURS), strict=False))


def compare_models(models: Sequence[tuple[str, npt.ArrayLike, npt.ArrayLike]], name: str) -> str:
    """Draws the ROC and the precision-recall curves of several models side by side.

    Args:
        models: name, labels int [N] with both classes, probabilities float [N] of each model.
        name: unique on the page.

    Returns:
        One <svg> element; the legend gives each model's area under its ROC curve.
    """
    with mpl.rc_context(STYLE):
        # One legend row for every three models.
        figure = Figure(figsize=(9.4, 4.75 + 0.24 * -(-len(models) // 3)), layout="constrained")
        roc_axes, pr_axes = figure.subplots(1, 2)
        roc_axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (1, 3)))
        prevalence = float(np.mean(np.asarray(models[0][1]) == 1))
        pr_axes.axhline(prevalence, color=GREY, linewidth=1, linestyle=(0, (1, 3)))
        for (title, labels, probabilities), (colour, dash) in zip(
            models, itertools.cycle(_STYLES), strict=False
        ):
            style = {"color": colour, "linestyle": dash, "linewidth": 1.8}
            false_rate, true_rate, _ = roc_curve(labels, probabilities)
            area = roc_auc_score(labels, probabilities)
            roc_axes.plot(*thin_curve(false_rate, true_rate), label=f"{title} {area:.3f}", **style)
            precision, recall, _ = precision_recall_curve(labels, probabilities)
            # The curve's last point (recall 0, precision 1) is a convention, not a measurement.
            pr_axes.step(*thin_curve(recall[:-1], precision[:-1]), where="pre", **style)
        for axes in (roc_axes, pr_axes):
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
            axes.set_xticks(np.linspace(0, 1, 6))
            axes.set_yticks(np.linspace(0, 1, 6))
        roc_axes.set(xlabel="1 − specificity", ylabel="sensitivity (recall)")
        pr_axes.set(xlabel="sensitivity (recall)", ylabel="PPV (precision)")
        figure.legend(loc="outside lower center", ncols=3, borderaxespad=0.1)
        return render_svg(figure, name, "ROC and precision-recall curves of the models")


def rate_curve(search: Mapping[str, Any], name: str) -> str:
    """Draws a learning rate search: the range test's loss against the rate, and the trials.

    Args:
        search: `RateSearch.as_dict()`.
        name: unique on the page.

    Returns:
        One <svg> element.
    """
    sweep = {key: [row[key] for row in search["sweep"]] for key in search["sweep"][0]}
    trials = [row for row in search["trials"] if row["loss"] is not None]
    with mpl.rc_context(STYLE):
        figure, axes = build_figure(9.4, 3.9)
        axes.plot(
            sweep["rate"], sweep["loss"], ".", color=GREY, markersize=3, alpha=0.6, label="one step"
        )
        axes.plot(
            sweep["rate"], sweep["smoothed"], color=BLUE, linewidth=2, label="range test, smoothed"
        )
        axes.plot(
            [row["rate"] for row in trials],
            [row["loss"] for row in trials],
            "s--",
            color=ORANGE,
            linewidth=1.2,
            markersize=5,
            label=f"end of {search['trial_steps']} steps at one rate",
        )
        axes.axvline(search["rate"], color=INK, linewidth=1.4, linestyle=(0, (4, 2)))
        axes.annotate(
            f"suggested {search['rate']:.2g}",
            (search["rate"], 1.0),
            (0, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            size=9,
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        # What a diverging step lost is not worth the height of the picture.
        seen = [*sweep["smoothed"], *(row["loss"] for row in trials)]
        start = sweep["smoothed"][0]
        top = max(1.6 * start - 0.6 * min(seen), start * 1.05)
        axes.set_ylim(min(0.0, min(seen)), top)
        axes.set(xlabel="learning rate", ylabel="training loss")
        axes.legend(loc="lower left")
        return render_svg(figure, name, "Training loss against learning rate")
