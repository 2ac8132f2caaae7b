"""`orchestrator score`."""

import typer

from orchestrator.cli.options import run_command
from orchestrator.cli.output import print_result
from orchestrator.cli.request import Request
from orchestrator.errors import DriftError

app = typer.Typer()


@run_command(app, "score")
def score(request: Request) -> None:
    """Score X-rays: one row per image, a report, and every file accounted for."""
    from orchestrator.cli.summaries import score_summary
    from orchestrator.evaluation.wording import name_drifted

    result = request.run()
    body = result.report | {"out": result.published or str(result.run)}
    print_result(body, score_summary(result), as_json=request.as_json)
    drift = result.report.get("drift")
    if request.spec.fail_on_drift and drift and drift["drifted"]:
        raise DriftError(
            f"drift from the training images: {name_drifted(drift)}; the run finished and its "
            f"tables are complete; look at {result.run / 'report.html'} before its results are used"
        )
