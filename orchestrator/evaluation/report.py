"""The report of a scoring run: its JSON form, and the page that a person reads.

Neither writes a file. The report of a training run is in `training_report.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from markupsafe import Markup

from orchestrator.data.schema import CLASS_NAMES
from orchestrator.errors import DataError
from orchestrator.evaluation import plots
from orchestrator.evaluation.calibration import Threshold, predict
from orchestrator.evaluation.metrics import evaluate
from orchestrator.evaluation.page import (
    INTENDED_USE,
    NEGATIVE,
    POSITIVE,
    build_view,
    describe_rule,
    list_facts,
    render,
)

MAX_REJECTED_SHOWN = 100  # rows in the page; the table in the run folder holds all
MAX_IMAGES_SHOWN = 10
_UNLABELLED = -1


def build_report(
    predictions: pa.Table,
    rejected: pa.Table,
    *,
    found: int,
    threshold: Threshold,
    model: Mapping[str, Any],
    run: Mapping[str, Any],
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns report.json of a scoring run.

    Args:
        predictions: columns patient_id, label and probability of `schema.PREDICTIONS`.
        rejected: column code of `schema.REJECTED`.
        found: files found; must be the rows of both tables together.
        threshold: the operating point in use and the rule behind it.
        model: facts about the bundle, JSON-able, among them `backbone` and `sha256`.
        run: facts about the run, JSON-able, such as run_id, engine and versions.
        num_resamples: resamples of the intervals.
        seed: seed of the resamples.

    Returns:
        counts, threshold, threshold_rule, model, run, intended_use, num_images and num_patients
        of the labelled rows, metrics ({} without labels), confusion and interval (None without).

    Raises:
        DataError: rows and files do not add up, or a probability is outside 0..1.
    """
    labels, probabilities = _columns(predictions)
    if probabilities.size + rejected.num_rows != found:
        raise DataError(
            f"received {probabilities.size} scored and {rejected.num_rows} rejected rows for "
            f"{found} files found; expected every file exactly once; run the same command again"
        )
    labelled = labels != _UNLABELLED
    evaluation: dict[str, Any] = {
        "num_images": 0,
        "num_patients": None,
        "metrics": {},
        "confusion": None,
        "interval": None,
    }
    if labelled.any():
        groups = np.array(predictions.column("patient_id").to_pylist(), object)[labelled]
        evaluation = evaluate(
            labels[labelled],
            probabilities[labelled],
            threshold.value,
            groups,
            num_resamples=num_resamples,
            seed=seed,
        ).as_dict()
    counts = {
        "found": found,
        "scored": int(probabilities.size),
        "rejected": rejected.num_rows,
        "rejected_by_code": _count_codes(rejected),
        "called": _by_class(predict(probabilities, threshold.value)),
        "labelled": _by_class(labels),
    }
    return {
        "kind": "score",
        "counts": counts,
        **evaluation,
        "threshold": threshold.value,
        "threshold_rule": threshold.rule,
        "model": dict(model),
        "run": dict(run),
        "intended_use": INTENDED_USE,
    }


def render_html(report: Mapping[str, Any], predictions: pa.Table, rejected: pa.Table) -> str:
    """Returns report.html of a scoring run: one page without scripts or outside files.

    Args:
        report: from `build_report`.
        predictions: columns path, label and probability of `schema.PREDICTIONS`.
        rejected: columns path, code and message of `schema.REJECTED`.

    Returns:
        HTML, all text from the tables escaped.
    """
    labels, probabilities = _columns(predictions)
    labelled = labels != _UNLABELLED
    has_labels = report["confusion"] is not None
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
        **_histogram(report, labels, probabilities),
        **_image_lists(report, predictions.column("path"), labels, probabilities),
        **_rejected_lists(rejected),
        model_facts=list_facts(
            {
                **report["model"],
                "threshold": report["threshold"],
                "threshold chosen by": describe_rule(report["threshold_rule"]),
            }
        ),
        run_facts=list_facts(report["run"]),
    )


def _columns(predictions: pa.Table) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Labels with `_UNLABELLED` for null, and probabilities."""
    labels = predictions.column("label").fill_null(_UNLABELLED).to_numpy().astype(np.int8)
    return labels, predictions.column("probability").to_numpy().astype(np.float32)


def _by_class(values: npt.NDArray[np.int8]) -> dict[str, int]:
    return {name: int(np.sum(values == label)) for label, name in enumerate(CLASS_NAMES)}


def _count_codes(rejected: pa.Table) -> dict[str, int]:
    """Rejected rows by code, the most frequent first, then by name."""
    counts: dict[str, int] = {}
    for entry in rejected.column("code").value_counts().to_pylist():
        counts[entry["values"]] = entry["counts"]
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


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
    labelled = labels != _UNLABELLED
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


def _image_lists(
    report: Mapping[str, Any],
    paths: pa.ChunkedArray,
    labels: npt.NDArray[np.int8],
    probabilities: npt.NDArray[np.float32],
) -> dict[str, Any]:
    """The images nearest to the threshold, and those most wrong of either kind."""
    distance = probabilities.astype(np.float64) - report["threshold"]
    called = predict(probabilities, report["threshold"])
    everything = np.arange(labels.size)
    chosen = {
        "uncertain": (everything, np.abs(distance), "images, nearest first"),
        "missed": (
            np.flatnonzero((labels == 1) & (called == 0)),
            distance,
            "missed images, lowest probability first",
        ),
        "alarms": (
            np.flatnonzero((labels == 0) & (called == 1)),
            -distance,
            "false alarms, highest probability first",
        ),
    }
    lists: dict[str, Any] = {}
    for name, (rows, badness, words) in chosen.items():
        order = rows[np.argsort(badness[rows], kind="stable")][:MAX_IMAGES_SHOWN]
        lists[name] = [
            {
                "path": paths[int(row)].as_py(),
                "label": CLASS_NAMES[labels[row]] if labels[row] != _UNLABELLED else "–",
                "called": CLASS_NAMES[called[row]],
                "probability": float(probabilities[row]),
            }
            for row in order
        ]
        lists[f"{name}_line"] = f"{order.size:,} of {rows.size:,} {words}. All are in predictions/."
    return lists


def _rejected_lists(rejected: pa.Table) -> dict[str, Any]:
    """One line a code, and a bounded list of files in which every code has its part."""
    counts = _count_codes(rejected)
    quota, room = {}, MAX_REJECTED_SHOWN
    for rank, code in enumerate(reversed(counts)):  # the rarest first: what it leaves is shared
        quota[code] = min(counts[code], max(1, room // (len(counts) - rank)))
        room -= quota[code]
    kinds: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    seen = dict.fromkeys(counts, 0)
    for row in _rows(rejected):
        code = row["code"]
        if seen[code] == 0:
            kinds.append({"code": code, "count": counts[code], "message": row["message"]})
        if seen[code] < quota[code]:
            rows.append(row)
        seen[code] += 1
    kinds.sort(key=lambda kind: list(counts).index(kind["code"]))
    line = f"{len(rows):,} of {rejected.num_rows:,} rejected files. "
    return {
        "rejected_kinds": kinds,
        "rejected_rows": rows,
        "rejected_line": line + "The full table is rejected.parquet in the run folder.",
    }


def _rows(rejected: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows of the columns a reader sees, a batch at a time, so that millions fit."""
    for batch in rejected.select(["path", "code", "message"]).to_batches(max_chunksize=4096):
        yield from batch.to_pylist()
