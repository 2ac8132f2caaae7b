"""Forgets a patient: every row of theirs goes from every scoring run of a folder.

First the list of what no later night may score again, then the indexes, then what is to go from
each run is stored in it, and only then does anything go: a command that was killed is done again.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.known.drop import drop_entries
from orchestrator.data.known.forgotten import add_forgotten
from orchestrator.data.parquet import open_parquet
from orchestrator.errors import DataError, OrchestratorError, SpecError
from orchestrator.pipelines.forget.find import PatientRows, Traces, find_rows, hides_patients
from orchestrator.pipelines.forget.remove import begin, finish, load_record
from orchestrator.runs.lock import hold
from orchestrator.runs.run_dir import RunDir


@dataclass
class ForgetResult:
    """What was removed.

    Attributes:
        num_runs: finished scoring runs that were looked at.
        removed: rows by table of each run that had any, by name of its folder.
        hidden: why rows may remain in a run whose ids are hashed, by name of its folder.
        left: why rows may remain in other folders, by name.
        unnamed: rejected rows that remain and name no patient, of each run that has any, by name.
    """

    num_runs: int
    removed: dict[str, dict[str, int]] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    unnamed: dict[str, int] = field(default_factory=dict)


def forget_patient(
    root: Path, traces: Traces, why: str, announce: Callable[[str, dict[str, int]], None]
) -> ForgetResult:
    """Removes a patient's rows from the scoring runs directly under a folder.

    Args:
        root: folder of runs.
        traces: by what the patient is known at first.
        why: the reason, for the record of each run.
        announce: receives the name of a run and its rows by table before any of them goes.

    Raises:
        SpecError: the reason names the patient.
        DataError: no such folder, or a run that cannot be read.
        LockedError: another process works in the folder or in a run.
        ClusterError: the file system refused a write; the same command goes on.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; name a folder of runs")
    if any(re.search(rf"(?<!\w){re.escape(text)}(?!\w)", why) for text in traces.ids):
        raise SpecError("--why holds the patient's id; give a reason without it, since it is kept")
    with hold(root.absolute()):
        return _forget(root.absolute(), traces, why, announce)


def _forget(
    root: Path, traces: Traces, why: str, announce: Callable[[str, dict[str, int]], None]
) -> ForgetResult:
    finished, unfinished, others = _sort_runs(root)
    result = ForgetResult(len(finished))
    found = _find(finished, traces)
    result.unnamed = {_name(run, root): e.num_unnamed for run, e in found.items() if e.num_unnamed}
    for run in finished:
        if (reason := hides_patients(run, traces)) is not None:
            result.hidden[_name(run, root)] = reason
    files = {file for each in found.values() for file in each.files}
    if files:
        add_forgotten(root, files)
        drop_entries(root, files)
    for run, each in found.items():
        if each.files:
            announce(_name(run, root), each.counts)
            with hold(run.path):
                begin(run, each, traces, why)
    for run in finished:
        if load_record(run)["at_work"] is not None:
            with hold(run.path):
                result.removed[_name(run, root)] = finish(run) or {}
    for run in unfinished:
        result.left[_name(run, root)] = "it is unfinished: finish or remove it"
    for run in others:
        if _holds(run, traces):
            result.left[_name(run, root)] = "it is of another command, and names them: remove it"
    return result


def _find(runs: list[RunDir], traces: Traces) -> dict[RunDir, PatientRows]:
    """Returns a patient's rows in each run; what one run tells is looked for in all."""
    for run in runs:  # of whoever was killed
        traces.contents |= set((load_record(run)["at_work"] or {}).get("contents", ()))
    known = -1
    found: dict[RunDir, PatientRows] = {}
    while known != traces.size():
        known = traces.size()
        found = {run: find_rows(run, traces) for run in runs}
    return found


def _sort_runs(root: Path) -> tuple[list[RunDir], list[RunDir], list[RunDir]]:
    """Returns the finished scoring runs, the unfinished ones, and the runs of other commands."""
    finished: list[RunDir] = []
    unfinished: list[RunDir] = []
    others: list[RunDir] = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if folder.name.startswith((".", "_")):
            continue
        for run in (RunDir(folder), RunDir(folder).scored):
            at_work = run.shards.is_dir() or run.listing.is_dir()
            if at_work or any(run.prediction_parts()):
                (finished if run.success.exists() else unfinished).append(run)
            elif run.status.is_file():
                others.append(run)
    return finished, unfinished, others


def _holds(run: RunDir, traces: Traces) -> bool:
    """Whether a table of a run of another command names the patient or an image of theirs."""
    for path in run.path.glob("*.parquet"):
        try:
            file = open_parquet(path)
            for name, values in (("patient_id", traces.ids), ("sha256", traces.contents)):
                if name in file.schema_arrow.names:
                    column = file.read(columns=[name])[name]
                    if pc.any(pc.is_in(column, pa.array(sorted(values), column.type))).as_py():
                        return True
        except (OSError, pa.ArrowException, OrchestratorError):
            return True  # it cannot be told
    return False


def _name(run: RunDir, root: Path) -> str:
    return str(run.path.relative_to(root))
