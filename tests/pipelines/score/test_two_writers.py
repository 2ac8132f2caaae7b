"""Two commands at once on one run, and on one folder of nightly runs."""

import json
import multiprocessing
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.runs.machine import this_machine
from tests.pipelines.score.writer import add_file, write

QUICK = range(3)
SEEDS = [
    pytest.param(seed, marks=[] if seed in QUICK else [pytest.mark.slow]) for seed in range(50)
]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.pipelines.score.writer"])


class Writers:
    """Two processes that score one inbox, each of which adds a file of its own first."""

    def __init__(self, seed: int, folder: Path, **fields: Any) -> None:
        self.folder, self.inbox = folder, folder / "in"
        for number in range(5):
            add_file(self.inbox, f"{number}.png")
        self._given = (self.inbox, fields, bool(seed % 2))
        self._chance = random.Random(seed)
        self._seed = seed

    def run(self) -> list[dict[str, Any]]:
        """Runs both at once, one of them killed on its way every third time; what came of them."""
        both = [self._start(name) for name in ("a", "b")]
        if self._seed % 3 == 0:
            time.sleep(0.3 * self._chance.random())
            both[0].kill()
        for process in both:
            process.join(60)
            assert process.exitcode in (0, -9)
        told = [self.outcome(name) for name in ("a", "b")]
        pids = {process.pid for process in both}
        for found in told:
            assert found["error"] in (None, "LockedError", "SpecError"), found
            if found["error"] == "LockedError":
                (pid,) = pids - {found["pid"]}
                assert f"held by process {pid} on {this_machine().host}, since 2" in found["said"]
                assert "resume" not in found["said"]
        return told

    def run_alone(self) -> dict[str, Any]:
        """Runs one more."""
        process = self._start("c")
        process.join(60)
        return self.outcome("c")

    def outcome(self, name: str) -> dict[str, Any]:
        """What came of a process; of one that was killed an error of no name."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else {"error": None}

    def _start(self, name: str) -> Any:
        inbox, fields, waits = self._given
        process = SERVER.Process(target=write, args=(self._seed, name, inbox, fields, waits))
        process.start()
        return process


def scored(run: Path) -> list[str]:
    """The files that a finished run has a row for, each of them in its manifest."""
    assert (run / "_SUCCESS").exists()
    paths: list[str] = pq.read_table(run / "predictions")["path"].to_pylist()
    listed = pq.read_table(run / "manifest.parquet")["path"].to_pylist()
    assert paths == listed
    assert not [path for path in run.rglob("*") if path.name.startswith((".tmp-", "_lock"))]
    return paths


@pytest.mark.parametrize("seed", SEEDS)
def test_of_two_on_one_run_one_works_at_a_time(seed: int, tmp_path: Path) -> None:
    overwrite = seed % 5 == 0
    writers = Writers(seed, tmp_path, out=str(tmp_path / "run"), overwrite=overwrite)
    told = writers.run()
    if not (tmp_path / "run" / "_SUCCESS").exists():
        assert seed % 3 == 0  # one was killed, and the other one had been refused by then
        assert writers.run_alone()["error"] is None
    finished = [found for found in told if "run" in found]
    assert len(finished) <= 1 or overwrite
    for found in told:
        assert found["error"] != "SpecError" or "holds a finished run" in found["said"]
    assert Counter(scored(tmp_path / "run")).most_common(1)[0][1] == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_two_nights_at_once_score_each_file_once(seed: int, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    writers = Writers(seed, tmp_path, out_root=str(root), only_new=True)
    writers.run()
    last = writers.run_alone()  # what a refused or killed one has left
    assert last["error"] is None
    finished = [run for run in root.iterdir() if (run / "_SUCCESS").exists()]
    rows = Counter(path for run in finished for path in scored(run))
    assert rows == Counter(path.name for path in writers.inbox.iterdir())
