"""What every HTML report shares: template engine, facts as text, view of one evaluation.

A page is a pure function of a report's JSON form and the rows behind it. All text is escaped by
the template engine; only pictures from `plots.py` go in as they are.
"""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy.typing as npt
from markupsafe import Markup, escape

from orchestrator.data.schema import CLASS_NAMES
from orchestrator.evaluation.metrics import Confusion
from orchestrator.evaluation.report import plots
from orchestrator.evaluation.wording import (
    METRIC_TITLES,
    NO_FIGURE,
    format_figure,
    format_range,
    metric_title,
)

NEGATIVE, POSITIVE = CLASS_NAMES
_LOSSES = ("log_loss", "brier")
_RARE_PREVALENCE = 0.1


def render(template: str, **values: Any) -> str:
    """Returns a page from a template of this package.

    Args:
        template: file name in `templates/`.
        **values: what the template names; one that it names and is not given is an error.

    Returns:
        HTML with every value escaped, except pictures already marked safe.
    """
    return _environment().get_template(template).render(values)


def build_view(
    evaluation: Mapping[str, Any], labels: npt.ArrayLike, probabilities: npt.ArrayLike, name: str
) -> dict[str, Any]:
    """Returns what the templates show of one evaluation: rows of metrics, pictures, sentences.

    Args:
        evaluation: `Evaluation.as_dict()`, or a report that holds its keys.
        labels: int [N], 0 NORMAL, 1 PNEUMONIA.
        probabilities: float [N], 0..1.
        name: unique on the page, such as "test".

    Returns:
        rows, floor (left end of the interval bars), method, rarer, and pictures by name; `roc`,
        `precision_recall` and `reliability` are None where the labels hold one class.
    """
    confusion = Confusion(**evaluation["confusion"])
    rows = [_metric_row(key, evaluation["metrics"][key], confusion) for key in METRIC_TITLES]
    lows = [row["low"] if row["low"] is not None else row["value"] for row in rows if row["bar"]]
    lowest = min((low for low in lows if low is not None), default=0.0)
    both = confusion.tn + confusion.fp > 0 and confusion.tp + confusion.fn > 0
    curves: dict[str, Any] = {"roc": None, "precision_recall": None, "reliability": None}
    if both:
        for key, draw in (("roc", plots.roc), ("precision_recall", plots.precision_recall)):
            curves[key] = Markup(draw(labels, probabilities, confusion, f"{name}-{key}"))
        reliability = plots.reliability(labels, probabilities, f"{name}-reliability")
        curves["reliability"] = Markup(reliability)
    return curves | {
        "rows": rows,
        "floor": min(math.floor(lowest * 10) / 10, 0.9),
        "method": _method_line(evaluation),
        "rarer": _rarer_line(confusion) if both else None,
        "confusion": Markup(plots.confusion_matrix(confusion, f"{name}-confusion")),
    }


def list_facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns facts about a model or a run as pairs of text, in their order.

    Args:
        facts: plain values, lists, or mappings of those (such as library versions); None is left
            out.
    """
    return [
        (key.replace("_", " "), _plain(value)) for key, value in facts.items() if value is not None
    ]


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = format_figure
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["share"] = _share
    environment.filters["breakable"] = lambda word: escape(word).replace("_", Markup("_<wbr>"))
    return environment


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else NO_FIGURE


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return " · ".join(f"{key} {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _metric_row(name: str, interval: Mapping[str, Any], confusion: Confusion) -> dict[str, Any]:
    return {
        "name": name,
        "title": metric_title(name),
        "value": interval["value"],
        "low": interval["low"],
        "high": interval["high"],
        "range": format_range(interval),
        "bar": name not in _LOSSES,
        "note": interval.get("note"),
        "meaning": _meaning(name, confusion),
    }


def _meaning(name: str, confusion: Confusion) -> str:
    """One plain line about a metric, with the counts behind it."""
    tn, fp, fn, tp = confusion.tn, confusion.fp, confusion.fn, confusion.tp
    total, positives, negatives = tn + fp + fn + tp, tp + fn, tn + fp
    share = positives / total
    guesses = dict.fromkeys(("accuracy", "auprc", "log_loss", "brier"), "")
    if 0 < share < 1:
        common = POSITIVE if share > 0.5 else NEGATIVE
        entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
        blind = f"is giving every image the share of {POSITIVE}"
        guesses = {
            "accuracy": f" Calling every image {common} would give {max(share, 1 - share):.3f}.",
            "auprc": f"; {share:.3f} is guessing",
            "log_loss": f", {entropy:.3f} {blind}",
            "brier": f", {share * (1 - share):.3f} {blind}",
        }
    return {
        "sensitivity": f"Of {positives:,} images labelled {POSITIVE}, {tp:,} were called so; "
        f"{fn:,} were missed.",
        "specificity": f"Of {negatives:,} images labelled {NEGATIVE}, {tn:,} were called so; "
        f"{fp:,} were false alarms.",
        "ppv": f"Of {tp + fp:,} images called {POSITIVE}, {tp:,} are labelled so.",
        "npv": f"Of {tn + fn:,} images called {NEGATIVE}, {tn:,} are labelled so.",
        "accuracy": f"Of {total:,} calls, {tp + tn:,} agree with the label." + guesses["accuracy"],
        "f1": "Harmonic mean of sensitivity and PPV; takes no account of true negatives.",
        "auroc": f"Chance that a random {POSITIVE} image gets a higher probability than a random "
        f"{NEGATIVE} one, at no particular threshold; 0.5 is guessing.",
        "auprc": f"Mean PPV over all sensitivities, at no particular threshold{guesses['auprc']}.",
        "log_loss": "Distance of the probabilities from the labels, harsh on confident errors; "
        f"lower is better{guesses['log_loss']}.",
        "brier": "Mean squared distance of the probabilities from the labels; lower is better"
        f"{guesses['brier']}.",
    }[name]


def _method_line(evaluation: Mapping[str, Any]) -> str:
    interval = evaluation["interval"]
    patients = evaluation["num_patients"]
    drawn = f"{evaluation['num_images']:,} images"
    if patients is not None:
        drawn += f" of {patients:,} known patients"
    return (
        f"Measured on {drawn}. Intervals: {interval['level']:.0%} {interval['method']}, "
        f"{interval['num_resamples']:,} resamples, seed {interval['seed']}."
    )


def _rarer_line(confusion: Confusion) -> str:
    """Predictive values depend on how common the disease is, which readers often forget."""
    positives, negatives = confusion.tp + confusion.fn, confusion.tn + confusion.fp
    share = positives / (positives + negatives)
    sensitivity, specificity = confusion.tp / positives, confusion.tn / negatives
    rare = _RARE_PREVALENCE
    called = sensitivity * rare + (1 - specificity) * (1 - rare)
    passed = specificity * (1 - rare) + (1 - sensitivity) * rare
    ppv = f"a PPV of {sensitivity * rare / called:.2f}" if called else "no PPV"
    npv = f"an NPV of {specificity * (1 - rare) / passed:.2f}" if passed else "no NPV"
    return (
        f"PPV, NPV and accuracy hold for these images, {share:.0%} of them {POSITIVE}. Where "
        f"{rare:.0%} of images show it, the same sensitivity and specificity would give "
        f"{ppv} and {npv}."
    )
