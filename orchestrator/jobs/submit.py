"""A declared job as one run on a cluster: its stored copy, its record, its submit.

The record lies in the user's state folder and is written before the cluster is asked, so a job
that the head forgets, as it does when it restarts, is still listed and can be tried again.
"""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.config.job import Job
from orchestrator.config.load import build_spec, dump_job
from orchestrator.config.specs import SPECS
from orchestrator.errors import OrchestratorError
from orchestrator.jobs.client import Jobs, build_entrypoint, check_id
from orchestrator.jobs.records import Record, write_record
from orchestrator.model.bundle_folder import newest_bundle
from orchestrator.registry.reference import pin_model
from orchestrator.runs.atomic import write_text
from orchestrator.runs.run_dir import RunDir

Entrypoint = Callable[[str, Path], str]


def store_job(cluster: str, submission_id: str, job: Job, run: Path, mark: str | None) -> Record:
    """Stores a job in its run folder, and its record; the cluster is asked for nothing yet.

    Args:
        cluster: the cluster's name, for the record.
        submission_id: unique; a second submit of it raises.
        job: with every path absolute.
        run: the run folder.
        mark: of the run folder's status now.

    Raises:
        SpecError: an argument of the job is wrong.
        ClusterError: the file system refused a write.
    """
    check_id(submission_id)
    build_spec(SPECS[job.kind], {}, job)
    # Who is notified of a failure is the scheduler's business, and its address may hold a secret.
    driven = job.model_copy(update={"on_failure": None, "schedule": None})
    write_text(RunDir(run).job, dump_job(driven))
    record = Record(
        submission_id=submission_id,
        cluster=cluster,
        run=str(run),
        cwd=str(Path.cwd()),
        mark=mark,
        submitted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        job=driven.model_dump(mode="json", exclude_none=True),
    )
    write_record(record)
    return record


def start_job(jobs: Jobs, record: Record, entrypoint: Entrypoint | None = None) -> None:
    """Gives a stored job to the cluster; touches no file.

    Args:
        jobs: the cluster's endpoints.
        record: of the job.
        entrypoint: from id and stored file to the driver's command, in place of this program's.

    Raises:
        ClusterError: the cluster did not take it, or the answer was lost.
    """
    stored = RunDir(Path(record.run)).job
    if entrypoint is not None:
        command = entrypoint(record.submission_id, stored)
    else:
        command = build_entrypoint(stored, Path(record.cwd), record.cluster)
    metadata = {
        "job": str(record.job["name"]),
        "kind": str(record.job["kind"]),
        "run": record.run,
        "mark": record.mark or "",
    }
    jobs.submit(record.submission_id, command, metadata)


def fix_model(job: Job) -> Job:
    """Returns a job with its models named for good, so that all its tries take the same.

    An alias is replaced by its version, and a scoring job without a model takes the newest one.
    Where there is none the run itself says so.
    """
    fixed = dict(job.args)
    try:
        if fixed.get("model") is None and job.kind == "score":
            fixed["model"] = str(newest_bundle(Path("models")))
        for name in ("model", "live", "candidate"):
            named = fixed.get(name) or []
            if isinstance(named, str):
                fixed[name] = pin_model(named)
            elif named:
                fixed[name] = [pin_model(text) for text in named]
    except OrchestratorError:
        return job
    return job.model_copy(update={"args": fixed})


def new_run_key(name: str) -> str:
    """Returns a fresh name of a run that nobody scheduled: `nightly-20260131T020000Z-1a2b3c`."""
    return f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def next_try(submission_id: str) -> str:
    """Returns the id of the try after this one: a number at the end, one greater."""
    run, dash, number = submission_id.rpartition("-")
    if dash and number.isdigit() and len(number) < 6:
        return check_id(f"{run}-{int(number) + 1}")
    return check_id(f"{submission_id}-2")
