"""`orchestrator compare`."""

import typer

from orchestrator.cli.options import run_command
from orchestrator.cli.output import print_result
from orchestrator.cli.request import Request

app = typer.Typer()


@run_command(app, "compare")
def compare(request: Request) -> None:
    """Train several backbones by one recipe and tabulate them beside the paper's Table IV."""
    from orchestrator.cli.summaries import compare_summary

    result = request.run()
    body = result.report | {"out": str(result.run)}
    print_result(body, compare_summary(result), as_json=request.as_json)
