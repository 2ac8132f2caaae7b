"""The report of a scoring run: its JSON form, and the page that a person reads.

Neither writes a file. The report of a training run is in `training_report.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from orchestrator.data.decode.rules import DECODE_NOTES, GREY_RULES
from orchestrator.data.schema import CLASS_NAMES
from orchestrator.errors import DataError
from orchestrator.evaluation.calibration import call_labels
from orchestrator.evaluation.metrics import evaluate
from orchestrator.evaluation.report import plots
from orchestrator.evaluation.report.heat_picture import list_heatmaps
from orchestrator.evaluation.report.page import (
    NEGATIVE,
    POSITIVE,
    build_view,
    list_facts,
    render,
)
from orchestrator.evaluation.report.review import build_review, view_review
from orchestrator.evaluation.report.scope import drift_view, scope_view
from orchestrator.evaluation.report.shadow import view_shadow
from orchestrator.evaluation.report.subgroups import view_subgroups
from orchestrator.evaluation.review_rule import ReviewRule
from orchestrator.evaluation.subgroups import measure_subgroups
from orchestrator.evaluation.tally import MAX_REJECTED_SHOWN, UNLABELLED, Tally
from orchestrator.evaluation.wording import INTENDED_USE, describe_rule


def build_report(
    tally: Tally,
    *,
    found: int,
    threshold_rule: str,
    overridden: Mapping[str, Any] | None = None,
    model: Mapping[str, Any],
    run: Mapping[str, Any],
    known: Sequence[Mapping[str, Any]] = (),
    ignored: int = 0,
    listing: Mapping[str, Any] | None = None,
    review_rules: Sequence[ReviewRule] = (),
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns report.json of a scoring run.

    Args:
        tally: the rows of this run.
        found: files found; each must be in the tally or have been processed before.
        threshold_rule: the rule behind the tally's threshold.
        overridden: value and rule of the model's own threshold where another one was given.
        model: facts about the bundle, JSON-able, among them `backbone` and `sha256`.
        run: facts about the run, JSON-able, such as run_id, engine and versions.
        known: files that earlier runs have processed, counted: each with `files` of a `root`, how
            they `matched`, and the `code` by which they were rejected, None where scored.
        ignored: names that the listing left out; none of them is a file found.
        listing: what else the listing noted, JSON-able.
        review_rules: of each model, what decides whether a person is to look.
        num_resamples: resamples of the intervals.
        seed: seed of the resamples.

    Returns:
        counts, known, listing, decoding (images by grey rule and by note), threshold,
        threshold_rule, overridden_threshold (None where it is the model's own), model, run,
        intended_use, review (None without a rule), num_images and num_patients of the labelled
        rows, metrics ({} without labels), confusion, interval and subgroups (as
        `measure_subgroups` gives them; None without).

    Raises:
        DataError: rows and files do not add up, or a probability is outside 0..1.
    """
    labels, probabilities = tally.labels, tally.probabilities
    scored_before = sum(row["files"] for row in known if row["code"] is None)
    rejected_before = sum(row["files"] for row in known if row["code"] is not None)
    accounted = probabilities.size + tally.num_rejected + scored_before + rejected_before
    if accounted != found:
        before = scored_before + rejected_before
        raise DataError(
            f"received {probabilities.size} scored and {tally.num_rejected} rejected rows "
            + (f"and {before} known from earlier runs " if before else "")
            + f"for {found} files found; expected every file exactly once; run the same command "
            "again"
        )
    labelled = labels != UNLABELLED
    evaluation: dict[str, Any] = {
        "num_images": 0,
        "num_patients": None,
        "metrics": {},
        "confusion": None,
        "interval": None,
        "subgroups": None,
    }
    if labelled.any():
        evaluation = evaluate(
            labels[labelled],
            probabilities[labelled],
            tally.threshold,
            tally.patients,
            num_resamples=num_resamples,
            seed=seed,
        ).as_dict()
        evaluation["subgroups"] = measure_subgroups(
            labels[labelled],
            probabilities[labelled],
            tally.threshold,
            tally.patients,
            tally.groups.dimensions(),
            seed,
        )
    counts = {
        "found": found,
        "scored": int(probabilities.size),
        "rejected": tally.num_rejected,
        "scored_before": scored_before,
        "rejected_before": rejected_before,
        "ignored": ignored,
        "rejected_by_code": _by_count(tally.codes),
        "called": _by_class(call_labels(probabilities, tally.threshold)),
        "labelled": _by_class(labels),
    }
    return {
        "kind": "score",
        "counts": counts,
        "known": list(known),
        "listing": dict(listing or {}),
        "decoding": {
            "grey_rules": _by_count(tally.grey_rules),
            "notes": _by_count(tally.decode_notes),
        },
        **evaluation,
        "review": build_review(tally, review_rules),
        "threshold": tally.threshold,
        "threshold_rule": threshold_rule,
        "overridden_threshold": None if overridden is None else dict(overridden),
        "model": dict(model),
        "run": dict(run),
        "intended_use": INTENDED_USE,
    }


