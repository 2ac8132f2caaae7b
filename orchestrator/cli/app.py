"""The command line: its commands, and the one place that catches errors.

Nothing heavy is imported before a command runs. What is not an `OrchestratorError` is a fault of
the program and keeps its traceback.
"""

import signal
import sys
import traceback
from typing import Annotated

import typer

from orchestrator import __version__
from orchestrator.cli import (
    cluster,
    compare,
    demo,
    doctor,
    explain,
    export,
    ingest,
    inspect,
    jobs,
    models,
    plan,
    quantize,
    recalibrate,
    review,
    runs,
    schedule,
    score,
    sql,
    train,
    tune,
)
from orchestrator.cli.help_page import QuickHelp
from orchestrator.cli.output import tell, write_line
from orchestrator.cli.process import hear_signals, ignore_signals, keep_streams
from orchestrator.errors import OrchestratorError

app = typer.Typer(
    cls=QuickHelp,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Batch cluster jobs for chest X-ray pneumonia classification. Research use only.",
)
jobs.app.command()(plan.validate)
jobs.app.command()(plan.plan)
# In the order of the help page; the commands of what has no name stand at the top.
app.add_typer(train.app)
app.add_typer(tune.app)
app.add_typer(compare.app)
app.add_typer(score.app)
app.add_typer(explain.app)
app.add_typer(review.app)
app.add_typer(export.app)
app.add_typer(recalibrate.app)
app.add_typer(quantize.app)
app.add_typer(ingest.app)
app.add_typer(inspect.app)
app.add_typer(models.app, name="models")
app.add_typer(jobs.submit_app)
app.add_typer(jobs.app, name="jobs")
app.add_typer(sql.app)
app.add_typer(runs.app, name="runs")
app.add_typer(schedule.app, name="schedule")
app.add_typer(cluster.app, name="cluster")
app.add_typer(doctor.app)
app.add_typer(demo.app)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[
        bool, typer.Option("--version", metavar="", help="Show the version and exit.")
    ] = False,
) -> None:
    if version:
        write_line(__version__)
        raise typer.Exit


def main() -> None:
    """Runs the command line; the entry point of `orchestrator`."""
    keep_streams()
    signals = hear_signals()
    try:
        app(prog_name="orchestrator")
    except OrchestratorError as error:
        for line in (f"error: {error}", *_notes(error)):
            tell(line)
        sys.exit(error.exit_code)
    except Exception:  # a fault of the program
        for line in traceback.format_exc().splitlines():
            tell(line)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as end:
        # What Typer makes of a KeyboardInterrupt, where it sees it.
        if isinstance(end, SystemExit) and end.code != 128 + signal.SIGINT:
            raise
        ignore_signals()
        said = _notes(end) or ["run the same command again to continue"]
        for line in ("stopped; " + said[0], *said[1:]):
            tell(line)
        sys.exit(128 + (signals or [signal.SIGINT])[0])


def _notes(error: BaseException | None) -> list[str]:
    """Returns what was noted on an exception and on those that it was made from."""
    notes: list[str] = []
    while error is not None:
        notes += getattr(error, "__notes__", [])
        error = error.__cause__ or error.__context__
    return list(dict.fromkeys(notes))
