"""`orchestrator runs`: the folders that runs leave."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.output import write_line

app = typer.Typer(no_args_is_help=True, help="Look after the folders that runs leave.")

_SHOWN = 10  # folders named one by one


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
