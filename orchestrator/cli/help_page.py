"""The help page of the whole program: Typer's to the letter, in two thirds of the time.

Typer's own page imports rich's Markdown and tracebacks, which takes longer than all the rest of
`orchestrator --help` (`benchmarks/cli.py`); this one imports what it shows. The pages of commands
are Typer's own.
"""

from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup


class QuickHelp(TyperGroup):
    """A group that prints its own help page: its switches and its commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Prints the page."""
        usage = Text(self.get_usage(ctx))
        usage.stylize("yellow", 0, len("Usage: "))
        switches = Table(show_header=False, expand=True, box=None, pad_edge=False)
        params: list[Any] = self.get_params(ctx)
        for switch in params:
            names = Text(",".join(switch.opts), style="bold cyan")
            kind = Text(switch.display_type_rich(ctx=ctx), style="bold yellow")
            switches.add_row(names, "", "", "", kind, switch.help)
        commands = Table(show_header=False, expand=True, box=None, pad_edge=False)
        width = max(map(len, self.commands))
        commands.add_column(style="bold cyan", no_wrap=True, width=width)
        commands.add_column(ratio=10)
        for name, command in self.commands.items():
            commands.add_row(name, command.help)
        console = Console(markup=False, highlight=False)
        console.print(Padding(usage, 1), style="bold")
        console.print(Padding(self.help or "", (0, 1, 1, 1)))
        for title, table in (("Options", switches), ("Commands", commands)):
            console.print(Panel(table, border_style="dim", title=Text(title), title_align="left"))
