"""`orchestrator schedule`: what is scheduled, what is due next, what has happened."""

import contextlib
import os
import signal
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.jobs import Address, Insecure
from orchestrator.cli.options import JsonFlag
from orchestrator.cli.output import print_columns, print_json, tell, write_line
from orchestrator.cli.schedule_jobs import (
    JOB,
    JOBS,
    Jobs,
    LedgerFile,
    describe_unknown,
    list_scheduled,
    list_usable,
    open_ledger,
)
from orchestrator.cli.schedule_requests import backfill, pause, resume, trigger
from orchestrator.errors import SpecError

if TYPE_CHECKING:
    from orchestrator.schedule.looks import Looks
    from orchestrator.schedule.rows import RunRow

app = typer.Typer(no_args_is_help=True, help="Run jobs on a schedule, each tick exactly once.")

_LOOK_S = 3.0  # longest wait for run folders


@app.command()
def run(
    jobs: Jobs = JOBS,
    ledger: LedgerFile = None,
    address: Address = None,
    insecure: Insecure = False,
) -> None:
    """Run the scheduler in the foreground and submit jobs as they fall due.

    Several schedulers may share a ledger; one of them leads. SIGTERM or Ctrl-C stops this one,
    and its jobs keep running.
    """
    from orchestrator.jobs.client import name_cluster

    if insecure:
        os.environ["RAY_AUTH_MODE"] = "disabled"
    if not jobs.is_dir():
        raise SpecError(f"--jobs {jobs} is not a folder; name the folder of job files")
    from orchestrator.jobs.scheduler_backend import RayJobsBackend, place
    from orchestrator.runs.state import schedule_ledger
    from orchestrator.schedule.job_folder import JobFolder
    from orchestrator.schedule.ledger import Ledger
    from orchestrator.schedule.loop import Scheduler

    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    store = RayJobsBackend(name_cluster(address), _log).as_backend()
    book = Ledger(ledger or schedule_ledger())
    _log(f"jobs: {jobs.absolute()}, ledger: {book.path.absolute()}")
    Scheduler(book, JobFolder(jobs).load, store, _log, place=place).run(stopping)
    _log("ended")


def _log(line: str) -> None:
    tell(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}")


@app.command("list")
def list_jobs(jobs: Jobs = JOBS, ledger: LedgerFile = None, as_json: JsonFlag = False) -> None:
    """List the scheduled jobs: their next tick, the last one's outcome, and what is wrong."""
    from orchestrator.schedule.looks import Looks

    book, looks = open_ledger(ledger), Looks(_LOOK_S)
    paused = book.paused() if book else set()
    scheduled, faults = list_scheduled(jobs, book)
    rows: list[dict[str, Any]] = []
    for name, job, ticks in scheduled:
        following = ticks.next_after(datetime.now(UTC))
        last = book.history(name, 1) if book else []
        rows.append(
            {
                "job": name,
                "cron": ticks.cron,
                "timezone": ticks.timezone,
                "overlap": job.schedule.overlap if job.schedule else None,
                "catch_up": job.schedule.catch_up if job.schedule else None,
                "paused": name in paused,
                "next": following.isoformat() if following else None,
                "next_local": ticks.local(following).isoformat() if following else None,
                "last": _described(last[0], looks) if last else None,
                "fault": faults.pop(name, None),
            }
        )
    if as_json:
        print_json({"jobs": rows, "faults": faults})
        return
    print_columns(
        ["job", "cron", "time zone", "next", "last"],
        [
            [
                row["job"],
                row["cron"],
                row["timezone"],
                "paused" if row["paused"] else _minute(row["next_local"]),
                f"{row['last']['state']} {_minute(row['last']['tick'])} UTC" if row["last"] else "",
            ]
            for row in rows
        ],
        empty=f"no file in {jobs} has a schedule",
    )
    wrong = {row["job"]: row["fault"] for row in rows if row["fault"]} | faults
    for source, problem in wrong.items():
        write_line(f"error: {source}: {problem}")


