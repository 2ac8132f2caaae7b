"""The look of every picture: small, deterministic SVG, colour-blind-safe and readable in grey.

Text stays text (the page's own font, selectable, searchable). The colours are those of Okabe and
Ito; what they tell apart differs by hatching, shape or line style too.
"""

import io
import re
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, GREY, GRID = "#1b2430", "#5b6673", "#dfe4ea"
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#00795a"
_MAX_POINTS = 400  # of a curve: more cannot be seen at this size
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "hatch.linewidth": 0.6,
    "lines.solid_capstyle": "round",
}


def build_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Returns a figure without pyplot, so that no global state survives it.

    Args:
        width: inches; a third of the page's pixels over 100 or so.
        height: inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def thin_curve(
    x: npt.NDArray[Any], y: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Returns at most a few hundred points of a curve, evenly along its length, with both ends.

    Args:
        x: float [N].
        y: float [N].
    """
    if x.size <= _MAX_POINTS:
        return x, y
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    steps = np.searchsorted(length, np.linspace(0, length[-1], _MAX_POINTS))
    keep = np.unique(np.concatenate([[0], np.minimum(steps, x.size - 1), [x.size - 1]]))
    return x[keep], y[keep]


def render_svg(figure: Figure, name: str, title: str) -> str:
    """Returns a figure as one <svg> element that scales with the page.

    Ids of parts are dropped and those of definitions salted with `name`, since several pictures
    share a page; coordinates keep two decimals, a hundredth of a point.

    Args:
        figure: drawn under `STYLE`.
        name: unique on the page.
        title: what a screen reader says; plain text without quotes or angle brackets.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
    text = re.sub(r'\b(?:d|x|y|transform|points)="[^"]*"', _round_numbers, text)
    text = re.sub(r"\n\s*", "\n", text)
    label = f'role="img" aria-label="{title}"'
    return re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', rf"<svg \1 {label}>", text, count=1).strip()


def _round_numbers(attribute: re.Match[str]) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute[0])
