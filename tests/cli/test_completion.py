"""What a shell is answered, in Typer's own protocol for bash."""

import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app as cli
from orchestrator.cli.kinds import KINDS, command_of
from orchestrator.model.backbones import REGISTRY
from orchestrator.runs.state import job_records_folder
from orchestrator.schedule.ledger import Ledger
from tests.schedule.fake_cluster import dump_job


def question(line: str) -> dict[str, str]:
    """The environment in which bash asks about the last word of a line."""
    number = len(shlex.split(line)) - (not line.endswith(" "))
    return {
        "_ORCHESTRATOR_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(number),
    }


def complete(line: str) -> list[str]:
    done = CliRunner().invoke(cli.app, [], env=question(line), prog_name="orchestrator")
    assert done.exit_code == 0, done.output
    return done.output.split()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two bundles, two jobs, two schedules and a ledger."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("ORCHESTRATOR_LEDGER", raising=False)
    for name in ("first", "second"):
        Path("models", name).mkdir(parents=True)
        Path("models", name, "bundle.json").touch()
    Path("models", "unfinished").mkdir()
    job_records_folder().mkdir(parents=True)
    for age, name in enumerate(("new-1", "old-1")):
        record = job_records_folder() / f"{name}.json"
        record.touch()
        os.utime(record, (1e9 - age, 1e9 - age))
    Path("jobs").mkdir()
    dump_job(Path("jobs"), "nightly", schedule={"cron": "0 2 * * *"})
    dump_job(Path("jobs"), "by-hand")
    Path("jobs", "spoilt.yaml").write_text("name: [")
    ledger = Ledger(tmp_path / "state" / "orchestrator" / "schedule.sqlite3")
    now = datetime(2026, 3, 1, tzinfo=UTC)
    lease = ledger.acquire("test", now, 15.0)
    assert lease is not None
    with ledger.writing(lease, now) as write:
        write.register("retired", "0 0 * * *", "UTC", now)
    return tmp_path


def test_backbones_are_those_of_the_registry() -> None:
    assert complete("orchestrator train --backbone ") == list(REGISTRY)
    assert complete("orchestrator tune --backbone VGG") == ["VGG16", "VGG19"]
    assert complete("orchestrator compare --backbones tiny,VGG") == ["tiny,VGG16", "tiny,VGG19"]
    assert complete("orchestrator compare --backbones a")[-1] == "all"
    assert "tiny,all" not in complete("orchestrator compare --backbones tiny,a")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("score x --model ", ["models/first", "models/second"]),
        ("inspect models/s", ["models/second"]),
        ("jobs show ", ["new-1", "old-1"]),
        ("jobs retry o", ["old-1"]),
        ("schedule pause ", ["nightly", "retired"]),
        ("schedule resume --jobs elsewhere ", ["retired"]),
        ("schedule pause --ledger none.sqlite3 ", ["nightly"]),
        ("schedule next --job n", ["nightly"]),
        ("train --features ", ["cached", "live"]),
        ("train --test-time-views ", ["1", "3"]),
        ("score --only", ["--only-new"]),
        ("compare --max-b", ["--max-bytes"]),
        ("fin", ["find-lr"]),
        ("train -c ", []),
        ("train ", []),
    ],
)
def test_a_line_is_completed(line: str, answer: list[str], work: Path) -> None:
    assert complete(f"orchestrator {line}") == answer


@pytest.mark.parametrize("line", ["score --model ", "jobs show ", "schedule pause "])
def test_nothing_there_completes_nothing(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert complete(f"orchestrator {line}") == []
    assert list(tmp_path.iterdir()) == []


def test_whatever_goes_wrong_completes_nothing(work: Path) -> None:
    Path("spoilt.sqlite3").write_bytes(b"not a ledger")
    assert complete("orchestrator schedule pause --ledger spoilt.sqlite3 ") == ["nightly"]
    (work / "models").rename(work / "elsewhere")
    (work / "models").write_text("a file")
    assert complete("orchestrator score --model ") == []


def test_a_ledger_that_is_written_is_not_waited_for(work: Path) -> None:
    ledger = Ledger(work / "state" / "orchestrator" / "schedule.sqlite3")
    now = datetime(2026, 3, 1, 1, tzinfo=UTC)
    lease = ledger.acquire("test", now, 15.0)
    assert lease is not None
    with ledger.writing(lease, now):
        assert complete("orchestrator schedule pause r") == ["retired"]


@pytest.mark.parametrize(
    "line", ["tr", "train --backbone ", "score --model ", "jobs show ", "schedule pause "]
)
def test_completion_imports_nothing_heavy(line: str, work: Path) -> None:
    code = (
        "import sys\n"
        "from orchestrator.cli.app import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'ray', 'keras', 'tensorflow', 'openvino', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    environment = os.environ | question(f"orchestrator {line}")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_shell_is_told_how_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # takes its name
    arguments = ["--show-completion", "bash"]
    shown = CliRunner().invoke(cli.app, arguments, prog_name="orchestrator")
    assert "complete -o default -F _orchestrator_completion orchestrator" in shown.output
    page = CliRunner().invoke(cli.app, ["--help"]).output
    assert "--install-completion" in page
    assert all(command_of(kind).partition(" ")[0] in page for kind in KINDS)
