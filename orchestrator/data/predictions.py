"""Predictions of finished scoring runs as one pandas table, for analyses of one's own."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.manifest import open_manifest_file
from orchestrator.data.parquet import open_parquet
from orchestrator.data.schema import PREDICTIONS, escape_path
from orchestrator.errors import DataError, NewerRunError, OrchestratorError
from orchestrator.runs.run_dir import RunDir

if TYPE_CHECKING:
    import pandas as pd

# What the listing knows of a file, and so is not known of a copy under another name.
_OF_NAME = ["patient_id", "label", "split"]


def read_predictions(path: str | os.PathLike[str], *, latest: bool = False) -> "pd.DataFrame":
    """Returns the predictions of one scoring run, or of all finished ones in a folder of runs.

    Unfinished runs are left out, and so are folders that are no scoring run's.

    Args:
        path: folder of a run, or a folder of runs such as that of `score --out-root`.
        latest: each file once, as the newest run that scored it has it. Where a run did not score
            a file since an earlier one had scored the same bytes, that prediction counts as its
            own, and patient, label and split are missing if the bytes had another name there.
            Paths that `--hash-paths` hashed are the same in two runs only under one patient key.

    Returns:
        One row per image, the oldest run first, or with `latest` in the order of paths: `run_id`
        (name of the run's folder), then the columns of a run's predictions: `row` (Int64), `root`
        and `path` (text, escaped as in the run's tables), `patient_id`, `label` (Int8: 0 NORMAL,
        1 PNEUMONIA, missing where unknown), `split`, `sha256`, `width_px` and `height_px` (Int32),
        `grey_rule` and `decode_notes` (text, missing in runs of earlier versions),
        `logit` and `probability` (float32, of PNEUMONIA) and `predicted` (Int8); with several
        models also `probability_1` and so on; what `--dicom-columns` kept, missing in other runs.

    Raises:
        DataError: no finished scoring run there, or one that cannot be read.
    """
    folder = Path(path)
    runs = find_finished(folder)
    tables = [_read(run, _load_predictions) for run in runs]
    frame = _to_pandas(pa.concat_tables(tables, promote_options="default"))
    return _keep_latest(frame, runs) if latest else frame


def find_finished(folder: Path) -> list[RunDir]:
    """Returns the finished scoring runs in a folder, or that folder as the one run; oldest first.

    Raises:
        DataError: there is none.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name a scoring run or a folder of runs")
    own = RunDir(folder.resolve())
    found = [own] if _is_scoring(own) else [RunDir(f.resolve()) for f in sorted(folder.iterdir())]
    found = [run for run in found if _is_scoring(run)]
    finished = [run for run in found if run.success.exists()]
    if not finished:
        unfinished = f", {len(found)} unfinished" if found else ""
        raise DataError(
            f"{folder} holds no finished scoring run{unfinished}; name the folder of one, as "
            "`orchestrator score` prints it, or a folder of such folders"
        )
    return sorted(finished, key=lambda run: (ended_at(run), run.path.name))


def load_report(run: RunDir) -> dict[str, Any]:
    """Returns report.json of a finished scoring run.

    Raises:
        DataError: it is not there, or cannot be read.
    """
    try:
        report: dict[str, Any] = json.loads(run.report_json.read_text(encoding="utf-8"))
        return report
    except (OSError, ValueError) as error:
        raise DataError(
            f"{run.report_json} cannot be read; move the run out of its folder, or copy it again"
        ) from error


def _is_scoring(run: RunDir) -> bool:
    if run.shards.is_dir() or run.listing.is_dir():
        return True  # at work
    return any(run.prediction_parts())


def ended_at(run: RunDir) -> str:
    """Returns the ISO 8601 time at which a run ended; a copied run may lack its status."""
    try:
        ended = run.load_status().get("succeeded_at")
    except NewerRunError as error:
        raise DataError(str(error)) from error
    except OrchestratorError:
        ended = None
    written = datetime.fromtimestamp(run.success.stat().st_mtime, UTC)
    return str(ended or written.isoformat(timespec="seconds"))


def _read(run: RunDir, load: Callable[[RunDir], pa.Table]) -> pa.Table:
    try:
        return load(run)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(
            f"the tables of {run.path} cannot be read ({str(error).splitlines()[0]}); move the run "
            "out of its folder or score its images again"
        ) from error


def _load_predictions(run: RunDir) -> pa.Table:
    """Rows of a run's predictions with the run's name, and with roots as text."""
    parts = [open_parquet(part).read() for part in run.prediction_parts()]
    table = _name_roots(run, pa.concat_tables(parts) if parts else PREDICTIONS.empty_table())
    names = pa.array([run.path.name] * table.num_rows, pa.string())
    return table.add_column(0, "run_id", names)


def _load_known(run: RunDir, twice: pa.Array) -> pa.Table:
    """What a run knew to be scored elsewhere; of an earlier version's, what is `twice` as well."""
    table = open_parquet(run.known).read(
        columns=["root", "path", "sha256", "matched", "run", "run_row", "code"]
    )
    told = pc.or_(pc.not_equal(table["matched"], "file"), pc.is_in(table["path"], twice))
    table = table.filter(pc.and_(told, pc.is_null(table["code"]))).drop_columns(["matched", "code"])
    return _name_roots(run, table).rename_columns({"run": "run_id", "run_row": "row"})


def _name_roots(run: RunDir, table: pa.Table) -> pa.Table:
    """A table with the path of each root in place of its number."""
    roots = pa.array([escape_path(root) for root in open_manifest_file(run.manifest).roots])
    index = table.schema.get_field_index("root")
    return table.set_column(index, "root", pc.take(roots, table["root"]))


def _to_pandas(table: pa.Table) -> "pd.DataFrame":
    import pandas as pd

    integers = {pa.int8(): pd.Int8Dtype(), pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype()}
    return table.to_pandas(types_mapper=integers.get)


def _keep_latest(frame: "pd.DataFrame", runs: list[RunDir]) -> "pd.DataFrame":
    """Each file's prediction in the newest run that scored it or knew its content."""
    import pandas as pd

    twice = pa.array(frame.loc[_files(frame).duplicated(), "path"].unique(), pa.string())
    told = [frame.assign(told_by=frame["run_id"])]
    for run in runs:
        if run.known.exists():
            known = _to_pandas(_read(run, lambda run: _load_known(run, twice)))
            # A prediction in a run that was removed is lost; its name may be another run's by now.
            known = known.merge(frame, on=["run_id", "row", "sha256"], suffixes=("", "_scored"))
            known.loc[known["path"].ne(known["path_scored"]), _OF_NAME] = None
            told.append(known[frame.columns].assign(told_by=run.path.name))
    ages = {run.path.name: age for age, run in enumerate(runs)}
    rows = pd.concat(told, ignore_index=True)
    rows = rows.assign(file=_files(rows), age=rows["told_by"].map(ages))
    newest = rows.sort_values("age", kind="stable").drop_duplicates("file", keep="last")
    return newest.sort_values("file")[frame.columns].reset_index(drop=True)


def _files(frame: "pd.DataFrame") -> "pd.Series":
    """Whole paths; a root may be given with and without its last slash, or be `/` itself."""
    return frame["root"].str.rstrip("/") + "/" + frame["path"]
