"""Streams whose readers end and signals that come in a row, in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

_MAIN = "import sys, time; from orchestrator.cli import app; "


def start(code: str, **options: object) -> "subprocess.Popen[str]":
    """Starts the program with something else in place of its commands."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-c", _MAIN + code],
        env=environment,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
    )


_TALKS = """
def talk(**_):
    for _ in range(2000):
        sys.stderr.write("a line on its way\\n")
    open({done!r}, "w").write("the run went on")
    sys.stdout.write("its result\\n")
app.app = talk
app.main()
"""


@pytest.mark.parametrize("reader", ["ends", "was never there", "has a full disk"])
def test_a_run_outlives_the_reader_of_its_progress(reader: str, tmp_path: Path) -> None:
    code = _TALKS.format(done=str(tmp_path / "done"))
    if reader == "ends":
        process = start(code)
        assert process.stderr is not None
        process.stderr.readline()
        process.stderr.close()
        process.stderr = None
    elif reader == "was never there":
        process = start(code, stderr=None, preexec_fn=lambda: os.close(2))
    else:
        with Path("/dev/full").open("w") as full:
            process = start(code, stderr=full)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "its result\n")
    assert (tmp_path / "done").read_text() == "the run went on"


def test_a_run_outlives_the_reader_of_its_result(tmp_path: Path) -> None:
    process = start(_TALKS.format(done=str(tmp_path / "done")))
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Error" not in said


def test_a_result_that_the_disk_refuses_is_an_error(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = start(_TALKS.format(done=str(tmp_path / "done")), stdout=full)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "No space left on device" in said


def test_a_name_of_any_bytes_can_be_printed() -> None:
    code = "app.app = lambda **_: print('/out/\\udcff'); app.main()"
    output, said = start(code).communicate(timeout=60)
    assert (output, said) == ("/out/\\udcff\n", "")


_WORKS = """
def work(**_):
    try:
        print("working", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(1)
        print("put away", flush=True)
        sys.exit(130)
app.app = work
app.main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_in_a_row_are_one(number: signal.Signals, code: int) -> None:
    process = start(_WORKS)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < 30:
        process.send_signal(number)
        time.sleep(0.1)
    output, said = process.communicate()
    assert (process.returncode, output) == (code, "put away\n")
    assert said == "stopped; run the same command again to continue\n"


def test_a_signal_that_was_lost_can_be_sent_again() -> None:
    process = start(_WORKS.replace("time.sleep(1)", "time.sleep(60)"))
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < 30:
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    process.communicate()
    assert process.returncode != 0
    assert 5 < time.monotonic() - began < 20
