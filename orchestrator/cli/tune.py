"""`orchestrator tune`."""

from pathlib import Path

import typer

from orchestrator.cli.options import run_command
from orchestrator.cli.output import print_result
from orchestrator.cli.request import Request
from orchestrator.errors import DataError

app = typer.Typer()


@run_command(app, "tune", default_job=Path("jobs", "tune.yaml"))
def tune(request: Request) -> None:
    """Search learning rate, alpha, gamma and dropout, and release the best model."""
    from orchestrator.cli.summaries import tune_summary
    from orchestrator.config.addresses import is_address

    data = request.spec.data
    if not is_address(data) and not Path(data).exists():
        where = f"edit `data` in {request.job_file}" if request.job_file else "check the path"
        raise DataError(
            f"{data} does not exist; name your folder of X-rays with `orchestrator tune FOLDER`, "
            f"or {where}"
        )
    result = request.run()
    body = result.report | {"bundle": str(result.bundle), "run": str(result.run)}
    print_result(body, tune_summary(result), as_json=request.as_json)
