"""`orchestrator quantize`."""

import typer

from orchestrator.cli.options import run_command
from orchestrator.cli.output import print_result
from orchestrator.cli.request import Request

app = typer.Typer()


@run_command(app, "quantize")
def quantize(request: Request) -> None:
    """Add an int8 network to a model, provided that its calls hardly change."""
    from orchestrator.cli.summaries import quantize_summary

    result = request.run()
    body = result.report | {"bundle": str(result.bundle), "run": str(result.run)}
    print_result(body, quantize_summary(result), as_json=request.as_json)
