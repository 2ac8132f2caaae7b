"""How long work tells of itself; `terminal.py` shows it, tests record it."""

from typing import Protocol


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