def render_html(report: Mapping[str, Any], tally: Tally, thumbnails: Sequence[str] = ()) -> str:
    """Returns report.html of a scoring run: one page without scripts or outside files.

    Args:
        report: from `build_report`.
        tally: what it was built from.
        thumbnails: `data:` addresses of small heat maps, one for each of `report["heatmaps"]`.

    Returns:
        HTML, all text from the tables escaped.
    """
    labels, probabilities = tally.labels, tally.probabilities
    labelled = labels != UNLABELLED
    has_labels = report["confusion"] is not None
    recalibrated = "recalibrated" in report["model"]
    images = "labelled images of one site" if recalibrated else "validation images"
    own = report["overridden_threshold"]
    view = (
        build_view(report, labels[labelled], probabilities[labelled], "score")
        if has_labels
        else None
    )
    return render(
        "report.html.j2",
        report=report,
        view=view,
        subtitle=_subtitle(report),
        label_line=_label_line(report),
        own_rule=describe_rule(own["rule"], images) if own else None,
        subgroups=view_subgroups(report["subgroups"]),
        **_histogram(report, labels, probabilities),
        **_image_lists(tally),
        heatmaps=list_heatmaps(report, thumbnails),
        **_rejected_lists(tally),
        scope=scope_view(report),
        drift=drift_view(report),
        review=view_review(report["review"]) if report["review"] else None,
        shadow=view_shadow(report),
        grey_rules=_explained(report["decoding"]["grey_rules"], GREY_RULES),
        decode_notes=_explained(report["decoding"]["notes"], DECODE_NOTES),
        model_facts=list_facts(
            {
                **report["model"],
                "threshold": report["threshold"],
                "threshold chosen by": describe_rule(report["threshold_rule"], images),
            }
        ),
        run_facts=list_facts(report["run"]),
    )


def _by_class(values: npt.NDArray[np.int8]) -> dict[str, int]:
    return {name: int(np.sum(values == label)) for label, name in enumerate(CLASS_NAMES)}


def _by_count(words: Mapping[str, int]) -> dict[str, int]:
    """Counts by word, the most frequent first, then by name."""
    return dict(sorted(words.items(), key=lambda item: (-item[1], item[0])))


def _subtitle(report: Mapping[str, Any]) -> str:
    parts = [report["run"].get("run_id"), report["run"].get("started_at")]
    parts.append(f"model {report['model']['backbone']}")
    return " · ".join(str(part) for part in parts if part)


def _label_line(report: Mapping[str, Any]) -> str:
    counts = report["counts"]
    labelled = counts["labelled"]
    line = f"Labels: {labelled[POSITIVE]:,} {POSITIVE} and {labelled[NEGATIVE]:,} {NEGATIVE}."
    missing = counts["scored"] - sum(labelled.values())
    return line + (
        f" {missing:,} scored images carry no label and are left out." if missing else ""
    )


def _histogram(
    report: Mapping[str, Any],
    labels: npt.NDArray[np.int8],
    probabilities: npt.NDArray[np.float32],
) -> dict[str, Any]:
    """The probability histogram, by label where any image has one, and its caption."""
    labelled = labels != UNLABELLED
    threshold = report["threshold"]
    if not labels.size:
        return {"histogram": None, "histogram_caption": ""}
    caption = (
        "Images at or right of the dashed line are called PNEUMONIA. Heights are on a square-root "
        "scale, so that a few images stay visible beside many."
    )
    shown, of_class = probabilities, None
    if labelled.any():
        shown, of_class = probabilities[labelled], labels[labelled]
        caption += f" {shown.size:,} labelled images, by label."
    svg = plots.histogram(shown, of_class, threshold, "score-histogram")
    return {"histogram": Markup(svg), "histogram_caption": caption}


def _image_lists(tally: Tally) -> dict[str, Any]:
    """The images nearest to the threshold, and those most wrong of either kind."""
    words = {
        "uncertain": "images, nearest first",
        "missed": "missed images, lowest probability first",
        "alarms": "false alarms, highest probability first",
    }
    lists: dict[str, Any] = {}
    for name, images in tally.images.items():
        lists[name] = [
            {
                "path": image["path"],
                "label": CLASS_NAMES[image["label"]] if image["label"] != UNLABELLED else None,
                "called": CLASS_NAMES[image["called"]],
                "probability": image["probability"],
            }
            for image in images
        ]
        lists[f"{name}_line"] = (
            f"{len(images):,} of {tally.image_counts[name]:,} {words[name]}. All are in "
            "predictions/."
        )
    return lists


def _explained(counts: Mapping[str, int], meanings: Mapping[str, str]) -> list[dict[str, Any]]:
    """Words with their counts and what they mean."""
    return [
        {"word": word, "count": count, "meaning": meanings[word]} for word, count in counts.items()
    ]


def _rejected_lists(tally: Tally) -> dict[str, Any]:
    """One line a code, and a bounded list of files in which every code has its part."""
    counts = _by_count(tally.codes)
    rows: list[dict[str, Any]] = []
    room = MAX_REJECTED_SHOWN
    for rank, code in enumerate(reversed(counts)):  # the rarest first: what it leaves is shared
        quota = min(counts[code], max(1, room // (len(counts) - rank)))
        rows += tally.rejected_rows[code][:quota]
        room -= quota
    rows.sort(key=lambda row: row["row"])
    kinds = [
        {"code": code, "count": count, "message": tally.rejected_rows[code][0]["message"]}
        for code, count in counts.items()
    ]
    line = f"{len(rows):,} of {tally.num_rejected:,} rejected files. "
    return {
        "rejected_kinds": kinds,
        "rejected_rows": rows,
        "rejected_line": line + "The full table is rejected.parquet in the run folder.",
    }
