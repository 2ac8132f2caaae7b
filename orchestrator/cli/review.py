"""`orchestrator review`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import JsonFlag
from orchestrator.cli.output import print_result

if TYPE_CHECKING:
    from orchestrator.pipelines.review.corrections import ReviewResult
    from orchestrator.pipelines.review.worklist import WorklistResult

app = typer.Typer()


@app.command()
def review(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished scoring run.")],
    limit: Annotated[
        int, typer.Option(min=1, max=5000, metavar="<int>", help="Most images on the worklist.")
    ] = 200,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--import",
            metavar="<path>",
            help="Take the answers of this corrections.csv into the run.",
            show_default="write the worklist",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a worklist of the least certain images for a person to read, or import the answers."""
    from dataclasses import asdict

    if answers is not None:
        from orchestrator.pipelines.review.corrections import import_corrections

        result = import_corrections(run, answers)
        body = result.report | {
            "corrections": str(result.corrections),
            "corrected": None if result.corrected is None else str(result.corrected),
        }
        print_result(body, _import_lines(result), as_json=as_json)
        return
    from orchestrator.cli.terminal import open_reporter
    from orchestrator.pipelines.review.worklist import write_worklist

    with open_reporter() as reporter:
        written = write_worklist(run, limit, reporter)
    print_result(asdict(written), _worklist_lines(written), as_json=as_json)


def _worklist_lines(written: "WorklistResult") -> list[str]:
    lines = [f"worklist  {written.page}, {written.num_images:,} images, the least certain first"]
    if written.num_missing:
        lines.append(
            f"warning: {written.num_missing:,} more can no longer be read: their files have moved "
            "or changed, or their paths were hashed"
        )
    lines.append("Open it in a browser, answer, export corrections.csv, then run")
    lines.append(f"  orchestrator review {written.page.parent} --import corrections.csv")
    return lines


def _import_lines(result: "ReviewResult") -> list[str]:
    """Returns the agreement, the metrics before and after, and the paths."""
    from orchestrator.cli.summaries import text_table
    from orchestrator.evaluation.wording import (
        METRIC_TITLES,
        format_figure,
        format_range,
    )

    report = result.report
    lines = [
        f"{report['num_answers']:,} answers, {report['num_unsure']:,} of them unsure; "
        f"{report['num_changed']:,} labels changed"
    ]
    for name, found in report["agreement"].items():
        kappa = found["kappa"]
        bounds = f", 95% interval {format_range(kappa)}" if kappa["low"] is not None else ""
        lines.append(
            f"reader and {name} agree on {found['num_agreed']:,} of {found['num_images']:,} "
            f"images, Cohen's kappa {format_figure(kappa['value'])}{bounds}"
        )
    if report["after"]:
        shown = [report[name]["metrics"] if report[name] else None for name in ("before", "after")]
        rows = [
            (
                title,
                *(
                    f"{format_figure(of[name]['value'])}  {format_range(of[name]):>13}"
                    if of
                    else ""
                    for of in shown
                ),
            )
            for name, title in METRIC_TITLES.items()
        ]
        lines += text_table("Metrics, with 95% intervals", ("", "labels", "corrected"), rows)
    lines.append(f"answers  {result.corrections}")
    if result.corrected is not None:
        lines.append(f"labels   {result.corrected}, which train and recalibrate take")
    return lines
