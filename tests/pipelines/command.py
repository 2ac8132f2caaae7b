"""Runs the command line as a process of its own, for tests that signal and kill it."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.processes import descendants, title

_HERE = Path(__file__).parent
_MAIN = "from orchestrator.cli.app import main; main()"
WORKER, DECODER, RAYLET = "ray::_Worker", "decoder_process", "raylet/raylet"


def start(
    *words: object, decode_s: float = 0.0, kill_at: int | None = None
) -> subprocess.Popen[str]:
    """Starts a command whose decoders obey `hooks/sitecustomize.py`, on a local Ray of its own."""
    path = os.pathsep.join([str(_HERE / "hooks"), str(ROOT)])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN, *map(str, words)],
        env=environment
        | {"PYTHONPATH": path, "PYTHON_DECODE_S": str(decode_s), "KILL_AT": str(kill_at or "")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def under(process: subprocess.Popen[str], kind: str) -> list[int]:
    """Returns the processes of a command whose command line holds a word."""
    return [pid for pid in descendants(process.pid) if kind in title(pid)]
