"""What a person sees while a command runs: a bar on a terminal, plain lines in a pipe or log.

Everything goes to standard error, so that `--json` leaves standard output to the one object.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output import tell
from orchestrator.errors import printable
from orchestrator.progress import Reporter

_LOG_INTERVAL_S = 10.0


class _RateColumn(ProgressColumn):
    """Units per second since the bar began."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        unit = task.fields["unit"]
        return Text("" if rate is None else f"{rate:,.1f} {unit}/s", style="cyan")


class _TableProgress(Progress):
    """A bar with room for a table above it."""

    table: Table | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yields the table, where there is one, and the bar."""
        if self.table is not None:
            yield self.table
        yield from super().get_renderables()


class TerminalReporter:
    """A live bar, for a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: _TableProgress | None = None
        self._task: TaskID | None = None

    def say(self, line: str) -> None:
        """Shows one line above the bar."""
        self._console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def begin(self, label: str, total: int, unit: str) -> None:
        """Starts a bar."""
        self.end()
        self._progress = _TableProgress(
            TextColumn("{task.description:<16}"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._progress.start()
        self._task = self._progress.add_task(label, total=total, unit=unit)

    def advance(self, count: int) -> None:
        """Moves the bar on."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, count)

    def show_table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Keeps a table above the bar, in place of the last one."""
        if self._progress is None:
            return
        table = Table(box=SIMPLE_HEAD)
        for name in header:
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(*map(printable, row))
        self._progress.table = table
        self._progress.refresh()

    def end(self) -> None:
        """Leaves the bar as it stands."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class LineReporter:
    """Plain lines at most every ten seconds, for a log or a pipe."""

    def __init__(self) -> None:
        self._label, self._unit = "", ""
        self._done, self._total = 0, 0
        self._began = self._last_line = 0.0

    def say(self, line: str) -> None:
        """Writes one line."""
        tell(line)

    def begin(self, label: str, total: int, unit: str) -> None:
        """Starts counting."""
        self.end()
        self._label, self._unit, self._done, self._total = label, unit, 0, total
        self._began = self._last_line = time.monotonic()
        self.say(f"{label}: {total:,} {unit}")

    def advance(self, count: int) -> None:
        """Counts, and writes a line where the last one is old."""
        self._done += count
        if time.monotonic() - self._last_line >= _LOG_INTERVAL_S:
            self._last_line = time.monotonic()
            rate = self._done / max(self._last_line - self._began, 1e-9)
            left = (self._total - self._done) / rate if rate else 0.0
            self.say(
                f"{self._label}: {self._done:,}/{self._total:,} {self._unit}, "
                f"{rate:,.1f} {self._unit}/s, {left:,.0f} s left"
            )

    def end(self) -> None:
        """Writes the closing line of an open count."""
        if self._label:
            seconds = time.monotonic() - self._began
            self.say(f"{self._label}: {self._done:,} {self._unit} in {seconds:,.1f} s")
            self._label = ""


@contextmanager
def open_reporter() -> Iterator[Reporter]:
    """Yields the reporter that suits standard error; its bar is closed whatever happens."""
    console = Console(stderr=True)
    reporter: TerminalReporter | LineReporter
    reporter = TerminalReporter(console) if console.is_terminal else LineReporter()
    try:
        yield reporter
    finally:
        reporter.end()
