"""How figures are named and written: the same on every page, in every table and model card."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.config.threshold import COHORTS, SHIFTED

if TYPE_CHECKING:
    from orchestrator.evaluation.figures import Interval

INTENDED_USE = (
    "Research use only. Not a diagnostic device: its output must not guide the care of a patient."
)
# Order and title of the rows of a metrics table; synonyms share a row.
METRIC_TITLES = {
    "sensitivity": "Sensitivity (recall)",
    "specificity": "Specificity",
    "ppv": "PPV (precision)",
    "npv": "NPV",
    "accuracy": "Accuracy",
    "f1": "F1",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "log_loss": "Log loss",
    "brier": "Brier score",
}
_SYNONYMS = {"recall": "sensitivity", "precision": "ppv"}
BALANCED_TITLE = "Balanced accuracy"  # the mean of sensitivity and specificity
NO_FIGURE = "–"
_RULES = {
    "youden": "highest sensitivity + specificity (Youden's index) on {images}",
    "youden-smoothed": "highest sensitivity + specificity (Youden's index) of the smoothed "
    "distributions of {images}",
    "accuracy": "highest accuracy on {images}",
    "f1": "highest F1 on {images}",
    "fixed": "given by the user",
}


def metric_title(name: str) -> str:
    """Returns the title of a metric, one of `metrics.METRIC_NAMES`."""
    return METRIC_TITLES[_SYNONYMS.get(name, name)]


def lower_title(name: str) -> str:
    """Returns the title of a metric as it stands within a sentence.

    Args:
        name: one of `metrics.METRIC_NAMES`, or `balanced_accuracy`.
    """
    title = BALANCED_TITLE if name == "balanced_accuracy" else metric_title(name)
    return title if title.isupper() else title[0].lower() + title[1:]


def format_figure(value: float | None) -> str:
    """Returns a metric or probability with three decimals; a dash where there is none.

    A value that is not quite 1 or 0 is not shown as if it were.

    Args:
        value: usually 0..1.
    """
    if value is None:
        return NO_FIGURE
    if 0.9995 <= value < 1:
        return ">0.999"
    return "<0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def format_mean(values: Sequence[float | None]) -> str:
    """Returns the mean of a metric over several trainings as `format_figure` gives it."""
    known = [value for value in values if value is not None]
    return format_figure(sum(known) / len(known) if len(known) == len(values) else None)


def format_range(interval: Mapping[str, Any]) -> str:
    """Returns the bounds of a metric's interval as text, empty where there are none.

    Args:
        interval: value, low and high, as `Interval.as_dict` gives them.
    """
    if interval["low"] is None:
        return ""
    return f"{format_figure(interval['low'])}–{format_figure(interval['high'])}"


def format_difference(value: float | None) -> str:
    """Returns a difference of two metrics with its sign and three decimals; a dash for None."""
    return NO_FIGURE if value is None else f"{value:+.3f}".replace("-", "−")


def format_difference_range(interval: Mapping[str, Any]) -> str:
    """Returns the bounds of a difference's interval as text, empty where there are none.

    Args:
        interval: value, low and high, as `Interval.as_dict` gives them.
    """
    if interval["low"] is None:
        return ""
    return f"{format_difference(interval['low'])} to {format_difference(interval['high'])}"


def describe_change(auroc: "Interval", calls: "Interval", num_images: int) -> str:
    """Returns in words what an int8 network changes on labelled images, with intervals.

    Args:
        auroc: change of the AUROC.
        calls: share of the images that are called differently.
        num_images: how many there are.
    """
    shown = [
        "undefined" if each.value is None else f"{each.value:{form}}" + bounds
        for each, form, bounds in (
            (auroc, "+.4f", _bounds(auroc, "+.4f")),
            (calls, ".2%", _bounds(calls, ".2%")),
        )
    ]
    return f"AUROC {shown[0]}, calls changed {shown[1]} on {num_images:,} images"


def _bounds(interval: "Interval", form: str) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f" [{interval.low:{form}} to {interval.high:{form}}]"


def excludes_zero(interval: Mapping[str, Any]) -> bool:
    """Returns whether the interval of a difference lies on one side of 0.

    Args:
        interval: value, low and high, as `Interval.as_dict` gives them.
    """
    low, high = interval["low"], interval["high"]
    return low is not None and (low > 0 or high < 0)


def claim_reach(difference: Mapping[str, Any]) -> str:
    """Returns how far a difference whose interval leaves out 0 may be claimed.

    Args:
        difference: as `Difference.as_dict` gives it; from a run of an earlier version without
            `num_seeds`, since one training was counted.
    """
    return "beyond chance" if difference.get("num_seeds", 1) > 1 else "on these images"


def seeds_note(num_seeds: int) -> str:
    """Returns the sentence on what the intervals of differences count.

    Args:
        num_seeds: trainings of each model.
    """
    if num_seeds > 1:
        return (
            f"Each model was trained with {num_seeds} seeds: differences are of the means, and "
            "their intervals count patients and seeds."
        )
    return (
        "Each model was trained once: the intervals count the patients and leave out the chance "
        "of training, so another seed may reverse a small difference."
    )


FIGURE_TITLES = {
    "called PNEUMONIA": "called PNEUMONIA",
    "logit": "logit",
    "rejected": "rejected files by code",
    "width_px": "width",
    "height_px": "height",
    "aspect": "width over height",
    "brightness": "mean grey level",
    "dark": "dark end of the grey levels",
    "bright": "bright end of the grey levels",
    "likeness": "likeness to the mean training image",
    "distance": "distance of the features",
    **{f"axis_{n}": f"features, direction {n}" for n in range(1, 5)},
}


def name_drifted(drift: Mapping[str, Any]) -> str:
    """Returns the figures that drifted, first of all images, then of inputs and devices.

    Args:
        drift: as a report has it.
    """
    parts = []
    for group in drift["groups"]:
        names = [FIGURE_TITLES[of["name"]] for of in group["figures"] if of["drifted"]]
        if names:
            where = "" if group["kind"] == "all" else f" ({group['kind']} {group['name']})"
            parts.append(", ".join(names) + where)
    return "; ".join(parts)


def name_shadow(shadow: Mapping[str, Any]) -> str:
    """Returns the version of a shadow, the name that the user gave it where it has none."""
    version: str = (shadow["model"] or {}).get("version") or shadow["name"]
    return version


def describe_shadow(shadow: Mapping[str, Any]) -> str:
    """Returns in one line what came of a shadow.

    Args:
        shadow: as a report has it.
    """
    name, parts = name_shadow(shadow), []
    calls, num_images = shadow["calls"], shadow["num_images"]
    if shadow["fault"] and not num_images:
        return f"{name} scores nothing: {shadow['fault']}"
    if num_images:
        differ = calls["shadow_only"] + calls["live_only"]
        parts.append(
            f"calls {differ:,} of {num_images:,} images differently: {calls['shadow_only']:,} "
            f"PNEUMONIA and {calls['live_only']:,} NORMAL"
        )
    parts += [f"{count:,} not scored ({why})" for why, count in shadow["not_scored"].items()]
    return f"{name} {'; '.join(parts) or 'has no image to score'}"


def describe_rule(rule: str, images: str = "validation images") -> str:
    """Returns a threshold rule in words.

    Args:
        rule: as `choose_threshold` gives it.
        images: those by which the threshold was chosen.
    """
    if rule.endswith(SHIFTED):
        return f"{describe_rule(rule.removesuffix(SHIFTED), images)} and shifted copies of them"
    if rule.endswith(COHORTS):
        return f"{describe_rule(rule.removesuffix(COHORTS), images)} in the worst of their cohorts"
    name, _, floor = rule.partition("@")
    if name in ("sensitivity", "specificity") and floor:
        other = "specificity" if name == "sensitivity" else "sensitivity"
        return f"highest {other} with a {name} of at least {floor} on {images}"
    return _RULES[rule].format(images=images) if rule in _RULES else rule
