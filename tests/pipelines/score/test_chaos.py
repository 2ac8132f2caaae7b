"""Kills workers, decoders, raylets and the command itself at seeded random points."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.config.specs import Resources, ScoreSpec
from orchestrator.data.shard_files import read_part
from orchestrator.pipelines.score.score import score
from tests.conftest import Recorder, keep_in_process
from tests.pipelines.command import DECODER, RAYLET, WORKER, start, under
from tests.processes import is_alive

pytestmark = pytest.mark.ray
SHARD_ROWS = 4
NUM_IMAGES = 64  # with two bad ones: 17 shards


@pytest.fixture(scope="module")
def images(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    for path in sorted(phantoms.rglob("*.jpeg"))[:NUM_IMAGES]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "bad.jpeg").write_bytes(b"no image")
    (folder / "empty.jpeg").touch()
    return folder


@pytest.fixture(scope="module")
def undisturbed(trained: SimpleNamespace, images: Path, tmp_path_factory: Any) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    spec = ScoreSpec(
        input=str(images), model=str(trained.bundle), out=str(out), shard_rows=SHARD_ROWS
    )
    with pytest.MonkeyPatch.context() as patch:
        keep_in_process(patch)
        score(spec, Resources(), Recorder())
    return out


class Storm:
    """Runs one command until it has succeeded, killing on the way.

    Args:
        seed: of what is killed and when.
        words: the command.
        run: its folder.
    """

    def __init__(self, seed: int, words: list[object], run: Path) -> None:
        self._random = random.Random(seed)
        self._words = words
        self._run = run
        self._writers: list[int] = []
        self.num_kills = 0

    def rage(self, most: int, kinds: list[str]) -> None:
        """Kills at most so often, then lets the command finish."""
        while True:
            command = start(*self._words, decode_s=0.1)
            while command.poll() is None and self.num_kills < most:
                self._wait(command)
                check_final_names(self._run)
                self._kill(command, self._random.choice(kinds))
            _, said = command.communicate(timeout=250)
            check_final_names(self._run)
            if command.returncode == 0 or (self._run / "_SUCCESS").exists():
                return  # a command may be killed after its run's end
            assert command.returncode in (5, -signal.SIGKILL), said
            wait_for_end(self._writers)

    def _wait(self, command: subprocess.Popen[str]) -> None:
        """Waits for some more shards, for the tables, or for the end."""
        target = self._num_committed() + self._random.randrange(1, 4)
        while command.poll() is None and self._num_committed() < min(target, 17):
            time.sleep(0.02)
        time.sleep(self._random.random() * 0.3)

    def _num_committed(self) -> int:
        return len(list((self._run / "_shards").glob("part-*")))

    def _kill(self, command: subprocess.Popen[str], kind: str) -> None:
        self._writers = under(command, WORKER) + under(command, DECODER) or self._writers
        victims = [command.pid] if kind == "driver" else under(command, kind)
        if command.poll() is None and victims:
            with suppress(ProcessLookupError):
                os.kill(self._random.choice(victims), signal.SIGKILL)
                self.num_kills += 1


def wait_for_end(writers: list[int]) -> None:
    """Waits until the workers of a killed command have ended, as they must by themselves."""
    deadline = time.monotonic() + 60
    while any(map(is_alive, writers)):
        assert time.monotonic() < deadline, "workers were left behind"
        time.sleep(0.1)


def check_final_names(run: Path) -> None:
    """Reads every table that has its final name."""
    # Tables and their folders may be replaced or removed as they are read, never cut short.
    for path in (Path(folder, name) for folder, _, names in os.walk(run) for name in names):
        with suppress(FileNotFoundError):
            if path.name.startswith((".", "_")):
                continue
            if path.suffix == ".parquet":
                pq.read_table(path)
            elif path.suffix == ".arrow" and path.exists():
                try:
                    read_part(path)
                except Exception:
                    assert not path.exists(), f"{path} is not whole"


def check_equal(run: Path, undisturbed: Path) -> None:
    assert (run / "_SUCCESS").exists()
    if (undisturbed / "shadow.parquet").exists():
        check_shadow(run, undisturbed)
    for table in ("predictions", "rejected.parquet"):
        assert pq.read_table(run / table).equals(pq.read_table(undisturbed / table))
    assert names_under(run) == names_under(undisturbed)


def check_shadow(run: Path, undisturbed: Path) -> None:
    """Rows are as without kills, and missing only where workers have died of a shard twice."""
    found, expected = (
        pq.read_table(of / "shadow.parquet").to_pylist() for of in (run, undisturbed)
    )
    assert all(row in expected for row in found)
    missing = json.loads((run / "report.json").read_text())["shadow"]["not_scored"]
    assert len(found) + sum(missing.values()) == len(expected) == NUM_IMAGES
    assert set(missing) <= {"workers died 2 times while it scored a shard"}


def names_under(run: Path) -> set[Path]:
    """What a run keeps; its working folders go after `_SUCCESS` is there, or stay with a kill."""
    names = {path.relative_to(run) for path in run.rglob("*")}
    return {name for name in names if name.parts[0] not in ("_shards", "_listing", "_shadow")}


def weather(
    seed: int, most: int, kinds: list[str], bundle: Path, images: Path, run: Path, expected: Path
) -> None:
    """Kills so often in as many runs as it takes, each of which must end like the expected one."""
    words: list[object] = ["score", images, "--model", bundle, "--out", run]
    storm = Storm(seed, [*words, "--shard-rows", SHARD_ROWS], run)
    while storm.num_kills < most:
        shutil.rmtree(run, ignore_errors=True)
        storm.rage(most, kinds)
        check_equal(run, expected)


@pytest.mark.slow
def test_kills_of_workers_and_of_the_command_change_nothing(
    trained: SimpleNamespace, images: Path, undisturbed: Path, tmp_path: Path
) -> None:
    kinds = [WORKER, WORKER, "driver"]
    weather(3, 3, kinds, trained.bundle, images, tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", range(6))
def test_ten_kills_of_anything_change_nothing(
    trained: SimpleNamespace, images: Path, undisturbed: Path, tmp_path: Path, seed: int
) -> None:
    kinds = [WORKER] * 4 + ["driver"] * 3 + [DECODER] * 2 + [RAYLET]
    weather(seed, 10, kinds, trained.bundle, images, tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_kills_leave_the_shadow_and_the_live_model_as_they_are(
    trained: SimpleNamespace, images: Path, undisturbed: Path, tmp_path: Path
) -> None:
    shadow = tmp_path / "shadow"
    shutil.copytree(trained.bundle, shadow)
    described = json.loads((shadow / "bundle.json").read_text())
    calibration = {"slope": 0.5, "intercept": 1.0}
    (shadow / "bundle.json").write_text(json.dumps(described | {"calibration": calibration}))
    words: list[object] = ["score", images, "--model", trained.bundle, "--shadow", shadow]
    words += ["--shard-rows", SHARD_ROWS, "--out"]
    calm = tmp_path / "calm"
    assert start(*words, calm).wait(timeout=250) == 0
    for table in ("predictions", "rejected.parquet"):
        assert pq.read_table(calm / table).equals(pq.read_table(undisturbed / table))
    storm = Storm(1, [*words, tmp_path / "run"], tmp_path / "run")
    storm.rage(6, [WORKER, WORKER, "driver"])
    check_equal(tmp_path / "run", calm)
