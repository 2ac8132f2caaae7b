"""`orchestrator runs`: the folders that runs leave."""

import os
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import JsonFlag
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


@app.command()
def forget(
    patient: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="The patient's id, as in the DICOM header or the table; - reads it from a pipe.",
        ),
    ],
    root: Annotated[
        Path, typer.Argument(metavar="[ROOT]", help="Folder of runs.", show_default="runs/")
    ] = Path("runs"),
    patient_key_file: Annotated[
        Path | None,
        typer.Option(
            "--patient-key-file",
            "--patient-key",
            metavar="<path>",
            help="Key under which the runs hashed ids: the one that they were scored with.",
            show_default="ids as they are alone",
        ),
    ] = None,
    issuer: Annotated[
        str | None,
        typer.Option(metavar="<str>", help="Issuer of the id, where the DICOM header has one."),
    ] = None,
    path: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="<path>",
            help="A file or folder that is the patient's, where no id tells. Repeatable.",
        ),
    ] = None,
    why: Annotated[
        str, typer.Option(metavar="<str>", help="Reason, kept with each run; never the id.")
    ] = "on request",
    as_json: JsonFlag = False,
) -> None:
    """Remove one patient's rows from every scoring run, and record that, without the id."""
    import sys
    from dataclasses import asdict

    from orchestrator.cli.output import print_json
    from orchestrator.errors import DataError, counted
    from orchestrator.pipelines.forget.find import start_traces
    from orchestrator.pipelines.forget.forget import forget_patient

    def announce(name: str, rows: dict[str, int]) -> None:
        if not as_json:
            shown = ", ".join(f"{n:,} {table}" for table, n in rows.items() if n)
            write_line(f"{name}: removing {shown or 'what names them'}")

    given = sys.stdin.readline() if patient == "-" else patient
    traces = start_traces(given, issuer, patient_key_file, path or ())
    result = forget_patient(root, traces, why, announce)
    if as_json:
        print_json(asdict(result))
    else:
        looked = f"of {counted(result.num_runs, 'finished scoring run')}"
        write_line(f"{len(result.removed):,} {looked} had rows of this patient")
        for name, reason in result.hidden.items() if path else ():
            write_line(f"{name}: searched by files alone, since {reason}")
        if result.unnamed:
            number, runs = sum(result.unnamed.values()), counted(len(result.unnamed), "run")
            write_line(
                f"rejected files that name no patient: {number:,} in {runs}; name those of this "
                "one by --path"
            )
    remaining = result.left if path else result.hidden | result.left
    if remaining:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in remaining.items())
        raise DataError(
            f"rows of the patient may remain in {counted(len(remaining), 'folder')}: {reasons}. "
            "Where ids are hidden, only the files tell: name the patient's by --path"
        )
