"""No name acts on a terminal or a log, wherever it is printed."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli import app as cli
from orchestrator.cli.output import print_columns, print_json, print_result, write_log
from orchestrator.cli.summaries import score_summary, text_table
from orchestrator.cli.terminal import LineReporter, TerminalReporter
from orchestrator.data.rejections import Rejections
from orchestrator.errors import ClusterError, DataError
from orchestrator.jobs import view
from orchestrator.runs.states import Status
from tests.cli.test_app import call
from tests.schedule.fake_cluster import dump_job

# A window's title, a line of its own, a return over what stands before, a turned direction, C1.
NAME = "a\x1b]0;owned\x07b\nerror: none\rc\u202egpj.\x9b2Jd\x7f"
SHOWN = r"a\x1b]0;owned\x07b\nerror: none\rc\u202egpj.\x9b2Jd\x7f"


def check(text: str, num_lines: int | None = None) -> None:
    """Asserts that a text shows the name, and nothing in it acts on a terminal."""
    lines = text.splitlines()
    assert r"a\x1b]0;owned\x07b" in text
    assert all(line.isprintable() for line in lines)
    assert text == "".join(line + "\n" for line in lines)
    assert num_lines in (None, len(lines))


def test_an_error_is_one_line_wherever_it_goes() -> None:
    error = DataError(f"{NAME} does not exist")
    assert str(error) == f"{SHOWN} does not exist"
    assert str(DataError(str(error))) == str(error)
    assert error.args == (f"{NAME} does not exist",)  # what crosses to another process


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["train", NAME, "--backbone", "tiny", "--weights", "none"], 3),
        (["score", ".", "--model", NAME], 4),
        (["score", "-c", NAME], 2),
        (["jobs", "validate", NAME], 2),
        (["schedule", "list", "--jobs", NAME], 2),
        (["cluster", "check", NAME], 2),
    ],
)
def test_errors_that_quote_a_path(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
) -> None:
    found, out, err = call(capsys, monkeypatch, *arguments)
    assert found == code
    check(out + err, num_lines=1)


def test_a_fault_of_the_program_and_what_was_noted_on_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: BaseException) -> Any:
        def run(*_: object, **__: object) -> None:
            raise error

        return run

    error = ClusterError("no more")
    error.add_note(f"what is done is kept in {NAME}")
    monkeypatch.setattr(cli, "app", fail(error))
    code, _, err = call(capsys, monkeypatch)
    assert code == 5
    check(err, num_lines=2)
    monkeypatch.setattr(cli, "ignore_signals", lambda: None)  # this process goes on
    stop = KeyboardInterrupt()
    stop.add_note(f"what is done is kept in {NAME}")
    monkeypatch.setattr(cli, "app", fail(stop))
    check(call(capsys, monkeypatch)[2], num_lines=1)
    monkeypatch.setattr(cli, "app", fail(ValueError(NAME.replace("\n", "").replace("\r", ""))))
    code, _, err = call(capsys, monkeypatch)
    assert (code, err.startswith("Traceback")) == (1, True)
    assert all(line.isprintable() for line in err.splitlines())


def test_progress_of_a_file_with_such_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    rejections = Rejections()
    rejections.add([{"code": "damaged", "path": NAME, "message": "Cut short."}])
    LineReporter().say(rejections.describe(1))
    check(capsys.readouterr().err, num_lines=1)
    sink = io.StringIO()
    TerminalReporter(Console(file=sink, force_terminal=True, width=200)).say(NAME)
    check(sink.getvalue(), num_lines=1)


def test_summaries_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"found": 1, "scored": 0, "called": {}, "rejected": 1, "ignored": 0}
    counts |= {"rejected_by_code": {"damaged": 1}, "scored_before": 0, "rejected_before": 0}
    report = {"counts": counts, "metrics": None}
    result = SimpleNamespace(report=report, run=Path(NAME), published=None)
    print_result({}, score_summary(result), as_json=False)
    shown = capsys.readouterr().out
    check(shown)
    assert shown.count(SHOWN) == 3
    print_result({}, text_table(NAME, ("", ""), [(NAME, "1")]), as_json=False)
    check(capsys.readouterr().out, num_lines=5)
    print_columns(["job"], [[NAME]], empty="none")
    check(capsys.readouterr().out, num_lines=2)


def test_json_and_logs_keep_what_they_hold(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"path": NAME})
    shown = capsys.readouterr().out
    assert json.loads(shown) == {"path": NAME}
    assert all(line.isprintable() for line in shown.splitlines())
    write_log(f"one\n\x1b[36mtwo\x1b[0m\tthree {NAME}")
    assert capsys.readouterr().out == f"one\ntwo\tthree {SHOWN}".replace(r"b\nerror", "b\nerror")


def test_lists_of_jobs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime(2026, 1, 31, tzinfo=UTC)
    row = view.JobView("night-1", "night", "score", Status.FAILED, NAME, 3, None, now, now)
    monkeypatch.setattr(view, "list_jobs", lambda *_: [row])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    code, out, _ = call(capsys, monkeypatch, "jobs", "list")
    assert code == 0
    check(out, num_lines=1)

    monkeypatch.setenv("ORCHESTRATOR_LEDGER", str(tmp_path / "ledger.sqlite3"))
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    dump_job(jobs, "nightly", schedule={"cron": "0 2 * * *"})
    (jobs / f"{NAME}.yaml").write_text("kind: score\n")
    code, out, _ = call(capsys, monkeypatch, "schedule", "list", "--jobs", str(jobs))
    assert code == 0
    check(out, num_lines=3)
    check(call(capsys, monkeypatch, "schedule", "next", "--jobs", str(jobs))[2], num_lines=1)
