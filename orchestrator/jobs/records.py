"""Records of submitted jobs in the user's state folder.

A record is written before the cluster is asked, so a job that the head forgets, as it does when it
restarts, is still listed and can be tried again.
"""

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.config.job import Job
from orchestrator.errors import ClusterError, OrchestratorError, SpecError
from orchestrator.jobs.client import check_id
from orchestrator.runs.atomic import write_json
from orchestrator.runs.folders import make_folder
from orchestrator.runs.state import job_records_folder


@dataclass(frozen=True)
class Record:
    """A submit, as this user's machine remembers it.

    Args:
        submission_id: of the try.
        cluster: its address, or `local`.
        run: the run folder.
        cwd: working directory of the run.
        mark: of the run folder's status before the submit; a different one shows that the try
            began.
        submitted_at: ISO 8601, UTC.
        job: the job with its `out`, JSON-able.
    """

    submission_id: str
    cluster: str
    run: str
    cwd: str
    mark: str | None
    submitted_at: str
    job: dict[str, Any]

    def load_job(self) -> Job:
        """Returns the job; raises SpecError where this version refuses it."""
        try:
            return Job.model_validate(self.job)
        except ValidationError as error:
            raise SpecError(
                f"{self.submission_id} was stored by another version of the program, and this one "
                "refuses it; submit its file again"
            ) from error


def write_record(record: Record) -> None:
    """Stores a record, whole or not at all, for its owner alone."""
    folder = job_records_folder()
    try:
        make_folder(folder, mode=0o700)
    except OSError as error:
        raise ClusterError(
            f"cannot make {folder}: {error.strerror}; set XDG_STATE_HOME to a folder of yours"
        ) from error
    write_json(folder / f"{record.submission_id}.json", asdict(record), mode=0o600)


def remove_record(submission_id: str) -> None:
    """Forgets a submit that the cluster did not take."""
    (job_records_folder() / f"{check_id(submission_id)}.json").unlink(missing_ok=True)


def load_record(submission_id: str) -> Record | None:
    """Returns a stored record, None where there is none or it cannot be read."""
    try:
        text = (job_records_folder() / f"{check_id(submission_id)}.json").read_text(
            encoding="utf-8"
        )
        return Record(**json.loads(text))
    except (OSError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class End:
    """How a try ended, kept for the time when the head has forgotten it.

    Args:
        status: FAILED or STOPPED.
        reason: one line.
        exit_code: of the driver, None where it was killed.
    """

    status: str
    reason: str | None
    exit_code: int | None


def keep_end(submission_id: str, end: End) -> None:
    """Stores how a try ended; a folder that cannot be written to keeps nothing."""
    with contextlib.suppress(OSError, OrchestratorError):
        write_json(_end_path(submission_id), asdict(end), mode=0o600)


def load_end(submission_id: str) -> End | None:
    """Returns how a try was seen to end, None where it was not."""
    try:
        return End(**json.loads(_end_path(submission_id).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _end_path(submission_id: str) -> Path:
    return job_records_folder() / f"{check_id(submission_id)}.end"


def load_records(cluster: str, limit: int) -> list[Record]:
    """Returns the newest submits to a cluster, newest first."""
    found: list[Record] = []
    paths = [(path.stat().st_mtime_ns, path) for path in job_records_folder().glob("*.json")]
    for _, path in sorted(paths, reverse=True):
        try:
            record = load_record(path.stem)
        except OrchestratorError:
            continue  # somebody else's file
        if record is not None and record.cluster == cluster:
            found.append(record)
        if len(found) == limit:
            break
    return found
