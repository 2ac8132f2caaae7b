"""A job as a person sees it: cluster status reconciled with the run folder.

A run that wrote `_SUCCESS` is never shown as failed, and one whose driver is gone never as running.
"""

import contextlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from orchestrator.errors import ClusterError, SpecError
from orchestrator.jobs.client import JobInfo, Jobs
from orchestrator.jobs.records import End, Record, keep_end, load_end, load_record, load_records
from orchestrator.jobs.submit import next_try
from orchestrator.runs.reconcile import ClusterAnswer, Evidence, look_at, settle
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.states import Status, TickState

_STOPPED_CODE = 130
_LOST_CODE = 5  # of ClusterError: the same job may succeed later


@dataclass(frozen=True)
class JobView:
    """One try of a job.

    Args:
        submission_id: its id.
        job: name of the job.
        kind: of the job.
        status: cluster and run folder reconciled.
        reason: one line where it ended otherwise than well.
        run: the run folder.
        exit_code: of the driver, or what the run has stored of a failure.
        submitted_at: when it was given to the cluster.
        ended_at: when the cluster saw its driver end.
    """

    submission_id: str
    job: str
    kind: str
    status: Status
    reason: str | None
    run: Path | None
    exit_code: int | None
    submitted_at: datetime | None
    ended_at: datetime | None

    @property
    def is_open(self) -> bool:
        """Whether it may still run."""
        return self.status in (Status.PENDING, Status.RUNNING)

    @property
    def code(self) -> int:
        """The exit code of a command that waited for it: the job's own where it has one."""
        if self.status is Status.SUCCEEDED:
            return 0
        if self.status is Status.STOPPED:
            return _STOPPED_CODE
        return self.exit_code if self.exit_code and self.exit_code > 0 else _LOST_CODE


def view_job(jobs: Jobs | None, submission_id: str) -> JobView:
    """Returns a job as it is now.

    Args:
        jobs: the cluster's endpoints; None where its head is gone.
        submission_id: the job's.

    Raises:
        SpecError: neither the cluster nor this machine knows it.
        ClusterError: the cluster does not answer.
    """
    info = jobs.look_up(submission_id) if jobs else None
    record = load_record(submission_id)
    if info is None and record is None:
        raise SpecError(
            f"no job {submission_id} is known here; `orchestrator jobs list` shows those that are"
        )
    view = _join(submission_id, info, record)
    _keep_end(jobs, view, info, record)
    return view


def list_jobs(jobs: Jobs | None, cluster: str, limit: int) -> list[JobView]:
    """Returns the newest jobs, newest first, those that the head has forgotten included."""
    infos = {info.submission_id: info for info in jobs.list_all()} if jobs else {}
    records = {record.submission_id: record for record in load_records(cluster, limit)}
    ids = infos.keys() | records.keys()
    views = [_join(found, infos.get(found), records.get(found)) for found in ids]
    for view in views:
        found = view.submission_id
        _keep_end(jobs, view, infos.get(found), records.get(found))
    views.sort(key=lambda v: (v.submitted_at.timestamp() if v.submitted_at else 0, v.submission_id))
    return views[::-1][:limit]


def _join(submission_id: str, info: JobInfo | None, record: Record | None) -> JobView:
    told = info.metadata if info else {}
    folder = record.run if record else told.get("run")
    mark = record.mark if record else (told.get("mark") or None)
    later = next_try(submission_id)
    code = info.exit_code if info else None
    if load_record(later) is not None:
        # The folder tells of the later try now.
        status = info.status if info else Status.FAILED
        reason = f"tried again as {later}" if status is not Status.SUCCEEDED else None
    else:
        status, reason, stored = _settle(info, Path(folder) if folder else None, mark)
        code = stored if code is None else code
        if info is None and status is Status.FAILED and (end := load_end(submission_id)):
            status, reason, code = Status(end.status), end.reason, end.exit_code
    submitted = datetime.fromisoformat(record.submitted_at) if record else None
    return JobView(
        submission_id=submission_id,
        job=str(record.job.get("name")) if record else told.get("job", ""),
        kind=str(record.job.get("kind")) if record else told.get("kind", ""),
        status=status,
        reason=reason,
        run=Path(folder) if folder else None,
        exit_code=code,
        submitted_at=submitted or (info.started_at if info else None),
        ended_at=info.ended_at if info else None,
    )


def _settle(
    info: JobInfo | None, folder: Path | None, mark: str | None
) -> tuple[Status, str | None, int | None]:
    """Returns status, reason and the exit code that the run folder shows."""
    try:
        evidence = look_at(folder)
    except OSError:
        evidence = Evidence(mark=mark)  # the folder cannot be read from here
    if evidence.mark == mark:
        evidence = Evidence(mark=mark)  # left by another run; this try has written nothing
    finding = settle(
        ClusterAnswer(info.status, info.exit_code) if info else None,
        evidence,
        state=TickState.PENDING,
        mark=mark,
        stop_reason=None,
    )
    if info is None and evidence.status == Status.STOPPED and not evidence.succeeded:
        return Status.STOPPED, "stopped; the cluster has no record of it any more", None
    return Status(finding.state), finding.reason, evidence.exit_code


def _keep_end(
    jobs: Jobs | None, view: JobView, info: JobInfo | None, record: Record | None
) -> None:
    """Keeps why a try ended badly, for the time when the head has forgotten it."""
    ended = info and info.status in (Status.FAILED, Status.STOPPED) and not view.is_open
    if (
        record
        and ended
        and view.status is not Status.SUCCEEDED
        and not load_end(view.submission_id)
    ):
        reason = view.reason
        with contextlib.suppress(ClusterError):  # its log may have gone with its node
            reason = load_error(jobs, view) or reason
        keep_end(view.submission_id, End(view.status, reason, view.exit_code))


def load_error(jobs: Jobs | None, view: JobView) -> str | None:
    """Returns what a failed run has stored as its error, else the last one its driver printed."""
    if view.is_open or view.status is Status.SUCCEEDED:
        return None
    if view.run is not None:
        try:
            error = RunDir(view.run).load_status().get("error")
        except (OSError, SpecError):
            error = None
        if error:
            return str(error)
    if jobs is None or jobs.look_up(view.submission_id) is None:
        return None
    printed = [line for line in jobs.logs(view.submission_id).splitlines() if "error: " in line]
    return printed[-1].removeprefix("error: ") if printed else None
