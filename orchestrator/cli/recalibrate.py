"""`orchestrator recalibrate`."""

import typer

from orchestrator.cli.options import run_command
from orchestrator.cli.output import print_result
from orchestrator.cli.request import Request

app = typer.Typer()


@run_command(app, "recalibrate")
def recalibrate(request: Request) -> None:
    """Fit a model's calibration and threshold to labelled X-rays of one site."""
    from orchestrator.cli.summaries import recalibrate_summary

    result = request.run()
    body = result.report | {"bundle": str(result.bundle), "run": str(result.run)}
    print_result(body, recalibrate_summary(result), as_json=request.as_json)
