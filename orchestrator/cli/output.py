"""What a command prints: on standard output one JSON object or lines for a person.

Names of files, folders and jobs may hold anything that acts on a terminal. So every line, of
standard error too, is written here, and made printable.
"""

import json
import re
import sys
from collections.abc import Iterable
from typing import Any

from orchestrator.errors import printable

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def write_line(text: str = "") -> None:
    """Writes a line to standard output."""
    sys.stdout.write(printable(text) + "\n")


def tell(line: str) -> None:
    """Writes a line to standard error."""
    sys.stderr.write(printable(line) + "\n")
    sys.stderr.flush()


def write_log(text: str) -> None:
    """Writes a part of a log to standard output, its lines as they are."""
    kept = re.split(r"([\n\t])", _COLOUR.sub("", text))
    kept[::2] = map(printable, kept[::2])
    sys.stdout.write("".join(kept))
    sys.stdout.flush()


def print_json(value: Any) -> None:
    """Writes one JSON object to standard output."""
    text = json.dumps(value, indent=2, allow_nan=False)
    sys.stdout.write(text.replace("\x7f", "\\u007f") + "\n")


def print_result(body: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Writes what a command has come to.

    Args:
        body: JSON-able.
        lines: the same for a person.
        as_json: which of them.
    """
    if as_json:
        print_json(body)
        return
    for line in lines:
        write_line(line)


def print_columns(heads: list[str], rows: list[list[str]], *, empty: str) -> None:
    """Writes rows of text under their heads, or a line where there is none."""
    if not rows:
        write_line(empty)
        return
    shown = [[printable(cell) for cell in row] for row in [heads, *rows]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        write_line(line.rstrip())
