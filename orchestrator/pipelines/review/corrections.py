"""Takes a reader's answers into a run: table, agreement, metrics, and labels to train with."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.listing.csv_text import describe_header, open_text_table, shown_name
from orchestrator.data.manifest import open_manifest_file
from orchestrator.data.parquet import open_parquet, write_parquet
from orchestrator.data.pseudonym import HASHED
from orchestrator.data.schema import CLASS_NAMES, unescape_path
from orchestrator.errors import DataError
from orchestrator.evaluation.agreement import measure_agreement
from orchestrator.evaluation.bootstrap import cluster_rows
from orchestrator.evaluation.metrics import evaluate
from orchestrator.evaluation.report.worklist_page import UNSURE
from orchestrator.pipelines.review.scored_run import ScoredRun, open_scored
from orchestrator.runs.atomic import write_json
from orchestrator.runs.folders import sync_folder
from orchestrator.runs.lock import hold
from orchestrator.runs.run_dir import RunDir

_ANSWERS = {name: label for label, name in enumerate(CLASS_NAMES)} | {UNSURE: None}
_NEEDED = ("row", "sha256", "answer")


@dataclass(frozen=True)
class Answer:
    """What a reader says of an image.

    Args:
        label: 0 NORMAL, 1 PNEUMONIA, None for unsure.
        reviewed_at: when, as the export has it; may be empty.
    """

    label: int | None
    reviewed_at: str


@dataclass(frozen=True)
class ReviewResult:
    """What an import wrote.

    Args:
        run: folder of the run.
        report: as in `corrections.json`.
        corrections: the table of answers.
        corrected: the table of labels; None where paths were hashed, so that it names no file.
    """

    run: Path
    report: dict[str, Any]
    corrections: Path
    corrected: Path | None


def import_corrections(folder: Path, source: Path) -> ReviewResult:
    """Takes the export of a worklist into its run; an earlier import is replaced.

    Args:
        folder: of the run.
        source: the CSV file.

    Returns:
        What was written.

    Raises:
        DataError: no finished scoring run, or a line of the file is not an answer to its images.
        LockedError: another process works in the run.
        ClusterError: the file system refused a write.
    """
    scored = open_scored(folder)
    answers = load_answers(source, scored.table)
    with hold(scored.run.path):
        return _store_answers(scored, answers)


def keep_answers(run: RunDir, going: Collection[int]) -> None:
    """Makes an earlier import anew without some rows of the predictions, which are gone already.

    Args:
        run: the run, held; it need not have any answer.
        going: the rows.
    """
    if not run.corrections.exists():
        return
    stored = open_parquet(run.corrections).read().to_pylist()
    answers = {
        row["row"]: Answer(row["answer"], row["reviewed_at"])
        for row in stored
        if row["row"] not in going
    }
    if answers:
        _store_answers(open_scored(run.path), answers)
        return
    for path in (run.corrected, run.corrections_json, run.corrections):
        path.unlink(missing_ok=True)
    sync_folder(run.path)


def _store_answers(scored: ScoredRun, answers: dict[int, Answer]) -> ReviewResult:
    """Writes what answers say of a run, which is held."""
    places = pc.index_in(pa.array(answers, pa.int64()), scored.table["row"].combine_chunks())
    labels = scored.table["label"].to_numpy().astype(np.float64)  # NaN where there is none
    corrected = labels.copy()
    read = np.array([a.label for a in answers.values()], np.float64)  # NaN where unsure
    sure = ~np.isnan(read)
    rows = places.to_numpy()
    corrected[rows[sure]] = read[sure]
    report = _report(scored, labels, corrected, rows, read)
    run = scored.run
    write_parquet(run.corrections, _answer_table(scored, rows, answers))
    table = _label_table(scored, corrected, rows[~sure])
    if table is None:
        run.corrected.unlink(missing_ok=True)
    else:
        write_parquet(run.corrected, table)
    write_json(run.corrections_json, report)
    return ReviewResult(run.path, report, run.corrections, run.corrected if table else None)


def load_answers(source: Path, table: pa.Table) -> dict[int, Answer]:
    """Returns the answers of an exported file by row of the predictions.

    Args:
        source: CSV, as the worklist exports it or a spreadsheet saves it.
        table: the predictions, with `row` and `sha256`.

    Raises:
        DataError: unreadable, no answer in it, or the first line that is not one: its number, what
            was received and what was expected.
    """
    name = shown_name(source)

    def understands(names: list[str]) -> bool:
        return set(_NEEDED) <= {text.strip().lower() for text in names}

    separated_by, header, records = open_text_table(source, understands)
    if not understands(header):
        raise DataError(
            f"{name} has no columns {', '.join(_NEEDED)}; {describe_header(header, separated_by)}; "
            "expected what a worklist exports"
        )
    columns = [text.strip().lower() for text in header]
    known = dict(zip(table["row"].to_pylist(), table["sha256"].to_pylist(), strict=True))
    answers: dict[int, Answer] = {}
    for line, fields in records:
        values = dict(zip(columns, (field.strip() for field in fields), strict=False))
        problem = _check(values, len(fields) - len(columns), known, answers)
        if problem:
            raise DataError(f"{name}, line {line}: {problem}")
        if values["answer"]:
            label = _ANSWERS[values["answer"].upper()]
            answers[int(values["row"])] = Answer(label, values.get("reviewed_at", ""))
    if not answers:
        raise DataError(
            f"{name} holds no answer; read some images on the worklist and export again"
        )
    return answers


def _check(
    values: dict[str, str], surplus: int, known: dict[int, str], answers: dict[int, Answer]
) -> str | None:
    """Returns what is wrong with a line, None where nothing is."""
    if surplus:
        return f"received {abs(surplus)} values too {'many' if surplus > 0 else 'few'}"
    row, answer = values["row"], values["answer"]
    if not (row.isascii() and row.isdigit()) or int(row) not in known:
        return f"row {row[:20]!r} is no row of this run's predictions; export from its own worklist"
    if values["sha256"].lower() != known[int(row)]:
        return f"row {row} has another sha256 in this run; export from its own worklist"
    if answer and answer.upper() not in _ANSWERS:
        return f"answer {answer[:20]!r}; expected {', '.join(_ANSWERS)} or nothing"
    return f"row {row} appears twice; keep one of the lines" if int(row) in answers else None


def _report(scored: ScoredRun, labels: Any, corrected: Any, rows: Any, read: Any) -> dict[str, Any]:
    """What the reader, the labels and the model say of each other, JSON-able."""
    sure = ~np.isnan(read)
    rows, read = rows[sure], read[sure].astype(np.int8)
    of_label = ~np.isnan(labels[rows])
    patients = np.array(scored.table["patient_id"].to_pylist(), object)
    called = scored.table["predicted"].to_numpy()[rows]
    others = {"labels": (of_label, labels[rows]), "model": (np.ones(len(rows), bool), called)}
    return {
        "kind": "review",
        "num_answers": len(sure),
        "num_unsure": int(np.sum(~sure)),
        "answers": {name: int(np.sum(read == label)) for label, name in enumerate(CLASS_NAMES)},
        "num_changed": int(np.sum(labels[rows][of_label] != read[of_label])),
        "agreement": {
            name: measure_agreement(
                read[which],
                other[which].astype(np.int8),
                cluster_rows(patients[rows][which], int(which.sum())),
            ).as_dict()
            for name, (which, other) in others.items()
            if which.any()
        },
        "before": _evaluate(scored, labels, patients),
        "after": _evaluate(scored, corrected, patients),
        "threshold": scored.threshold,
    }


def _evaluate(scored: ScoredRun, labels: Any, patients: Any) -> dict[str, Any] | None:
    known = ~np.isnan(labels)
    if not known.any():
        return None
    probabilities = scored.table["probability"].to_numpy()[known]
    return evaluate(
        labels[known].astype(np.int8), probabilities, scored.threshold, patients[known]
    ).as_dict()


def _answer_table(scored: ScoredRun, rows: Any, answers: dict[int, Answer]) -> pa.Table:
    """One row an answer: the image, what it was labelled and called, what the reader says."""
    kept = ["row", "root", "path", "sha256", "patient_id", "label", "probability", "predicted"]
    table = scored.table.select(kept).take(pa.array(rows))
    given = list(answers.values())
    table = table.append_column("answer", pa.array([a.label for a in given], pa.int8()))
    return table.append_column("reviewed_at", pa.array([a.reviewed_at for a in given]))


def _label_table(scored: ScoredRun, corrected: Any, unsure: Any) -> pa.Table | None:
    """Path, label, patient and split of the images that have a label now, those unsure left out."""
    known = ~np.isnan(corrected)
    known[unsure] = False
    table = scored.table.filter(pa.array(known))
    if any(path.startswith(HASHED) for path in table["path"].to_pylist()):
        return None
    roots = open_manifest_file(scored.run.manifest).roots
    named = zip(table["root"].to_pylist(), table["path"].to_pylist(), strict=True)
    columns = {
        "path": pa.array([_join(roots[root], path) for root, path in named], pa.binary()),
        "label": pa.array(corrected[known].astype(np.int8)),
        "patient_id": table["patient_id"],
        "split": table["split"],
    }
    if not columns["split"].null_count < table.num_rows:
        del columns["split"]
    return pa.table(columns)


def _join(root: bytes, path: str) -> bytes:
    """The whole path of a file, or its address."""
    return os.path.join(root, unescape_path(path))  # noqa: PTH118 - a path of bytes
