"""`orchestrator cluster`: the local head. A part of the command line, mounted by `cli.py`."""

import typer

from orchestrator.jobs_cli import stop_head

app = typer.Typer(no_args_is_help=True, help="The cluster that jobs run on.")
app.command("stop")(stop_head)


@app.callback()
def _group() -> None:
    """Keeps the name of a single command."""
