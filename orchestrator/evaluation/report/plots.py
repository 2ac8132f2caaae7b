"""The pictures of a report, each one <svg> element; how they look is in `svg.py`.

Pictures carry numbers and class names only, never a path or any other text from outside.

Over 300 lines, one function a picture.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from orchestrator.data.schema import CLASS_NAMES
from orchestrator.evaluation.metrics import Confusion
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

_CLASS_COLOURS = (BLUE, ORANGE)
_NUM_BINS = 20


def confusion_matrix(confusion: Confusion, name: str) -> str:
    """Draws the four counts, each with its share of the row's label.

    Args:
        confusion: images by label and prediction.
        name: unique on the page; seeds the ids inside the picture.

    Returns:
        One <svg> element.
    """
    counts = np.array([[confusion.tn, confusion.fp], [confusion.fn, confusion.tp]])
    totals = counts.sum(axis=1)
    kinds = [["true negative", "false positive"], ["false negative", "true positive"]]
    with mpl.rc_context(STYLE):
        figure, axes = build_figure(4.6, 4.0)
        axes.grid(False)
        for row, column in np.ndindex(2, 2):
            share = counts[row, column] / max(totals[row], 1)
            colour = GREEN if row == column else ORANGE
            box = (column - 0.48, row - 0.47)
            axes.add_patch(
                mpl.patches.Rectangle(
                    box, 0.96, 0.94, facecolor=colour, alpha=0.08 + 0.32 * share, linewidth=0
                )
            )
            texts = ((-0.2, kinds[row][column], 9), (0.04, f"{counts[row, column]:,}", 20))
            percent = (
                f"{100 * share:.1f}% of {CLASS_NAMES[row]}" if totals[row] else "no such label"
            )
            for shift, text, size in (*texts, (0.28, percent, 9)):
                weight = "bold" if size == 20 else "normal"
                axes.text(
                    column, row + shift, text, ha="center", va="center", size=size, weight=weight
                )
        axes.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5), xlabel="called by the model", ylabel="label")
        axes.set_xticks([0, 1], CLASS_NAMES)
        axes.set_yticks([0, 1], CLASS_NAMES, rotation=90, va="center")
        axes.xaxis.set_label_position("top")
        axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
        return render_svg(figure, name, "Confusion matrix: images by label and call")


def roc(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, confusion: Confusion, name: str
) -> str:
    """Draws sensitivity against 1 - specificity with the operating point marked.

    Args:
        labels: int [N], 0 NORMAL, 1 PNEUMONIA, both present.
        probabilities: float [N], 0..1.
        confusion: the matrix at the threshold in use.
        name: unique on the page.

    Returns:
        One <svg> element.
    """
    from sklearn.metrics import roc_curve  # a second, which reports without labels save

    false_rate, true_rate, _ = roc_curve(labels, probabilities)
    point = (
        confusion.fp / (confusion.fp + confusion.tn),
        confusion.tp / (confusion.tp + confusion.fn),
    )
    with mpl.rc_context(STYLE):
        figure, axes = build_figure(4.6, 4.0)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(*thin_curve(false_rate, true_rate), color=BLUE, linewidth=2)
        _mark(axes, point, f"sensitivity {point[1]:.3f}\nspecificity {1 - point[0]:.3f}")
        _unit_square(axes)
        axes.set(xlabel="1 − specificity", ylabel="sensitivity (recall)")
        return render_svg(figure, name, "ROC curve with the operating point")


def precision_recall(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, confusion: Confusion, name: str
) -> str:
    """Draws precision (PPV) against recall (sensitivity) with the operating point marked.

    Args:
        labels: int [N], 0 NORMAL, 1 PNEUMONIA, both present.
        probabilities: float [N], 0..1.
        confusion: the matrix at the threshold in use.
        name: unique on the page.

    Returns:
        One <svg> element.
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(labels, probabilities)
    prevalence = float(np.mean(np.asarray(labels) == 1))
    called = confusion.tp + confusion.fp
    with mpl.rc_context(STYLE):
        figure, axes = build_figure(4.6, 4.0)
        axes.axhline(prevalence, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        # The curve's last point (recall 0, precision 1) is a convention, not a measurement.
        axes.step(*thin_curve(recall[:-1], precision[:-1]), where="pre", color=BLUE, linewidth=2)
        if called:
            point = (confusion.tp / (confusion.tp + confusion.fn), confusion.tp / called)
            _mark(axes, point, f"PPV {point[1]:.3f}\nsensitivity {point[0]:.3f}")
        _unit_square(axes)
        axes.set(xlabel="sensitivity (recall)", ylabel="PPV (precision)")
        return render_svg(figure, name, "Precision-recall curve with the operating point")


def histogram(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike | None, threshold: float, name: str
) -> str:
    """Draws how many images got which probability, by class where labels exist.

    Heights are on a square-root scale: most images lie at the ends, and the few between matter.

    Args:
        probabilities: float [N], 0..1.
        labels: int [N], 0 NORMAL, 1 PNEUMONIA; None: no labels.
        threshold: drawn as a line.
        name: unique on the page.

    Returns:
        One <svg> element.
    """
    values = np.asarray(probabilities, np.float64)
    edges = np.linspace(0, 1, _NUM_BINS + 1)
    width = edges[1]
    with mpl.rc_context(STYLE):
        figure, axes = build_figure(9.4, 2.9)
        top = 1
        if labels is None:
            counts = np.histogram(values, edges)[0]
            top = int(counts.max())
            axes.bar(edges[:-1], counts, width * 0.92, align="edge", color=BLUE)
        else:
            for label in np.unique(np.asarray(labels)):
                counts = np.histogram(values[np.asarray(labels) == label], edges)[0]
                top = max(top, int(counts.max()))
                axes.bar(
                    edges[:-1] + width * (0.06 + 0.44 * label),
                    counts,
                    width * 0.44,
                    align="edge",
                    color=_CLASS_COLOURS[label],
                    hatch="////" if label else None,
                    edgecolor="white",
                    linewidth=0,
                    label=CLASS_NAMES[label],
                )
            left = threshold > 0.5  # the side that the threshold's text leaves free
            axes.legend(
                loc="lower left" if left else "lower right",
                bbox_to_anchor=(0.0 if left else 1.0, 1.0),
                ncols=2,
            )
        axes.axvline(threshold, color=INK, linewidth=1.4, linestyle=(0, (4, 2)))
        side = "right" if threshold > 0.5 else "left"
        axes.annotate(
            f"threshold {threshold:.3f}",
            (threshold, 1.0),
            (0, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha=side,
            size=9,
        )
        axes.grid(False, axis="x")
        axes.set_yscale("function", functions=(_root, np.square))
        axes.set(xlim=(-0.005, 1.005), ylabel="images")
        axes.set_xlabel(f"probability of {CLASS_NAMES[1]}")
        axes.set_yticks(_root_ticks(top))
        return render_svg(figure, name, "Histogram of probabilities")


def reliability(labels: npt.ArrayLike, probabilities: npt.ArrayLike, name: str) -> str:
    """Draws the share of PNEUMONIA among images of like probability: a calibration curve.

    Ten bins of equal width; bars are 95% Wilson intervals, the size of a point its images.

    Args:
        labels: int [N], 0 NORMAL, 1 PNEUMONIA.
        probabilities: float [N], 0..1.
        name: unique on the page.

    Returns:
        One <svg> element.

    Reference:
        Wilson, Probable inference, JASA 22, 1927.
    """
    values = np.asarray(probabilities, np.float64)
    bins = np.minimum((values * 10).astype(int), 9)
    total = np.bincount(bins, minlength=10)
    filled = total > 0
    total = total[filled]
    mean = np.bincount(bins, values, 10)[filled] / total
    share = np.bincount(bins, np.asarray(labels) == 1, 10)[filled] / total
    low, high = _wilson(share, total)
    with mpl.rc_context(STYLE):
        figure, axes = build_figure(4.6, 4.0)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        axes.vlines(mean, low, high, color=BLUE, linewidth=1.6)
        axes.plot(mean, share, color=BLUE, linewidth=0.8, alpha=0.5)
        axes.scatter(mean, share, 18 + 110 * np.sqrt(total / total.sum()), color=BLUE, zorder=3)
        _unit_square(axes)
        axes.set(xlabel="mean probability given", ylabel=f"share labelled {CLASS_NAMES[1]}")
        return render_svg(
            figure, name, "Reliability diagram: probability given against share observed"
        )


def learning_curve(
    history: Sequence[Mapping[str, float]], quantity: str, best_epoch: int, name: str
) -> str:
    """Draws a quantity of training and validation by epoch, the learning rate on a second axis.

    Args:
        history: one row an epoch with `epoch`, `lr`, `quantity` and `val_` + `quantity`; what a
            row lacks is a gap in the line.
        quantity: "loss" or "accuracy".
        best_epoch: the epoch whose weights were kept; marked.
        name: unique on the page.

    Returns:
        One <svg> element.

    Reference:
        Figure 4 of the paper whose recipe the training follows.
    """
    epochs = [row["epoch"] for row in history]
    columns = {
        key: np.array([row.get(key, np.nan) for row in history], np.float64)
        for key in (quantity, f"val_{quantity}", "lr")
    }
    with mpl.rc_context(STYLE):
        figure, axes = build_figure(4.6, 3.4)
        rate = axes.twinx()
        lines = axes.plot(epochs, columns[quantity], "o-", color=BLUE, label="training")
        lines += axes.plot(
            epochs, columns[f"val_{quantity}"], "s-", color=ORANGE, label="validation"
        )
        lines += rate.step(
            epochs,
            columns["lr"],
            ":",
            where="mid",
            color=GREY,
            linewidth=1.4,
            label="learning rate",
        )
        for line in lines[:2]:
            line.set(linewidth=1.8, markersize=3.5 if len(epochs) <= 40 else 0)
        axes.axvline(best_epoch, color=INK, linewidth=1, linestyle=(0, (4, 2)))
        axes.set(xlabel="epoch", ylabel=quantity)
        axes.set_zorder(rate.get_zorder() + 1)
        axes.patch.set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        _scale_rate(rate, columns["lr"])
        rate.set_ylabel("learning rate", color=GREY)
        rate.tick_params(axis="y", which="both", colors=GREY)
        rate.spines["right"].set_visible(True)
        axes.legend(handles=lines, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        return render_svg(figure, name, f"{quantity} of training and validation by epoch")


def _scale_rate(axes: Axes, rates: npt.NDArray[np.float64]) -> None:
    """A logarithmic axis for learning rates; where they are few, each is a tick."""
    axes.grid(False)
    axes.set_yscale("log")
    distinct = np.unique(rates[rates > 0])
    if distinct.size:
        axes.set_ylim(distinct[0] / 1.5, distinct[-1] * 1.5)
    if 0 < distinct.size <= 5:
        axes.set_yticks(distinct)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _root(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    root: npt.NDArray[np.float64] = np.sqrt(np.maximum(np.asarray(counts, np.float64), 0))
    return root


def _root_ticks(top: int) -> list[int]:
    """Round counts (1, 2 or 5 times a power of ten) about evenly on a square-root axis."""
    rounds = [digit * 10**power for power in range(10) for digit in (1, 2, 5)]
    wanted = [top * share**2 for share in (0.25, 0.5, 0.75, 1.0)]
    ticks = {min(rounds, key=lambda tick: abs(np.sqrt(tick) - np.sqrt(count))) for count in wanted}
    return [0, *sorted(tick for tick in ticks if tick <= 1.1 * top)]


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))


def _mark(axes: Axes, point: tuple[float, float], text: str) -> None:
    """Marks the operating point, its text on the side that has room."""
    axes.plot(*point, "o", markersize=7.5, color=ORANGE, markeredgecolor="white", zorder=4)
    right = point[0] < 0.5
    axes.annotate(
        text,
        point,
        (12 if right else -12, -14 if point[1] > 0.5 else 14),
        textcoords="offset points",
        ha="left" if right else "right",
        va="top" if point[1] > 0.5 else "bottom",
        size=9,
    )


def _wilson(
    share: npt.NDArray[Any], total: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """95% Wilson bounds of shares of totals."""
    z = 1.959964
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) * z / (1 + z**2 / total)
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)
