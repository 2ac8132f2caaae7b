"""A declared job as one run on a cluster: its stored copy, its record, its submit.

The record lies in the user's state folder and is written before the cluster is asked, so a job
that the head forgets, as it does when it restarts, is still listed and can be tried again.
"""

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.cluster.jobs import Jobs, build_entrypoint, check_id
from orchestrator.errors import ClusterError, OrchestratorError, SpecError
from orchestrator.model.bundle import newest_bundle
from orchestrator.run_dir import RunDir, write_text
from orchestrator.spec import SPECS, Job, build_spec, dump_job
from orchestrator.state import state_folder

Entrypoint = Callable[[str, Path], str]


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


def submit_job(
    jobs: Jobs,
    cluster: str,
    submission_id: str,
    job: Job,
    run: Path,
    mark: str | None,
    entrypoint: Entrypoint | None = None,
) -> Record:
    """Stores a job in its run folder and gives it to the cluster.

    Args:
        jobs: the cluster's endpoints.
        cluster: the cluster's name, for the record.
        submission_id: unique; a second submit of it raises.
        job: with every path absolute.
        run: the run folder.
        mark: of the run folder's status now.
        entrypoint: from id and stored file to the driver's command, in place of this program's.

    Raises:
        SpecError: an argument of the job is wrong.
        ClusterError: the cluster did not take it, or the answer was lost.
    """
    check_id(submission_id)
    build_spec(SPECS[job.kind], {}, job)
    stored = RunDir(run).job
    # Who is told of a failure is the scheduler's business, and its address may hold a secret.
    driven = job.model_copy(update={"on_failure": None, "schedule": None})
    write_text(stored, dump_job(driven))
    cwd = Path.cwd()
    record = Record(
        submission_id=submission_id,
        cluster=cluster,
        run=str(run),
        cwd=str(cwd),
        mark=mark,
        submitted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        job=driven.model_dump(mode="json", exclude_none=True),
    )
    write_record(record)
    make = entrypoint or (lambda _, file: build_entrypoint(file, cwd, cluster))
    metadata = {"job": job.name, "kind": job.kind, "run": str(run), "mark": mark or ""}
    jobs.submit(submission_id, make(submission_id, stored), metadata)
    return record


def fix_model(job: Job) -> Job:
    """Returns a scoring job with the newest model named, so that all its tries take the same.

    Where there is none yet the run itself says so.
    """
    if job.kind != "score" or job.args.get("model") is not None:
        return job
    try:
        newest = newest_bundle(Path("models"))
    except SpecError:
        return job
    return job.model_copy(update={"args": {**job.args, "model": str(newest)}})


def new_run_key(name: str) -> str:
    """Returns a fresh name of a run that nobody scheduled: `nightly-20260131T020000Z-1a2b3c`."""
    return f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def next_try(submission_id: str) -> str:
    """Returns the id of the try after this one: a number at the end, one greater."""
    run, dash, number = submission_id.rpartition("-")
    if dash and number.isdigit() and len(number) < 6:
        return check_id(f"{run}-{int(number) + 1}")
    return check_id(f"{submission_id}-2")


# --- records ------------------------------------------------------------------------------------


def _records_folder() -> Path:
    return state_folder() / "jobs"


def write_record(record: Record) -> None:
    """Stores a record, whole or not at all, for its owner alone."""
    folder = _records_folder()
    final = folder / f"{record.submission_id}.json"
    temporary = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(record), file)
        temporary.replace(final)
    except OSError as error:
        raise ClusterError(
            f"cannot write {final}: {error.strerror}; free space, or set XDG_STATE_HOME to a "
            "folder of yours"
        ) from error


def remove_record(submission_id: str) -> None:
    """Forgets a submit that the cluster did not take."""
    (_records_folder() / f"{check_id(submission_id)}.json").unlink(missing_ok=True)


def load_record(submission_id: str) -> Record | None:
    """Returns a stored record, None where there is none or it cannot be read."""
    try:
        text = (_records_folder() / f"{check_id(submission_id)}.json").read_text(encoding="utf-8")
        return Record(**json.loads(text))
    except (OSError, ValueError, TypeError):
        return None


def load_records(cluster: str, limit: int) -> list[Record]:
    """Returns the newest submits to a cluster, newest first."""
    found: list[Record] = []
    paths = [(path.stat().st_mtime_ns, path) for path in _records_folder().glob("*.json")]
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
