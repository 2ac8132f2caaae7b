"""The job files of `jobs/`, run as they are on what `make demo` leaves."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_shipped_jobs_run_on_what_the_demo_leaves(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "COLUMNS": "120",
    }
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        environment.pop(name, None)

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "orchestrator", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
        return done.stdout

    demo = run("demo", "--out", "demo")
    assert str(tmp_path / "demo" / "scored" / "report.html") in demo
    searched = run("tune", "--trials", "4")
    assert (Path(searched.split("bundle")[-1].split()[0]) / "bundle.json").is_file()
    assert "efficientnet-lite0" in run("compare", "-c", "jobs/compare.yaml")
    try:
        run("submit", "jobs/score-nightly.yaml", "--wait")
        (night,) = (tmp_path / "demo" / "predictions").iterdir()
        assert (night / "_SUCCESS").is_file()
    finally:
        run("cluster", "stop")
