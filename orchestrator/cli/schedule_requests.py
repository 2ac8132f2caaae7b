"""What a person asks of the scheduler: pauses, and runs at once or of a span that has passed."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

from orchestrator.cli.output import tell, write_line
from orchestrator.cli.schedule_jobs import (
    JOBS,
    JobName,
    Jobs,
    LedgerFile,
    describe_unknown,
    list_usable,
    open_ledger,
)
from orchestrator.errors import SpecError, counted

if TYPE_CHECKING:
    from orchestrator.config.cron import Ticks
    from orchestrator.schedule.ledger import Ledger

_MOST_RUNS = 1000  # of one backfill
_LONGEST_SPAN = timedelta(days=3660)
_MOMENT = "such as 2026-03-01 or 2026-03-01T02:00"
From = Annotated[
    str, typer.Option("--from", metavar="<time>", help="First tick of the span, or a time before.")
]
To = Annotated[
    str, typer.Option("--to", metavar="<time>", help="Last tick of the span, or a time after.")
]


def pause(job: JobName, jobs: Jobs = JOBS, ledger: LedgerFile = None) -> None:
    """Pause a job: its ticks are skipped until it is resumed."""
    book = _open_for(job, jobs, ledger)
    done = book.pause(job, datetime.now(UTC))
    write_line(f"{job} is paused" if done else f"{job} was already paused")


def resume(job: JobName, jobs: Jobs = JOBS, ledger: LedgerFile = None) -> None:
    """Resume a paused job; ticks skipped during the pause are not made up for."""
    book = _open_for(job, jobs, ledger)
    done = book.resume(job, datetime.now(UTC))
    write_line(f"{job} is resumed" if done else f"{job} was not paused")


def trigger(job: JobName, jobs: Jobs = JOBS, ledger: LedgerFile = None) -> None:
    """Run a job now, once, as a tick of its own; the job's `overlap` setting applies."""
    book, _ = _open_to_run(job, jobs, ledger)
    now = datetime.now(UTC)
    tick = book.trigger(job, now)
    write_line(f"requested: {job}, as its tick of {tick:%Y-%m-%d %H:%M:%S} UTC")
    _say_who_runs(book, job, now)


def backfill(
    job: JobName, since: From, until: To, jobs: Jobs = JOBS, ledger: LedgerFile = None
) -> None:
    """Run the past ticks of a span that have no run, oldest first, one after another.

    Ticks at both ends count. A time is a date or a date with a time, in the time zone of the job's
    schedule unless it says otherwise; a date alone is its midnight.
    """
    from orchestrator.config.cron import After

    book, ticks = _open_to_run(job, jobs, ledger)
    if isinstance(ticks, After):
        raise SpecError(f"{job} runs {ticks.cron} and has no ticks of its own; backfill that job")
    now = datetime.now(UTC)
    start, end = _moment("--from", since, ticks), _moment("--to", until, ticks)
    if start > end:
        raise SpecError(f"--from {since} is later than --to {until}; swap them")
    if end > now:
        raise SpecError(f"--to {until} is in the future; future ticks run on schedule")
    if end - start > _LONGEST_SPAN:
        raise SpecError(f"--from {since} is more than ten years before --to; narrow the span")
    due = list(islice(ticks.between(start - timedelta(seconds=1), end), _MOST_RUNS + 1))
    if len(due) > _MOST_RUNS:
        raise SpecError(
            f"{job} has more than {_MOST_RUNS:,} ticks from {since} to {until}; narrow the span"
        )
    if not due:
        raise SpecError(f"{job} ({ticks.cron}) has no tick from {since} to {until}; widen the span")
    found = book.backfill(job, due, now)
    if not found:
        write_line(
            f"nothing to run: {job} has a run for each of {counted(len(due), 'tick')}, finished or "
            f"not; a failed one is not repeated: `orchestrator schedule trigger {job}` runs it now"
        )
        return
    write_line(
        f"requested: {counted(len(found), 'run')} of {job}, for its ticks from "
        f"{found[0]:%Y-%m-%d %H:%M} to {found[-1]:%Y-%m-%d %H:%M} UTC, one after another"
    )
    if len(found) < len(due):
        write_line(f"left out: {counted(len(due) - len(found), 'tick')} with a run already")
    _say_who_runs(book, job, now)


def _open_for(job: str, jobs: Path, path: Path | None) -> "Ledger":
    """Returns the ledger, made if need be, after checking that the job's name is known."""
    from orchestrator.runs.state import schedule_ledger
    from orchestrator.schedule.ledger import Ledger

    book = open_ledger(path)
    known = set(book.jobs()) if book else set()
    if job not in known:
        known |= {name for name, _, _ in list_usable(jobs, book)}
    if job not in known:
        raise SpecError(describe_unknown(job, sorted(known)))
    return book or Ledger(path or schedule_ledger())


def _open_to_run(job: str, jobs: Path, path: Path | None) -> "tuple[Ledger, Ticks]":
    """Returns the ledger and the ticks of a job that is in force and not paused."""
    from orchestrator.config.cron import parse_ticks

    book = _open_for(job, jobs, path)
    if job in book.paused():
        raise SpecError(f"{job} is paused; run `orchestrator schedule resume {job}` first")
    row = book.jobs().get(job)
    if row is not None and row.cron is not None:  # as the scheduler has it
        return book, parse_ticks(row.cron, row.timezone or "UTC")
    in_force = {name: ticks for name, _, ticks in list_usable(jobs, book)}
    if job not in in_force:
        raise SpecError(describe_unknown(job, sorted(in_force)))
    if book.is_led(datetime.now(UTC)):
        raise SpecError(
            f"the scheduler that runs on this ledger does not have {job} yet: try again in a "
            f"minute, or start it with --jobs {jobs} if it follows another folder"
        )
    return book, in_force[job]


def _moment(option: str, text: str, ticks: "Ticks") -> datetime:
    """Returns an instant as given; without an offset it is in the job's time zone."""
    try:
        found = datetime.fromisoformat(text)
        local = found if found.tzinfo else found.replace(tzinfo=ZoneInfo(ticks.timezone))
        return local.astimezone(UTC)  # differences within a zone are those of its wall clock
    except (ValueError, OverflowError):
        raise SpecError(f"{option} {text[:60]!r} is no time; expected one {_MOMENT}") from None


def _say_who_runs(book: "Ledger", job: str, now: datetime) -> None:
    if not book.is_led(now):
        tell("no scheduler is running on this ledger; start one with `orchestrator schedule run`")
    tell(f"`orchestrator schedule history {job}` shows what becomes of it")
