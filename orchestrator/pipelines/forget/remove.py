"""Removes found rows from every file of a run, and makes its report anew from what remains.

Each step gives the same when it is done again, so that a removal that was killed is continued by
what `forgotten.json` says is at work.
"""

import json
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.parquet import open_parquet, open_writer
from orchestrator.errors import DataError
from orchestrator.pipelines.forget.find import PatientRows, Traces, hash_files, iter_known_rows
from orchestrator.pipelines.forget.report import rebuild_report
from orchestrator.pipelines.review.corrections import keep_answers
from orchestrator.runs.atomic import write_json
from orchestrator.runs.folders import sync_folder
from orchestrator.runs.life_cycle import sweep
from orchestrator.runs.run_dir import RunDir


def load_record(run: RunDir) -> dict[str, Any]:
    """Returns a run's `forgotten.json`: `removed`, a list, and `at_work`, None where nothing is.

    Raises:
        DataError: it is damaged.
    """
    try:
        record: dict[str, Any] = json.loads(run.forgotten.read_text(encoding="utf-8"))
        return {"removed": list(record["removed"]), "at_work": record["at_work"]}
    except FileNotFoundError:
        return {"removed": [], "at_work": None}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run.forgotten} is damaged; restore it from a backup") from error


def begin(run: RunDir, found: PatientRows, traces: Traces, why: str) -> None:
    """Stores what is to be removed from a run, in numbers and hashes alone.

    What a killed command has left at work there is added to.
    """
    record = load_record(run)
    left = record["at_work"] or {"rows": {}, "row_numbers": [], "contents": [], "files": []}
    counts = {name: max(n, left["rows"].get(name, 0)) for name, n in found.counts.items()}
    record["at_work"] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "why": why,
        "rows": counts,
        "row_numbers": sorted({*left["row_numbers"], *found.rows}),
        "contents": sorted({*left["contents"], *traces.contents}),
        "files": sorted({*left["files"], *hash_files(traces.files)}),
    }
    write_json(run.forgotten, record)


def finish(run: RunDir) -> dict[str, int] | None:
    """Does the removal that is at work in a run; returns the rows by table, None without one.

    Raises:
        DataError: a table of the run is damaged.
        ClusterError: the file system refused a write.
    """
    record = load_record(run)
    plan = record["at_work"]
    if plan is None:
        return None
    sweep(run.path)  # what a killed writer has left may hold their rows
    rows = set(plan["row_numbers"])
    known = iter_known_rows(run, set(plan["contents"]), set(plan["files"]))
    _rewrite(run.known, {place for place, *_ in known}, None)
    for path in (run.shadow, *run.prediction_parts(), run.rejected):
        _rewrite(path, rows, "row")
    for row in rows:
        (run.heatmaps / f"{row:08d}.png").unlink(missing_ok=True)
    if run.heatmaps.exists():
        sync_folder(run.heatmaps)
    run.stored.unlink(
        missing_ok=True
    )  # names their objects; archives take none of the others twice
    run.worklist.unlink(missing_ok=True)  # `review` writes it again
    keep_answers(run, rows)
    _rewrite(run.manifest, rows, "row")
    kept = {name: plan[name] for name in ("at", "why", "rows")}
    removed = [*record["removed"], kept]
    rebuild_report(run, removed)
    write_json(run.forgotten, {"removed": removed, "at_work": None})
    counts: dict[str, int] = plan["rows"]
    return counts


def _rewrite(path: Path, going: Collection[int], column: str | None) -> None:
    """Writes a table without some rows, group for group; one that has none of them stays.

    Args:
        path: Parquet; it need not exist.
        going: values of the column, or places of rows where none is named.
        column: name of it.
    """
    if not path.exists() or not going:
        return
    file = open_parquet(path)
    gone = pa.array(sorted(going), pa.int64())
    groups, first = [], 0
    for number in range(file.num_row_groups):
        table = file.read_row_group(number)
        places = pa.array(range(first, first + table.num_rows), pa.int64())
        first += table.num_rows
        values = table[column] if column else places
        groups.append(table.filter(pc.invert(pc.is_in(values, gone))))
    if sum(table.num_rows for table in groups) == first:
        return
    with open_writer(path, file.schema_arrow, write_statistics=False) as writer:
        for table in groups:  # an empty one too: the manifest's are numbered by shard
            writer.write_table(table)
