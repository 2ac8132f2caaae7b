"""The model card: `README.md` of a bundle, written from its metadata alone."""

from typing import TYPE_CHECKING

from orchestrator.evaluation.review_rule import describe_review
from orchestrator.evaluation.wording import (
    METRIC_TITLES,
    describe_change,
    format_figure,
    format_range,
)

if TYPE_CHECKING:
    from orchestrator.evaluation.figures import Interval
    from orchestrator.model.bundle import BundleInfo, Quantized


def render_card(info: "BundleInfo") -> str:
    """Returns the model card as Markdown.

    Args:
        info: the bundle's metadata; `files` is not used.

    Returns:
        Text that ends in a newline.
    """
    negative, positive = info.class_names
    sections = [
        f"# {info.backbone}: {negative} or {positive} on chest X-rays",
        info.intended_use,
        "## What it is\n\n" + _facts(info),
        "## Operating point\n\n"
        f"An image is called {positive} where its calibrated probability is at least "
        f"{info.threshold.value:.4f} (chosen by: {info.threshold.rule}). Probability = "
        f"sigmoid({info.calibration.slope:.4f} x logit + {info.calibration.intercept:.4f}). "
        + _chosen_on(info),
        *([f"## Left to a person\n\n{describe_review(info.review)}"] if info.review else []),
        *([_int8(info.int8)] if info.int8 else []),
        "## Training data\n\n" + _counts(info),
        "## How it did\n\n" + _metrics(info),
        "## Limits\n\n" + _limits(info),
        "## Files\n\n"
        "`model.keras` maps grey images [N, S, S, 1] with levels 0..255 to the uncalibrated "
        "probability; `openvino.xml` maps uint8 [N, S, S] to the logit; `bundle.json` holds all "
        "of this for programs, with the SHA-256 of every file.",
    ]
    return "\n\n".join(sections) + "\n"


def _chosen_on(info: "BundleInfo") -> str:
    """By which images curve and threshold were chosen."""
    found = info.recalibration
    if found is None:
        return "The curve was fitted on validation images."
    patients = "" if found.num_patients is None else f" of {found.num_patients:,} patients"
    counts = ", ".join(f"{number:,} {name}" for name, number in found.counts.items())
    fitted = "curve and threshold were" if found.calibration == "platt" else "the threshold was"
    bounds = format_range(found.threshold.as_dict())
    return (
        f"**Recalibrated** on {found.date}: {fitted} chosen on "
        f"{found.num_images:,} labelled images{patients} ({counts}), and not on the training "
        f"data; the network is that of the bundle `{info.parent}`."
        + (
            f" Chosen on as many other patients, it would lie in {bounds} (95% interval)."
            if bounds
            else ""
        )
    )


def _int8(found: "Quantized") -> str:
    """The operating point in int8, and what it changes."""
    change = describe_change(found.auroc_change, found.calls_changed, found.num_images)
    return (
        "## In int8\n\n"
        f"`openvino_int8.xml` is the same network in int8, made on {found.date}. With `--precision "
        f"int8` the threshold is {found.threshold.value:.4f}, and probability = "
        f"sigmoid({found.calibration.slope:.4f} x logit + {found.calibration.intercept:.4f}). "
        f"Against float32: {change} (95% intervals); {found.speed:.2f} times the images a second, "
        f"on a CPU with {found.arithmetic}."
    )


def _facts(info: "BundleInfo") -> str:
    """The network, its weights, the seed and the libraries, as a list."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(info.versions.items()))
    return "\n".join(
        [
            f"- Input: grey image stretched to {info.size_px} x {info.size_px} px",
            f"- Backbone: {info.backbone}, first weights: {info.weights}",
            f"- Parameters: {info.num_parameters:,}, of which trained {info.num_trainable:,}",
            f"- Made: {info.created} by orchestrator {info.orchestrator_version}, seed {info.seed}",
            f"- Libraries: {versions}",
        ]
    )


def _counts(info: "BundleInfo") -> str:
    """Images by split and class, as a table."""
    header = ["split", *info.class_names, "all"]
    rows = []
    for split, by_class in info.data.counts.items():
        numbers = [by_class.get(name, 0) for name in info.class_names]
        rows.append([split, *(f"{number:,}" for number in (*numbers, sum(numbers)))])
    population = info.data.population or "not stated"
    return (
        _table(header, rows)
        + f"\n\nPopulation: {population}\n\nFingerprint: `{info.data.fingerprint}`"
    )


def _metrics(info: "BundleInfo") -> str:
    """Figures with intervals, a column for each split."""
    if not info.metrics:
        return "Not measured."
    rows = [
        [title, *(_figure(split.metrics.get(name)) for split in info.metrics.values())]
        for name, title in METRIC_TITLES.items()
        if any(name in split.metrics for split in info.metrics.values())
    ]
    sizes = "; ".join(
        f"{split}: {measured.num_images:,} images"
        + (f" of {measured.num_patients:,} patients" if measured.num_patients else "")
        for split, measured in info.metrics.items()
    )
    return _table(["metric", *info.metrics], rows) + f"\n\n95% intervals in brackets. {sizes}."


def _figure(figure: "Interval | None") -> str:
    """`0.953 [0.941–0.964]`, or why there is none."""
    if figure is None or figure.value is None:
        return (figure.note if figure else None) or "undefined"
    bounds = format_range(figure.as_dict())
    return format_figure(figure.value) + (f" [{bounds}]" if bounds else "")


def _limits(info: "BundleInfo") -> str:
    """What the figures above do not show."""
    chosen = "Threshold and calibration were chosen on validation images, so figures there are " + (
        "slightly hopeful; those of the test set are not."
        if "test" in info.metrics
        else "hopeful, and no test set was given."
    )
    if info.recalibration is not None:
        chosen = (
            "Figures are of the images of the recalibration, each called by a threshold that was "
            "chosen on other patients."
        )
    return "\n".join(
        [
            "- Figures hold for images like those it was trained on. Another hospital, machine, "
            "age group or view can lower them: measure on your own labelled images first.",
            "- It tells two classes apart and knows no other finding; an image that is not a "
            "frontal chest X-ray gets a probability too. Scoring marks most of these: `scope.json` "
            "holds what the training images were like.",
            f"- {chosen}",
            "- Labels are those of the data set; their errors are in every figure.",
        ]
    )


def _table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, numbers to the right of the first column."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
