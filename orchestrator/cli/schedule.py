"""`orchestrator schedule`: what is scheduled, what is due next, what has happened.

Over 300 lines: a command each, most of them declarations and help texts.
"""

import contextlib
import os
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.completion import complete_schedule
from orchestrator.cli.jobs import Address, Insecure
from orchestrator.cli.options import JsonFlag
from orchestrator.cli.output import print_columns, print_json, tell, write_line
from orchestrator.errors import SpecError

if TYPE_CHECKING:
    from orchestrator.config.cron import Ticks
    from orchestrator.config.job import Job
    from orchestrator.schedule.ledger import Ledger
    from orchestrator.schedule.looks import Looks
    from orchestrator.schedule.rows import RunRow

app = typer.Typer(no_args_is_help=True, help="Run jobs on a schedule, each tick exactly once.")

Jobs = Annotated[Path, typer.Option(metavar="<folder>", help="Folder of job files.")]
LedgerFile = Annotated[
    Path | None,
    typer.Option(
        metavar="<file>",
        envvar="ORCHESTRATOR_LEDGER",
        help="Ledger file, on a local disk.",
        show_default="~/.local/state/orchestrator/schedule.sqlite3",
    ),
]
_JOB: dict[str, Any] = {"help": "Name of a scheduled job.", "autocompletion": complete_schedule}
JobName = Annotated[str, typer.Argument(metavar="JOB", **_JOB)]
_JOBS = Path("jobs")
_LOOK_S = 3.0  # longest wait for run folders


@app.command()
def run(
    jobs: Jobs = _JOBS,
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
def list_jobs(jobs: Jobs = _JOBS, ledger: LedgerFile = None, as_json: JsonFlag = False) -> None:
    """List the scheduled jobs: their next tick, the last one's outcome, and what is wrong."""
    from orchestrator.schedule.looks import Looks

    book, looks = _open(ledger), Looks(_LOOK_S)
    paused = book.paused() if book else set()
    scheduled, faults = _scheduled(jobs, book)
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
    jobs: Jobs = _JOBS,
    days: Annotated[float, typer.Option(help="Days to look ahead.", min=0.01, max=366)] = 7.0,
    job: Annotated[
        str | None, typer.Option(metavar="<name>", show_default="all jobs", **_JOB)
    ] = None,
    ledger: LedgerFile = None,
    limit: Annotated[int, typer.Option(help="Maximum number of ticks to show.", min=1)] = 200,
    as_json: JsonFlag = False,
) -> None:
    """Show when each job is due next, taking daylight saving time into account."""
    now = datetime.now(UTC)
    scheduled = _usable(jobs, _open(ledger))
    if job is not None and job not in [name for name, _, _ in scheduled]:
        raise SpecError(_unknown(job, [name for name, _, _ in scheduled]))
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


@app.command()
def pause(
    job: JobName,
    jobs: Jobs = _JOBS,
    ledger: LedgerFile = None,
) -> None:
    """Pause a job: its ticks are skipped until it is resumed."""
    book = _open_for(job, jobs, ledger)
    done = book.pause(job, datetime.now(UTC))
    write_line(f"{job} is paused" if done else f"{job} was already paused")


@app.command()
def resume(
    job: JobName,
    jobs: Jobs = _JOBS,
    ledger: LedgerFile = None,
) -> None:
    """Resume a paused job; ticks skipped during the pause are not made up for."""
    book = _open_for(job, jobs, ledger)
    done = book.resume(job, datetime.now(UTC))
    write_line(f"{job} is resumed" if done else f"{job} was not paused")


@app.command()
def history(
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", show_default="all jobs", **_JOB)
    ] = None,
    ledger: LedgerFile = None,
    limit: Annotated[int, typer.Option(help="Number of ticks to show.", min=1)] = 50,
    as_json: JsonFlag = False,
) -> None:
    """Show the outcome of past ticks, newest first, including skipped ones."""
    from orchestrator.schedule.looks import Looks

    book, looks = _open(ledger), Looks(_LOOK_S)
    runs = book.history(job, limit) if book else []
    known = sorted(book.jobs()) if book else []
    if job is not None and not runs and job not in known:
        raise SpecError(f"the ledger has no job {job}; it has: {', '.join(known) or 'none yet'}")
    if as_json:
        print_json({"ticks": [_described(run, looks) for run in runs]})
        return
    print_columns(
        ["tick (UTC)", "job", "state", "tries", "reason"],
        [
            [
                f"{run.tick:%Y-%m-%d %H:%M}",
                run.job,
                described["state"],
                str(run.attempt or ""),
                described["reason"] or "",
            ]
            for run, described in ((run, _described(run, looks)) for run in runs)
        ],
        empty="no job has been due yet",
    )


def _scheduled(
    folder: Path, book: "Ledger | None"
) -> tuple[list[tuple[str, "Job", "Ticks"]], dict[str, str]]:
    """Returns (name, job, ticks) of each job in force, and faults by job or else by file."""
    from orchestrator.schedule.job_folder import JobFolder, load_stored

    loaded = JobFolder(folder).load()
    if loaded.problem is not None:
        raise SpecError(loaded.problem)
    jobs = {name: job for name, (job, _) in loaded.jobs.items()}
    rows = book.jobs() if book else {}
    owners = {row.file: row for row in rows.values() if row.cron}
    faults = {}
    for file, problem in loaded.faults.items():
        row = owners.get(file)
        faults[row.name if row else file] = problem
        if row is not None and row.spec is not None and row.name not in jobs:
            with contextlib.suppress(SpecError):  # stored by another version of the program
                jobs[row.name] = load_stored(row.spec)
    for (source, topic), problem in book.faults().items() if book else ():
        if topic != "file":  # these are as the files are now
            faults.setdefault(source, problem)
    return [(name, job, job.schedule.ticks()) for name, job in jobs.items() if job.schedule], faults


def _usable(folder: Path, book: "Ledger | None") -> list[tuple[str, "Job", "Ticks"]]:
    """Returns (name, job, ticks) of each job in force; what is wrong goes to stderr."""
    scheduled, faults = _scheduled(folder, book)
    lines = [f"{source}: {problem}" for source, problem in faults.items()]
    if lines and not scheduled:
        raise SpecError("; ".join(lines))
    for line in lines:
        tell(f"warning: {line}")
    return scheduled


def _open(path: Path | None) -> "Ledger | None":
    """Returns the ledger, None where there is none yet: reading makes no file."""
    from orchestrator.runs.state import schedule_ledger
    from orchestrator.schedule.ledger import Ledger

    found = path or schedule_ledger()
    return Ledger(found) if found.exists() else None


def _open_for(job: str, jobs: Path, path: Path | None) -> "Ledger":
    """Returns the ledger, made if need be, after checking that the job's name is known."""
    from orchestrator.runs.state import schedule_ledger
    from orchestrator.schedule.ledger import Ledger

    book = _open(path)
    known = set(book.jobs()) if book else set()
    if job not in known:
        known |= {name for name, _, _ in _usable(jobs, book)}
    if job not in known:
        raise SpecError(_unknown(job, sorted(known)))
    return book or Ledger(path or schedule_ledger())


def _unknown(job: str, known: list[str]) -> str:
    return f"no scheduled job is named {job}; known: {', '.join(known) or 'none'}"


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
