"""The model card: `README.md` of a bundle, written from its metadata and its `scope.json` alone.

The same for programs is in `card_data.py`. Over 300 lines, one function a section.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.evaluation.report.subgroups import view_subgroups
from orchestrator.evaluation.review_rule import describe_review
from orchestrator.evaluation.subgroups import TESTED
from orchestrator.evaluation.wording import (
    METRIC_TITLES,
    describe_change,
    describe_rule,
    format_figure,
    format_range,
    metric_title,
)
from orchestrator.model.reproduce import reproduce

if TYPE_CHECKING:
    from orchestrator.evaluation.figures import Interval
    from orchestrator.model.bundle import BundleInfo, Quantized

_LAYOUTS = {
    "train+test": "The test images are those of the input's own test folder. Its train folder was "
    "divided into train and validation.",
    "train": "The input had a train folder, which was divided into train and validation; there is "
    "no test set.",
    "pool": "The images were divided into train, validation and test.",
    "column": "The splits are those of the table that named the images.",
}
_FINDINGS = {
    "same_patient": "patients in more than one split",
    "same_bytes": "identical files in more than one split",
    "near_duplicate": "pairs of look-alike images in different splits",
    "possible": "equal patient numbers in names of different splits, which prove nothing alone",
}

_OLDER = "Not measured: an earlier version of this program trained the network."


def render_card(info: "BundleInfo", scope: Mapping[str, Any] | None = None) -> str:
    """Returns the model card as Markdown.

    Args:
        info: the bundle's metadata; `files` is not used.
        scope: content of its `scope.json`, where it has one.

    Returns:
        Text that ends in a newline.
    """
    negative, positive = info.class_names
    sections = {
        f"# {info.backbone}: {negative} or {positive} on chest X-rays": info.intended_use,
        "## What it is for": _scope(info, scope or {}),
        "## What it is": _facts(info),
        "## Where it comes from": _lineage(info),
        "## Operating point": _operating_point(info),
        "## Calibration": _calibration(info),
        "## Left to a person": describe_review(info.review) if info.review else "",
        "## In int8": _int8(info.int8) if info.int8 else "",
        "## Training data": _counts(info),
        "## How it did": _metrics(info),
        "## Groups and cohorts": _groups(info),
        "## Shifted copies": _shifts(info),
        "## Limits": _limits(info),
        "## How to make it again": _reproduce(info),
        "## Files": "`model.keras` maps grey images [N, S, S, 1] with levels 0..255 to the "
        "uncalibrated probability; `openvino.xml` maps uint8 [N, S, S] to the logit; `bundle.json` "
        "holds all of this for programs, with the SHA-256 of every file; `card.json` holds it in "
        "the fields of Hugging Face's model cards.",
    }
    return "\n\n".join(f"{title}\n\n{text}" for title, text in sections.items() if text) + "\n"


def _operating_point(info: "BundleInfo") -> str:
    """The threshold, by what rule it was chosen, and on which images."""
    rule = describe_rule(info.threshold.rule, _images(info))
    called = (
        f"An image is called {info.class_names[1]} where its calibrated probability is at least "
        f"{info.threshold.value:.4f} (chosen by: {info.threshold.rule}, {rule})."
    )
    return f"{called} {_chosen_on(info)}".rstrip()


def _images(info: "BundleInfo") -> str:
    """The images by which the threshold was chosen, as `describe_rule` takes them."""
    return "validation images" if info.recalibration is None else "labelled images of one site"


def _scope(info: "BundleInfo", scope: Mapping[str, Any]) -> str:
    """Whom and what it was made for, as far as the training images say."""
    lines = [
        "Frontal chest X-rays of patients like those that it was trained on.",
        f"- Population: {info.data.population or 'not stated'}",
    ]
    for name, words in scope.get("words", {}).items():
        counts = ", ".join(f"{word} {number:,}" for word, number in words.items())
        lines.append(f"- {name.replace('_', ' ').capitalize()} in the headers: {counts}")
    if ages := scope.get("ages"):
        lines.append(f"- Age: {ages[1]:g} to {ages[-2]:g} years (98% of the training images)")
    if aspects := scope.get("aspects"):
        lines.append(f"- Width over height: {aspects[0]:.2f} to {aspects[1]:.2f}")
    lines.append("- Scoring marks images of another kind (`scope.json`), and may reject them.")
    return "\n".join(lines[:1]) + "\n\n" + "\n".join(lines[1:])


def _lineage(info: "BundleInfo") -> str:
    """The bundles that it comes from, the trained one first."""
    if info.parent is None:
        return f"Trained on {info.created}; its network is of no other bundle."
    lines = [
        f"- `{one.sha256}`: "
        + ("recalibrated" if one.num_images is not None else "quantised" if number else "trained")
        + f" on {one.date}"
        + ("" if one.num_images is None else f", on {one.num_images:,} labelled images")
        + f"; threshold {one.threshold.value:.4f} (`{one.threshold.rule}`)"
        for number, one in enumerate(info.ancestors)
    ] or [f"- `{info.parent}`"]
    found = info.recalibration
    if found is not None:
        lines.append(
            f"- This bundle: recalibrated on {found.date}, on {found.num_images:,} labelled "
            f"images; threshold {info.threshold.value:.4f} (`{info.threshold.rule}`)"
        )
    elif info.int8 is not None:
        lines.append(f"- This bundle: quantised on {info.int8.date}")
    listed = "\n".join(lines)
    return (
        f"The network is that of these, the last one being the parent of this bundle:\n\n{listed}"
    )


def _chosen_on(info: "BundleInfo") -> str:
    """By which images curve and threshold were chosen."""
    found = info.recalibration
    if found is None:
        return ""
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
        f"`openvino_int8.xml` is the same network in int8, made on {found.date}. With `--precision "
        f"int8` the threshold is {found.threshold.value:.4f}, and probability = "
        f"sigmoid({found.calibration.slope:.4f} x logit + {found.calibration.intercept:.4f}). "
        f"Against float32: {change} (95% intervals); {found.speed:.2f} times the images a second, "
        f"on a CPU with {found.arithmetic}."
    )


def _calibration(info: "BundleInfo") -> str:
    """The curve from logit to probability, and how it was fitted."""
    curve = (
        f"Probability = sigmoid({info.calibration.slope:.4f} x logit + "
        f"{info.calibration.intercept:.4f})"
    )
    found = info.recalibration
    if found is not None and found.calibration == "platt":
        fitted = "fitted to the labelled images of the recalibration (Platt scaling)"
    elif info.training.get("calibration") == "none":
        fitted = "the network's own"
    else:
        fitted = "fitted to the validation images of the training (Platt scaling)"
    return f"{curve}, {fitted}. Log loss and Brier score below are of these probabilities."


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
    """Images by split and class, how they were divided, and what the audit found."""
    header = ["split", *info.class_names, "all", f"share of {info.class_names[1]}"]
    rows = []
    for split, by_class in info.data.counts.items():
        numbers = [by_class.get(name, 0) for name in info.class_names]
        share = f"{numbers[1] / sum(numbers):.1%}" if sum(numbers) else ""
        rows.append([split, *(f"{number:,}" for number in (*numbers, sum(numbers))), share])
    parts = [_table(header, rows), f"Fingerprint: `{info.data.fingerprint}`"]
    if info.evidence is not None:
        parts += [_LAYOUTS.get(info.evidence.layout, ""), _audit(info.evidence.audit)]
    return "\n\n".join(part for part in parts if part)


def _audit(audit: Mapping[str, Any]) -> str:
    """The leakage audit, as a list."""
    lines = [f"- {audit[kind]:,} {what}" for kind, what in _FINDINGS.items()]
    if unknown := audit.get("images_without_patient", 0):
        lines.append(f"- {unknown:,} images of unknown patients, which may be in several splits")
    if files := audit.get("files"):
        codes = ", ".join(
            f"{code} {number:,}" for code, number in files["rejected_by_code"].items()
        )
        lines.append(
            f"- {files['rejected']:,} of {files['found']:,} files could not be used"
            + (f": {codes}" if codes else "")
        )
    judged = (
        "**Images of one patient, or one image twice, lie in several splits: the figures below "
        "flatter the model.**"
        if audit["blocking"]
        else "None of this is proven leakage."
    )
    return "Leakage audit:\n\n" + "\n".join(lines) + f"\n\n{judged}"


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
    return _bracketed(figure.as_dict())


def _bracketed(figure: Mapping[str, Any]) -> str:
    bounds = format_range(figure)
    return format_figure(figure["value"]) + (f" [{bounds}]" if bounds else "")


def _groups(info: "BundleInfo") -> str:
    """The figures of every group, and the worst one."""
    found = None if info.evidence is None else view_subgroups(info.evidence.subgroups)
    if info.evidence is None or found is None:
        return _OLDER
    of = f"Of the {info.evidence.judged_on} images of the training{_at_threshold(info)}."
    if not found["dimensions"]:
        return (
            f"{of} They do not differ in site folder, age, sex, view, device or image size, as far "
            "as is known: there are no groups to compare."
        )
    tables = [
        f"### {dimension['title']}\n\n"
        + _table(
            ["group", "images", "patients", *found["titles"]],
            [
                [
                    group["name"],
                    f"{group['num_images']:,}",
                    group["patients"],
                    *(_of_group(figure) for figure in group["figures"]),
                ]
                for group in dimension["groups"]
            ],
        )
        for dimension in found["dimensions"]
    ]
    method = found["method_line"].replace("Grey figures", "Figures")
    numbered = "Folders are numbered; the report of the training's run has their names."
    return "\n\n".join([f"{of} {found['answer']}", *tables, f"{method} {numbered}"])


def _of_group(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "undefined"
    mark = " **worse**" if figure["is_worse"] else " few" if figure["is_small"] else ""
    return _bracketed(figure) + mark


def _at_threshold(info: "BundleInfo") -> str:
    """At which threshold the training measured, where that is no longer the bundle's."""
    if not info.ancestors:
        return ""
    return f", at its threshold of {info.ancestors[0].threshold.value:.4f}"


