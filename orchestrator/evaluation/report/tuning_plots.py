"""The pictures of a search, each one <svg> element; how they look is in `svg.py`."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from orchestrator.evaluation.report.svg import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    STYLE,
    build_figure,
    render_svg,
)

# From light grey over blue to ink: readable without colour, and the best lines are the darkest.
_RANKS = LinearSegmentedColormap.from_list("ranks", ["#d5dbe2", "#7fb2d6", BLUE, "#0b2f4a"])
_LOGARITHMIC = ("lr",)
# State -> marker, colour, words.
_STATES = {
    "finished": ("o", BLUE, "all epochs, or out of patience"),
    "stopped": ("v", GREY, "stopped early"),
}


def history(trials: Sequence[Mapping[str, Any]], objective: str, higher: bool, name: str) -> str:
    """Draws the objective of each trial in the order of their numbers, and the best so far.

    Args:
        trials: number, state and value of each; those without a value are marked below.
        objective: its title.
        higher: more is better.
        name: unique on the page.

    Returns:
        One <svg> element.
    """
    with mpl.rc_context(STYLE):
        figure, axes = build_figure(9.4, 3.4)
        judged = [trial for trial in trials if trial["value"] is not None]
        best = np.maximum if higher else np.minimum
        numbers = np.array([trial["number"] for trial in judged])
        values = np.array([trial["value"] for trial in judged])
        axes.step(numbers, best.accumulate(values), where="post", color=ORANGE, label="best so far")
        for state, (marker, colour, words) in _STATES.items():
            chosen = [index for index, trial in enumerate(judged) if trial["state"] == state]
            if chosen:
                axes.scatter(
                    numbers[chosen], values[chosen], marker=marker, color=colour, s=26, label=words
                )
        failed = [trial["number"] for trial in trials if trial["state"] == "failed"]
        if failed:
            floor = np.full(len(failed), values.min() if higher else values.max())
            axes.scatter(failed, floor, marker="x", color=INK, s=30, label="failed")
        axes.set(xlabel="trial", ylabel=f"validation {objective}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside lower center", ncols=4)
        return render_svg(figure, name, "Objective of each trial and the best so far")


def importances(shares: Mapping[str, float], name: str) -> str:
    """Draws how much of the spread of the objective each setting explains, as bars.

    Args:
        shares: setting -> share, 0..1.
        name: unique on the page.

    Returns:
        One <svg> element.
    """
    with mpl.rc_context(STYLE):
        figure, axes = build_figure(4.6, 0.9 + 0.5 * len(shares))
        titles = list(shares)[::-1]
        widths = [shares[title] for title in titles]
        axes.barh(titles, widths, color=BLUE, height=0.55)
        for index, width in enumerate(widths):
            axes.text(width + 0.01, index, f"{width:.0%}", va="center", size=9)
        axes.set(xlim=(0, max(widths) * 1.15 + 0.02), xlabel="share of the spread explained")
        axes.grid(False, axis="y")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        return render_svg(figure, name, "Importance of each setting")


def parallel_coordinates(
    trials: Sequence[Mapping[str, Any]],
    settings: Sequence[str],
    objective: str,
    higher: bool,
    name: str,
) -> str:
    """Draws each trial as a line over its settings to its objective; the best is marked.

    Args:
        trials: config and value of each; those without a value are left out.
        settings: axes, in their order.
        objective: title of the last axis.
        higher: more is better.
        name: unique on the page.

    Returns:
        One <svg> element.
    """
    judged = [trial for trial in trials if trial["value"] is not None]
    columns = [np.array([trial["config"][s] for trial in judged]) for s in settings]
    values = np.array([trial["value"] for trial in judged])
    ranks = values.argsort().argsort() if higher else (-values).argsort().argsort()
    with mpl.rc_context(STYLE):
        figure, axes = build_figure(9.4, 4.0)
        heights = [_scaled(c, s in _LOGARITHMIC) for c, s in zip(columns, settings, strict=True)]
        lines = np.stack([*heights, _scaled(values, False)], axis=1)
        for index in np.argsort(ranks):
            share = ranks[index] / max(len(judged) - 1, 1)
            best = ranks[index] == len(judged) - 1
            axes.plot(
                lines[index],
                color=ORANGE if best else _RANKS(share),
                linewidth=2.4 if best else 0.8 + share,
            )
        _draw_scales(axes, [*settings, objective], [*columns, values])
        return render_svg(figure, name, "Settings of each trial and its objective")


def _scaled(values: Any, logarithmic: bool) -> Any:
    """Values as heights 0..1."""
    values = np.log(values) if logarithmic else values
    low, high = values.min(), values.max()
    return np.full(len(values), 0.5) if high == low else (values - low) / (high - low)


def _draw_scales(axes: Axes, titles: Sequence[str], columns: Sequence[Any]) -> None:
    """One vertical scale a column, its ends and its middle in numbers."""
    for place, (title, values) in enumerate(zip(titles, columns, strict=True)):
        axes.axvline(place, color=GREY, linewidth=0.8, zorder=0)
        low, high = float(values.min()), float(values.max())
        middle = float(np.sqrt(low * high)) if title in _LOGARITHMIC else (low + high) / 2
        marks = [(0.0, low), (0.5, middle), (1.0, high)] if high > low else [(0.5, low)]
        for height, value in marks:
            axes.text(
                place + 0.03,
                height,
                f"{value:.4g}" if place == len(titles) - 1 else f"{value:.3g}",
                size=8,
                va="center",
                bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
            )
    axes.grid(False)
    axes.set(xlim=(-0.1, len(titles) - 0.7), ylim=(-0.06, 1.06), yticks=[])
    axes.set_xticks(range(len(titles)), titles)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0)


def spread(groups: Mapping[str, Sequence[float]], axis: str, name: str) -> str:
    """Draws one row of dots a group, with its mean: how much a figure moves by itself.

    Args:
        groups: title -> figures of repeated seeds or of folds.
        axis: title of the axis.
        name: unique on the page.

    Returns:
        One <svg> element.
    """
    with mpl.rc_context(STYLE):
        figure, axes = build_figure(4.6, 0.9 + 0.38 * len(groups))
        for place, values in enumerate(groups.values()):
            height = np.full(len(values), place)
            axes.plot([min(values), max(values)], [place, place], color=GREY, linewidth=1)
            axes.scatter(values, height, color=BLUE, s=30, alpha=0.75, zorder=2)
            axes.scatter([np.mean(values)], [place], marker="|", color=GREEN, s=160, zorder=3)
        axes.set_yticks(range(len(groups)), list(groups))
        axes.set(ylim=(len(groups) - 0.5, -0.5), xlabel=axis)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        return render_svg(figure, name, "Spread of repeated trainings")
