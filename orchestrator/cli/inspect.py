"""`orchestrator inspect`."""

from typing import Annotated

import typer

from orchestrator.cli.completion import complete_bundle
from orchestrator.cli.options import JsonFlag
from orchestrator.cli.output import print_result

app = typer.Typer()


@app.command()
def inspect(
    bundle: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE",
            help="Bundle folder, or a version such as models:production.",
            autocompletion=complete_bundle,
        ),
    ],
    as_json: JsonFlag = False,
) -> None:
    """Verify a model bundle's hashes and describe it, without loading the network."""
    from orchestrator.cli.summaries import bundle_summary
    from orchestrator.registry.reference import open_model

    info = open_model(bundle).info
    print_result(info.model_dump(mode="json"), bundle_summary(bundle, info), as_json=as_json)
