"""`orchestrator ingest`."""

import typer

from orchestrator.cli.options import run_command
from orchestrator.cli.output import print_result
from orchestrator.cli.request import Request

app = typer.Typer()


@run_command(app, "ingest")
def ingest(request: Request) -> None:
    """Decode a folder once into an Arrow data set, which the other commands read."""
    described = request.run()
    line = (
        f"{described['num_decoded']:,} of {described['num_found']:,} files decoded to "
        f"{described['size_px']} px, {described['num_rejected']:,} rejected: {request.spec.out}"
    )
    print_result(described, [line], as_json=request.as_json)
