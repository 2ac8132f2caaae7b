"""`orchestrator train` and `orchestrator find-lr`."""

import typer

from orchestrator.cli.options import run_command
from orchestrator.cli.output import print_result
from orchestrator.cli.request import Request

app = typer.Typer()


@run_command(app, "train")
def train(request: Request) -> None:
    """Train a classifier and release it as a model bundle."""
    from orchestrator.cli.summaries import train_summary

    result = request.run()
    body = result.report | {"bundle": str(result.bundle), "run": str(result.run)}
    print_result(body, train_summary(result), as_json=request.as_json)


@run_command(app, "find-lr")
def find_lr(request: Request) -> None:
    """Find a learning rate for a training run, from its data or its job file."""
    from orchestrator.cli.summaries import rate_summary

    result = request.run()
    body = result.report | {"out": str(result.run)}
    print_result(body, rate_summary(result), as_json=request.as_json)