@app.command("next")
def next_ticks(
    jobs: Jobs = JOBS,
    days: Annotated[float, typer.Option(help="Days to look ahead.", min=0.01, max=366)] = 7.0,
    job: Annotated[
        str | None, typer.Option(metavar="<name>", show_default="all jobs", **JOB)
    ] = None,
    ledger: LedgerFile = None,
    limit: Annotated[int, typer.Option(help="Maximum number of ticks to show.", min=1)] = 200,
    as_json: JsonFlag = False,
) -> None:
    """Show when each job is due next, taking daylight saving time into account."""
    now = datetime.now(UTC)
    scheduled = list_usable(jobs, open_ledger(ledger))
    if job is not None and job not in [name for name, _, _ in scheduled]:
        raise SpecError(describe_unknown(job, [name for name, _, _ in scheduled]))
    found = sorted(
        (tick, name, ticks.local(tick))
        for name, _, ticks in scheduled
        if job in (None, name)
        for tick in ticks.next_ticks(now, days)
    )
    if as_json:
        print_json(
            {
                "ticks": [
                    {"job": name, "tick": tick.isoformat(), "local": local.isoformat()}
                    for tick, name, local in found[:limit]
                ],
                "num_ticks": len(found),
            }
        )
        return
    print_columns(
        ["UTC", "local", "job"],
        [[_minute(t.isoformat()), f"{at:%Y-%m-%d %H:%M %Z}", n] for t, n, at in found[:limit]],
        empty=f"nothing is due in the next {days:g} days",
    )
    if len(found) > limit:
        write_line(f"and {len(found) - limit:,} more; raise --limit to see them")


for command in (pause, resume, trigger, backfill):
    app.command()(command)


@app.command()
def history(
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", show_default="all jobs", **JOB)
    ] = None,
    ledger: LedgerFile = None,
    limit: Annotated[int, typer.Option(help="Number of ticks to show.", min=1)] = 50,
    as_json: JsonFlag = False,
) -> None:
    """Show the outcome of past ticks, newest first, including skipped ones."""
    from orchestrator.schedule.looks import Looks

    book, looks = open_ledger(ledger), Looks(_LOOK_S)
    runs = book.history(job, limit) if book else []
    known = sorted(book.jobs()) if book else []
    if job is not None and not runs and job not in known:
        raise SpecError(f"the ledger has no job {job}; it has: {', '.join(known) or 'none yet'}")
    if as_json:
        print_json({"ticks": [_described(run, looks) for run in runs]})
        return
    print_columns(
        ["tick (UTC)", "job", "origin", "state", "tries", "reason"],
        [
            [
                f"{run.tick:%Y-%m-%d %H:%M}",
                run.job,
                run.origin,
                described["state"],
                str(run.attempt or ""),
                described["reason"] or "",
            ]
            for run, described in ((run, _described(run, looks)) for run in runs)
        ],
        empty="no job has been due yet",
    )


def _described(run: "RunRow", looks: "Looks") -> dict[str, Any]:
    from orchestrator.runs.run_dir import RunDir

    state, reason = str(run.state), run.reason
    is_finished = False
    if state in ("FAILED", "STOPPED") and run.folder:
        with contextlib.suppress(OSError):  # a share that hangs
            is_finished = looks.ask(run.folder.parent, RunDir(run.folder).success.exists)
    # A driver may outlive its head node, and finish after the ledger has given it up.
    if is_finished:
        state, reason = "SUCCEEDED", f"finished after it was recorded as {state}: {reason}"
    return {
        "job": run.job,
        "tick": run.tick.isoformat(),
        "origin": run.origin,
        "state": state,
        "reason": reason,
        "attempts": run.attempt,
        "submission_id": run.submission_id,
        "run_folder": str(run.folder) if run.folder else None,
        "decided_at": run.decided_at.isoformat(timespec="seconds"),
        "ended_at": run.ended_at.isoformat(timespec="seconds") if run.ended_at else None,
        "on_failure": run.notice,
    }


def _minute(moment: str | None) -> str:
    return moment[:16].replace("T", " ") if moment else "never"
