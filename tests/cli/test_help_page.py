"""The page of the whole program: Typer's, without what it takes Typer to make it."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app as cli
from orchestrator.cli.help_page import QuickHelp


@pytest.mark.parametrize("width", ["80", "120"])
def test_the_page_is_typers_own_to_the_letter(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def page() -> str:
        return CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": width}).output

    own = page()
    monkeypatch.delattr(QuickHelp, "format_help")
    assert own == page()
    assert "Research use" in own


def test_it_takes_neither_pydantic_nor_what_typers_page_takes() -> None:
    code = (
        "import sys\n"
        "from orchestrator.cli.app import app\n"
        "try:\n    app(['--help'])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "spare = {'pydantic', 'yaml', 'sqlite3', 'numpy', 'typer.rich_utils', 'rich.markdown',"
        " 'rich.traceback', 'orchestrator.config', 'importlib.metadata'} & set(sys.modules)\n"
        "own = {name for name in sys.modules if name.startswith('orchestrator.')}\n"
        "own -= {'orchestrator.errors', 'orchestrator.progress'}\n"
        "spare |= {name for name in own if not name.startswith('orchestrator.cli')}\n"
        "sys.exit(f'imported {spare}' if spare else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
