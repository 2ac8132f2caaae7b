"""`orchestrator runs`: the folders that runs leave."""

import os
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.output import write_line

app = typer.Typer(no_args_is_help=True, help="Look after the folders that runs leave.")

_SHOWN = 10  # folders named one by one


@app.command()
def report(
    root: Annotated[
        Path, typer.Argument(metavar="[ROOT]", help="Folder of runs.", show_default="runs/")
    ] = Path("runs"),
    last: Annotated[
        int, typer.Option(min=1, metavar="<int>", help="Finished scoring runs to show, the newest.")
    ] = 30,
    out: Annotated[
        Path | None,
        typer.Option(metavar="<file>", help="The page.", show_default="report.html in ROOT"),
    ] = None,
    metrics_file: Annotated[
        Path | None,
        typer.Option(
            metavar="<file>",
            help="Also write the newest run's counts here, for Prometheus's node exporter (.prom).",
            show_default="none",
        ),
    ] = None,
) -> None:
    """Draw one page of the last scoring runs: counts, rejections, calls, and drift."""
    from datetime import datetime

    from orchestrator.data.predictions import ended_at, find_finished, load_report
    from orchestrator.data.schema import escape_path
    from orchestrator.errors import SpecError
    from orchestrator.evaluation.report.nights import build_nights, render_metrics, render_nights
    from orchestrator.runs.atomic import write_text
    from orchestrator.runs.run_dir import RunDir
    from orchestrator.runs.runs_root import RunsRoot

    if out is None and RunDir(root).success.exists():
        raise SpecError(
            f"{root} is one run and has a report of its own; name the folder of runs, or --out FILE"
        )
    runs = []
    for run in find_finished(root)[-last:]:
        name, ended = escape_path(os.fsencode(run.path.name)), ended_at(run)
        ended_s = datetime.fromisoformat(ended).timestamp()
        runs.append({"run": name, "ended": ended, "ended_s": ended_s, "report": load_report(run)})
    nights, folder = build_nights(runs), escape_path(os.fsencode(root.absolute()))
    page = out or RunsRoot(root).report
    write_text(page, render_nights(nights, folder))
    write_line(f"report  {page}")
    if metrics_file is not None:
        write_text(metrics_file, render_metrics(nights[-1], folder))
        write_line(f"metrics {metrics_file}")


@app.command()
def prune(
    keep: Annotated[
        int, typer.Option(min=1, metavar="<int>", help="Finished scoring runs to keep, the newest.")
    ],
    root: Annotated[
        Path, typer.Argument(metavar="[ROOT]", help="Folder of runs.", show_default="runs/")
    ] = Path("runs"),
) -> None:
    """Remove old scoring runs; --only-new still leaves out the images that they have scored.

    Their predictions and reports are lost, unless copied elsewhere. Unfinished runs and runs of
    other commands stay.
    """
    from orchestrator.cli.terminal import open_reporter
    from orchestrator.data.known.prune import prune_runs

    def announce(going: list[Path], num_kept: int) -> None:
        for folder in going[:_SHOWN]:
            write_line(f"removing {folder}")
        if len(going) > _SHOWN:
            write_line(f"removing {len(going) - _SHOWN:,} more, the last of them {going[-1]}")
        write_line(f"{len(going):,} finished scoring runs go, {num_kept:,} stay")

    with open_reporter() as reporter:
        prune_runs(root, keep, reporter, announce)


@app.command("open")
def open_root(
    root: Annotated[
        str,
        typer.Argument(
            metavar="[ROOT]", help="Folder of runs, or its address.", show_default="runs/"
        ),
    ] = "runs",
) -> None:
    """Ask all scoring runs of a folder in SQL, at a prompt. Read-only; `sql` answers one query."""
    from orchestrator.cli.sql import open_prompt

    open_prompt(root)
