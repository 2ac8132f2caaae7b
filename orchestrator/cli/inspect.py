"""`orchestrator inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.completion import complete_bundle
from orchestrator.cli.options import JsonFlag
from orchestrator.cli.output import print_result

app = typer.Typer()


@app.command()
def inspect(
    bundle: Annotated[
        Path,
        typer.Argument(metavar="BUNDLE", help="Bundle folder.", autocompletion=complete_bundle),
    ],
    as_json: JsonFlag = False,
) -> None:
    """Verify a model bundle's hashes and describe it, without loading the network."""
    from orchestrator.cli.summaries import bundle_summary
    from orchestrator.model.bundle import load_info

    info = load_info(bundle)
    print_result(info.model_dump(mode="json"), bundle_summary(bundle, info), as_json=as_json)
