"""`orchestrator submit` and `orchestrator jobs`: jobs on a cluster, or on a local Ray head node."""

import os
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.completion import complete_job
from orchestrator.cli.options import JsonFlag, switch
from orchestrator.cli.output import print_json, tell, write_line, write_log
from orchestrator.errors import ClusterError, SpecError

if TYPE_CHECKING:
    from orchestrator.config.job import Job
    from orchestrator.jobs.client import Jobs
    from orchestrator.jobs.view import JobView

app = typer.Typer(no_args_is_help=True, help="Manage submitted jobs, and check job files.")
submit_app = typer.Typer()  # `submit` stands at the top

JobId = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="Job ID, as shown by orchestrator jobs list.",
        autocompletion=complete_job,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="<address>",
        help="Address of the Ray cluster.",
        show_default="RAY_ADDRESS, or a local head node",
    ),
]
Insecure = Annotated[
    bool,
    switch("--insecure", help="Accept a cluster without token authentication."),
]
Wait = Annotated[
    bool,
    switch("--wait", help="Wait for the job, retry it as it says, and exit with its exit code."),
]
_POLL_S = 0.5
_STOP_LIMIT_S = 60.0


@submit_app.command()
def submit(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Job file, such as jobs/score-nightly.yaml.")
    ],
    wait: Wait = False,
    address: Address = None,
    insecure: Insecure = False,
    as_json: JsonFlag = False,
) -> None:
    """Submit a job file to the cluster, or to a local head node that is started for it."""
    from orchestrator.config.load import build_spec, load_job
    from orchestrator.config.specs import SPECS
    from orchestrator.jobs.submit import fix_model, new_run_key
    from orchestrator.runs.placement import place_out

    job = load_job(file)
    build_spec(SPECS[job.kind], {}, job)
    cluster = _cluster(address, insecure)
    key = new_run_key(job.name)
    placed, run = place_out(job, key)
    _start(cluster, f"{key}-1", fix_model(placed), run, wait, as_json)


@app.command("list")
def list_jobs(
    address: Address = None,
    insecure: Insecure = False,
    limit: Annotated[int, typer.Option(help="Number of jobs to show.", min=1)] = 30,
    as_json: JsonFlag = False,
) -> None:
    """List the newest jobs, including those that a restarted head node has forgotten."""
    from orchestrator.jobs.view import list_jobs as build_list

    cluster = _cluster(address, insecure)
    views = build_list(_connect(cluster), cluster, limit)
    if as_json:
        print_json({"jobs": [_described(view) for view in views]})
        return
    for view in views:
        when = f"{view.submitted_at:%Y-%m-%d %H:%M}" if view.submitted_at else ""
        line = f"{view.submission_id:<44} {view.kind:<8} {view.status:<10} {when:<17}"
        write_line(f"{line} {view.reason or ''}".rstrip())
    if not views:
        write_line("no job has been submitted yet")


@app.command()
def show(
    job_id: JobId, address: Address = None, insecure: Insecure = False, as_json: JsonFlag = False
) -> None:
    """Show a job's status, run folder, exit code and error."""
    from orchestrator.jobs.view import load_error, view_job

    jobs = _connect(_cluster(address, insecure))
    view = view_job(jobs, job_id)
    body = _described(view)
    body["error"] = load_error(jobs, view)
    if as_json:
        print_json(body)
        return
    for name, value in body.items():
        if value is not None:
            write_line(f"{name.replace('_', ' '):<14} {value}")


@app.command()
def logs(
    job_id: JobId,
    follow: Annotated[
        bool,
        switch("--follow", "-f", help="Follow the log until the job ends."),
    ] = False,
    address: Address = None,
    insecure: Insecure = False,
) -> None:
    """Print a job's log."""
    from orchestrator.jobs.local_head import find_log
    from orchestrator.jobs.view import view_job

    jobs = _connect(_cluster(address, insecure))
    view_job(jobs, job_id)  # a clear line for an unknown id
    if jobs is not None and jobs.look_up(job_id) is not None:
        if follow:
            jobs.follow(job_id, write_log)
        else:
            write_log(jobs.logs(job_id))
        return
    kept = find_log(job_id)
    if kept is None:
        raise ClusterError(f"the head node that ran {job_id} is gone, and the log with it")
    write_log(kept.read_text(encoding="utf-8", errors="replace"))


