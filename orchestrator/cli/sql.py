"""`orchestrator sql`, and the prompt of `orchestrator runs open`."""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import JsonFlag
from orchestrator.cli.output import print_columns, print_json, tell, write_line

if TYPE_CHECKING:
    from orchestrator.data.sql.database import Database, Rows

app = typer.Typer()

_SHOWN = 50  # rows in the terminal


@app.command()
def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One SELECT statement.")],
    root: Annotated[
        str, typer.Option(metavar="<path>", help="Folder of runs, or its address.")
    ] = "runs",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="<file>",
            help="Write all rows here: .csv, .parquet or .json.",
            show_default=f"show {_SHOWN}",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask all scoring runs of a folder in SQL: predictions, latest, rejected, runs. Read-only."""
    from orchestrator.data.sql.database import open_database
    from orchestrator.data.sql.results import check_names, check_target, iter_rows, write_rows

    if out is not None:
        check_target(out)
    with open_database(root) as database:
        _say_unfinished(database)
        rows = database.query(query)
        if out is not None:
            num_rows = write_rows(rows, out)
            if as_json:
                print_json({"out": str(out), "rows": num_rows})
            else:
                write_line(f"{num_rows:,} rows  {out}")
        elif as_json:
            check_names(rows.schema)
            print_json({"columns": rows.schema.names, "rows": list(iter_rows(rows))})
        else:
            _print_rows(rows)


def open_prompt(root: str) -> None:
    """Answers queries from standard input, one after the other, until it ends.

    Args:
        root: folder of runs, or its address.
    """
    from orchestrator.data.sql.database import VIEWS, open_database
    from orchestrator.errors import SpecError

    with open_database(root) as database:
        _say_unfinished(database)
        for name, columns in database.columns().items():
            write_line(f"{name}: {VIEWS[name]}")
            write_line(f"    {', '.join(columns)}")
        write_line("One SELECT statement, ended by a semicolon; Ctrl-D ends.")
        for query in iter(_read_query, None):
            try:
                _print_rows(database.query(query))
            except SpecError as error:  # the next one may be right
                tell(f"error: {error}")


def _read_query() -> str | None:
    """Returns the next statement of standard input, None at its end."""
    asks = sys.stdin.isatty()
    if asks:
        import readline  # noqa: F401 - gives input() its history and its keys
    lines: list[str] = []
    while not (lines and lines[-1].rstrip().endswith(";")):
        try:
            line = input(("...> " if lines else "sql> ") if asks else "")
        except EOFError:
            break
        lines += [line] * bool(line.strip())
    return "\n".join(lines) or None


def _print_rows(rows: "Rows") -> None:
    """Shows the first rows of a query as columns of text."""
    shown = list(islice(_iter_cells(rows), _SHOWN + 1))
    print_columns(rows.schema.names, shown[:_SHOWN], empty="no rows")
    if len(shown) > _SHOWN:
        tell(f"the first {_SHOWN} rows; --out FILE writes all, LIMIT and OFFSET choose others")


def _iter_cells(rows: "Rows") -> Iterator[list[str]]:
    for batch in rows:
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield [_as_text(value) for value in row]


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _say_unfinished(database: "Database") -> None:
    names = database.unfinished
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        tell(f"left out, since not finished: {names[0]}{more}")
