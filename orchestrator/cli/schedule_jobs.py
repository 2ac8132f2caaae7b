"""The jobs in force and the ledger, as the commands of `orchestrator schedule` find them."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.completion import complete_schedule
from orchestrator.cli.output import tell
from orchestrator.errors import SpecError

if TYPE_CHECKING:
    from orchestrator.config.cron import Ticks
    from orchestrator.config.job import Job
    from orchestrator.schedule.ledger import Ledger

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
JOB: dict[str, Any] = {"help": "Name of a scheduled job.", "autocompletion": complete_schedule}
JobName = Annotated[str, typer.Argument(metavar="JOB", **JOB)]
JOBS = Path("jobs")


def list_scheduled(
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


def list_usable(folder: Path, book: "Ledger | None") -> list[tuple[str, "Job", "Ticks"]]:
    """Returns (name, job, ticks) of each job in force; what is wrong goes to stderr."""
    scheduled, faults = list_scheduled(folder, book)
    lines = [f"{source}: {problem}" for source, problem in faults.items()]
    if lines and not scheduled:
        raise SpecError("; ".join(lines))
    for line in lines:
        tell(f"warning: {line}")
    return scheduled


def open_ledger(path: Path | None) -> "Ledger | None":
    """Returns the ledger, None where there is none yet: reading makes no file."""
    from orchestrator.runs.state import schedule_ledger
    from orchestrator.schedule.ledger import Ledger

    found = path or schedule_ledger()
    return Ledger(found) if found.exists() else None


def describe_unknown(job: str, known: list[str]) -> str:
    """Returns what is said of a name that no scheduled job has."""
    return f"no scheduled job is named {job}; known: {', '.join(known) or 'none'}"
