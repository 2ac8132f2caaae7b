"""`orchestrator schedule`: what is scheduled, what is due next, what has happened.

A part of the command line, mounted by `cli.py`; its rules are the same.
"""

import json
import os
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.jobs import Address, Insecure
from orchestrator.errors import SpecError
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.state import state_folder

if TYPE_CHECKING:
    from orchestrator.config.job import Job
    from orchestrator.schedule.ledger import Ledger, RunRow

app = typer.Typer(no_args_is_help=True, help="Jobs that run by the clock, each tick once.")

Jobs = Annotated[Path, typer.Option("--jobs", help="Folder of job files.")]
LedgerFile = Annotated[
    Path | None,
    typer.Option(
        "--ledger",
        envvar="ORCHESTRATOR_LEDGER",
        help="Ledger, on a local disk; ~/.local/state/orchestrator/schedule.sqlite3 otherwise.",
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
_JOBS = Path("jobs")


def default_ledger() -> Path:
    """Returns the ledger's usual place, on a local disk as SQLite needs it."""
    return state_folder() / "schedule.sqlite3"


@app.command()
def run(
    jobs: Jobs = _JOBS,
    ledger: LedgerFile = None,
    address: Address = None,
    insecure: Insecure = False,
) -> None:
    """Submit what is due, until it is told to stop: a service in the foreground.

    Any number may run against one ledger; one leads. SIGTERM and Ctrl-C end it; what it has
    submitted goes on, and the next one finds it again.
    """
    from orchestrator.jobs.client import name_cluster

    if insecure:
        os.environ["RAY_AUTH_MODE"] = "disabled"
    if not jobs.is_dir():
        raise SpecError(f"--jobs {jobs} is no folder; name the folder of job files")
    from orchestrator.jobs.scheduler_backend import RayJobsBackend, place
    from orchestrator.schedule.job_folder import JobFolder
    from orchestrator.schedule.ledger import Ledger
    from orchestrator.schedule.loop import Scheduler

    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    store = RayJobsBackend(name_cluster(address), _log).as_backend()
    book = Ledger(ledger or default_ledger())
    _log(f"jobs: {jobs.absolute()}, ledger: {book.path.absolute()}")
    Scheduler(book, JobFolder(jobs).load, store, _log, place=place).run(stopping)
    _log("ended")


def _log(line: str) -> None:
    sys.stderr.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}\n")
    sys.stderr.flush()


@app.command("list")
def list_jobs(jobs: Jobs = _JOBS, ledger: LedgerFile = None, as_json: JsonFlag = False) -> None:
    """Show the scheduled jobs, their next tick and what became of the last one."""
    book = _open(ledger)
    paused = book.paused() if book else set()
    rows = []
    for name, job, ticks in _scheduled(jobs):
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
                "last": _described(last[0]) if last else None,
            }
        )
    if as_json:
        _print_json({"jobs": rows})
        return
    _print_table(
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


@app.command("next")
def next_ticks(
    jobs: Jobs = _JOBS,
    days: Annotated[float, typer.Option(help="How far ahead.", min=0.01, max=366)] = 7.0,
    job: Annotated[str | None, typer.Option(help="One job only.")] = None,
    limit: Annotated[int, typer.Option(help="Most lines.", min=1)] = 200,
    as_json: JsonFlag = False,
) -> None:
    """Show when each job is due, daylight saving included."""
    now = datetime.now(UTC)
    scheduled = _scheduled(jobs)
    if job is not None and job not in [name for name, _, _ in scheduled]:
        raise SpecError(_unknown(job, [name for name, _, _ in scheduled]))
    found = sorted(
        (tick, name, ticks.local(tick))
        for name, _, ticks in scheduled
        if job in (None, name)
        for tick in ticks.next_ticks(now, days)
    )
    if as_json:
        _print_json(
            {
                "ticks": [
                    {"job": name, "tick": tick.isoformat(), "local": local.isoformat()}
                    for tick, name, local in found[:limit]
                ],
                "num_ticks": len(found),
            }
        )
        return
    _print_table(
        ["UTC", "local", "job"],
        [[_minute(t.isoformat()), f"{at:%Y-%m-%d %H:%M %Z}", n] for t, n, at in found[:limit]],
        empty=f"nothing is due in the next {days:g} days",
    )
    if len(found) > limit:
        sys.stdout.write(f"and {len(found) - limit:,} more; --limit shows more\n")


@app.command()
def pause(
    job: Annotated[str, typer.Argument(help="Name of the job.")],
    jobs: Jobs = _JOBS,
    ledger: LedgerFile = None,
) -> None:
    """Skip a job's ticks, and start nothing of it, until it is resumed."""
    book = _open_for(job, jobs, ledger)
    done = book.pause(job, datetime.now(UTC))
    sys.stdout.write(f"{job} is paused\n" if done else f"{job} was paused already\n")


@app.command()
def resume(
    job: Annotated[str, typer.Argument(help="Name of the job.")],
    jobs: Jobs = _JOBS,
    ledger: LedgerFile = None,
) -> None:
    """End a pause; ticks that fell into it stay skipped."""
    book = _open_for(job, jobs, ledger)
    done = book.resume(job, datetime.now(UTC))
    sys.stdout.write(f"{job} is resumed\n" if done else f"{job} was not paused\n")


@app.command()
def history(
    job: Annotated[str | None, typer.Argument(help="One job only.")] = None,
    ledger: LedgerFile = None,
    limit: Annotated[int, typer.Option(help="Newest ticks shown.", min=1)] = 50,
    as_json: JsonFlag = False,
) -> None:
    """Show what became of each tick, newest first, skipped ones included."""
    book = _open(ledger)
    runs = book.history(job, limit) if book else []
    known = sorted(book.jobs()) if book else []
    if job is not None and not runs and job not in known:
        raise SpecError(
            f"the ledger knows no job {job}; it knows: {', '.join(known) or 'none yet'}"
        )
    if as_json:
        _print_json({"ticks": [_described(run) for run in runs]})
        return
    _print_table(
        ["tick (UTC)", "job", "state", "tries", "reason"],
        [
            [
                f"{run.tick:%Y-%m-%d %H:%M}",
                run.job,
                told["state"],
                str(run.attempt or ""),
                told["reason"] or "",
            ]
            for run, told in ((run, _described(run)) for run in runs)
        ],
        empty="no tick has come yet",
    )


def _scheduled(folder: Path) -> list[tuple[str, "Job", Any]]:
    """Returns (name, job, ticks) of each scheduled job; lines on wrong files go to stderr."""
    from orchestrator.schedule.job_folder import JobFolder

    jobs, errors = JobFolder(folder).load()
    if errors and not jobs:
        raise SpecError("; ".join(errors))
    for line in errors:
        sys.stderr.write(f"warning: {line}\n")
    return [(name, job, job.schedule.ticks()) for name, job in jobs.items() if job.schedule]


def _open(path: Path | None) -> "Ledger | None":
    """Returns the ledger, None where there is none yet: reading makes no file."""
    from orchestrator.schedule.ledger import Ledger

    found = path or default_ledger()
    return Ledger(found) if found.exists() else None


def _open_for(job: str, jobs: Path, path: Path | None) -> "Ledger":
    """Returns the ledger, made if need be, after checking that the job's name is known."""
    from orchestrator.schedule.ledger import Ledger

    book = _open(path)
    known = set(book.jobs()) if book else set()
    if job not in known:
        known |= {name for name, _, _ in _scheduled(jobs)}
    if job not in known:
        raise SpecError(_unknown(job, sorted(known)))
    return book or Ledger(path or default_ledger())


def _unknown(job: str, known: list[str]) -> str:
    return f"no scheduled job is named {job}; known: {', '.join(known) or 'none'}"


def _described(run: "RunRow") -> dict[str, Any]:
    state, reason = str(run.state), run.reason
    # A driver may outlive the head that has forgotten it, and finish after the ledger gave it up.
    if state in ("FAILED", "STOPPED") and run.folder and RunDir(run.folder).success.exists():
        state, reason = "SUCCEEDED", f"finished after it was taken for {state}: {reason}"
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


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def _print_table(heads: list[str], rows: list[list[str]], *, empty: str) -> None:
    if not rows:
        sys.stdout.write(empty + "\n")
        return
    widths = [max(len(row[at]) for row in [heads, *rows]) for at in range(len(heads))]
    for row in [heads, *rows]:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")