def _shifts(info: "BundleInfo") -> str:
    """The figures of shifted copies of images."""
    if info.evidence is None:
        return _OLDER
    if not info.evidence.shifts:
        return (
            "Not measured: the head was trained on cached features, not on images. `python -m "
            "benchmarks.robustness DATA --bundle BUNDLE` measures it."
        )
    rows = [
        [name, *(_figure(figures.get(metric)) for metric in TESTED)]
        for name, figures in info.evidence.shifts.items()
    ]
    return (
        f"{info.evidence.num_shifted:,} of the {info.evidence.judged_on} images of the training, "
        f"altered as another site's machines and habits may do{_at_threshold(info)}:\n\n"
        + _table(["shift", *map(metric_title, TESTED)], rows)
    )


def _limits(info: "BundleInfo") -> str:
    """What the figures above do not show."""
    chosen = "Threshold and calibration were chosen on validation images, so figures there are " + (
        "slightly optimistic; those of the test set are not."
        if "test" in info.metrics
        else "optimistic, and no test set was given."
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


def _reproduce(info: "BundleInfo") -> str:
    """The command, and what it takes to have the same result."""
    images = "`DATA` holds the images of the fingerprint above."
    if info.recalibration is not None:
        images = (
            f"`PARENT` is the bundle `{info.parent}`, and `LABELLED` holds the images of the "
            f"fingerprint `{info.recalibration.fingerprint}`."
        )
    return f"```sh\n{reproduce(info)}\n```\n\n{images} The libraries are those listed above."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right of the first column."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
