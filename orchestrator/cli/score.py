"""`orchestrator score`."""

import typer

from orchestrator.cli.options import run_command
from orchestrator.cli.output import print_result
from orchestrator.cli.request import Request

app = typer.Typer()


@run_command(app, "score")
def score(request: Request) -> None:
    """Score X-rays: one row per image, a report, and every file accounted for."""
    from orchestrator.cli.summaries import score_summary

    result = request.run()
    body = result.report | {"out": result.published or str(result.run)}
    print_result(body, score_summary(result), as_json=request.as_json)