@app.command()
def stop(job_id: JobId, address: Address = None, insecure: Insecure = False) -> None:
    """Stop a job and its workers."""
    from orchestrator.jobs.view import view_job

    jobs = _connect(_cluster(address, insecure))
    view = view_job(jobs, job_id)
    if jobs is None or not view.is_open:
        write_line(f"{job_id} had already ended: {view.status}")
        return
    jobs.stop(job_id)
    limit = time.monotonic() + _STOP_LIMIT_S
    while (view := view_job(jobs, job_id)).is_open:
        if time.monotonic() > limit:
            raise ClusterError(f"{job_id} has not stopped yet; run the same command again")
        time.sleep(_POLL_S)
    write_line(f"{job_id}: {view.status}")


@app.command()
def retry(
    job_id: JobId,
    wait: Wait = False,
    address: Address = None,
    insecure: Insecure = False,
    as_json: JsonFlag = False,
) -> None:
    """Retry a failed or stopped job, continuing in its run folder."""
    from orchestrator.config.load import load_job
    from orchestrator.jobs.records import load_record
    from orchestrator.jobs.submit import next_try
    from orchestrator.jobs.view import view_job
    from orchestrator.runs.run_dir import RunDir

    cluster = _cluster(address, insecure)
    view = view_job(_connect(cluster), job_id)
    if view.is_open or view.status == "SUCCEEDED":
        raise SpecError(
            f"{job_id} is {view.status}; only a job that failed or was stopped can be retried"
        )
    if view.run is None:
        raise SpecError(f"{job_id} was not submitted by this program; submit its job file")
    later = next_try(job_id)
    if load_record(later) is not None:
        raise SpecError(f"{job_id} was already retried as {later}; name that one")
    record = load_record(job_id)
    job = record.load_job() if record else load_job(RunDir(view.run).job)
    _start(cluster, later, job, view.run, wait, as_json)


@app.command(hidden=True)
def drive(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Stored job, in its run folder.")],
    expect: Annotated[
        str | None,
        typer.Option(metavar="<version>", help="Version that stored it.", show_default="any"),
    ] = None,
) -> None:
    """Run a stored job in this process, as the cluster's head node does."""
    from orchestrator import __version__
    from orchestrator.cli.kinds import KINDS
    from orchestrator.cli.terminal import open_reporter
    from orchestrator.config.load import build_spec, load_job

    if expect not in (None, __version__):
        raise ClusterError(
            f"this node has version {__version__} of the package and the job comes from {expect}; "
            "install the same version on every node"
        )
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # Until Ray has its own: a job that is stopped says so in its status.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    job = load_job(file)
    kind = KINDS[job.kind]
    spec = build_spec(kind.spec, {}, job)
    with open_reporter() as reporter:
        kind.run(spec, job.resources, reporter, file.absolute().parent)


# --- parts ----------------------------------------------------------------------------------------


def _cluster(address: str | None, insecure: bool) -> str:
    """Returns the cluster's name; must come before anything imports ray."""
    if insecure:
        os.environ["RAY_AUTH_MODE"] = "disabled"
    from orchestrator.jobs.client import name_cluster

    return name_cluster(address)


def _connect(cluster: str) -> "Jobs | None":
    from orchestrator.jobs.client import Connection

    return Connection(cluster, tell).get(start=False)


def _start(
    cluster: str, submission_id: str, job: "Job", run: Path, wait: bool, as_json: bool
) -> None:
    """Submits a job, says so, and exits with its exit code where it was waited for."""
    from orchestrator.jobs.client import Connection
    from orchestrator.jobs.run import run_job

    try:
        view = run_job(Connection(cluster, tell), submission_id, job, run, wait=wait, say=tell)
    except KeyboardInterrupt:
        tell("a submitted job keeps running: see `orchestrator jobs list` and `jobs stop`")
        raise typer.Exit(130) from None
    if as_json:
        print_json(_described(view))
    elif not wait:
        write_line(submission_id)
        tell(f"follow it with `orchestrator jobs logs -f {submission_id}`; run folder: {run}")
    if wait:
        raise typer.Exit(view.code)


def _described(view: "JobView") -> dict[str, Any]:
    def shown(moment: datetime | None) -> str | None:
        return moment.isoformat(timespec="seconds") if moment else None

    return {
        "submission_id": view.submission_id,
        "job": view.job,
        "kind": view.kind,
        "status": str(view.status),
        "reason": view.reason,
        "exit_code": view.exit_code,
        "run_folder": str(view.run) if view.run else None,
        "submitted_at": shown(view.submitted_at),
        "ended_at": shown(view.ended_at),
    }
