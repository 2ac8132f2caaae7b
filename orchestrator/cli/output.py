"""What a command prints on standard output: one JSON object, or text for a person."""

import json
import sys
from typing import Any


def write_line(text: str = "") -> None:
    """Writes a line to standard output."""
    sys.stdout.write(text + "\n")


def print_json(value: Any) -> None:
    """Writes one JSON object to standard output."""
    write_line(json.dumps(value, indent=2, allow_nan=False))


def print_result(body: Any, text: str, *, as_json: bool) -> None:
    """Writes what a command has come to.

    Args:
        body: JSON-able.
        text: the same for a person.
        as_json: which of them.
    """
    if as_json:
        print_json(body)
    else:
        write_line(text)


def print_columns(heads: list[str], rows: list[list[str]], *, empty: str) -> None:
    """Writes rows of text under their heads, or a line where there is none."""
    if not rows:
        write_line(empty)
        return
    widths = [max(len(row[at]) for row in [heads, *rows]) for at in range(len(heads))]
    for row in [heads, *rows]:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        write_line(line.rstrip())
