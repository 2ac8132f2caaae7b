"""How long work tells of itself; `terminal.py` shows it, tests record it."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


class Reporter(Protocol):
    """Receives what a command does while it does it."""

    def say(self, line: str) -> None:
        """Shows one line that stays, such as a table's row or a warning."""

    def begin(self, label: str, total: int, unit: str) -> None:
        """Starts a bar of `total` units; one bar is open at a time."""

    def advance(self, count: int) -> None:
        """Moves the open bar on by `count` units."""

    def end(self) -> None:
        """Closes the open bar."""


@runtime_checkable
class TableReporter(Reporter, Protocol):
    """A reporter that can keep a small table in sight; a log or a pipe cannot."""

    def show_table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Shows a table at the open bar in place of the last one."""
