"""`orchestrator explain`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.completion import complete_bundle
from orchestrator.cli.options import JsonFlag
from orchestrator.cli.output import print_result

if TYPE_CHECKING:
    from orchestrator.pipelines.explain import ExplainResult

app = typer.Typer()


@app.command()
def explain(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="Files, folders or addresses of X-rays.")
    ],
    out: Annotated[Path, typer.Option(metavar="<path>", help="New folder for the pictures, PNG.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<path>",
            help="Model bundle; repeat the option to average several.",
            show_default="the newest bundle in models/",
            autocompletion=complete_bundle,
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Draw where the model looks: a heat map over each X-ray, its probability beside it."""
    from orchestrator.cli.terminal import open_reporter
    from orchestrator.pipelines.explain import explain as run

    with open_reporter() as reporter:
        result = run(images, model, out, reporter)
    print_result(asdict(result), _summary(result), as_json=as_json)


def _summary(result: "ExplainResult") -> list[str]:
    """Returns a line for each image, and for each file that could not be used."""
    from orchestrator.data.schema import CLASS_NAMES
    from orchestrator.evaluation.wording import format_figure

    lines = [
        f"{format_figure(image['probability'])}  {CLASS_NAMES[image['called']]:9}  "
        f"{image['path']}  {image['picture']}"
        for image in result.images
    ]
    lines += [f"rejected  {row['path']}: {row['message']}" for row in result.rejected]
    return [*lines, f"threshold {format_figure(result.threshold)}"]
