"""`orchestrator cluster`: clusters to run on. A part of the command line, mounted by `cli.py`."""

import typer

from orchestrator.jobs_cli import stop_head
from orchestrator.launcher_cli import check, kuberay

app = typer.Typer(no_args_is_help=True, help="The cluster that jobs run on.")
app.command()(check)
app.command()(kuberay)
app.command("stop")(stop_head)
