"""The real commands, their images taken away while they read them, and then run again."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.pipelines.command import start
from tests.pipelines.test_kills import tables, words

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def images(phantoms: Path, tmp_path: Path) -> Path:
    """A copy of the phantoms that may be taken away."""
    return Path(shutil.copytree(phantoms, tmp_path / "kept" / "xrays"))


@pytest.fixture
def share(images: Path, tmp_path: Path) -> Iterator[Path]:
    """The images where a share is mounted; unmounted, an empty folder is left."""
    share = tmp_path / "share"
    share.mkdir()
    if mount(images, share).returncode:
        pytest.skip("mounting a share needs root")
    yield share
    subprocess.run(["umount", "-l", str(share)], capture_output=True)


def mount(images: Path, share: Path) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(["mount", "--bind", str(images), str(share)], capture_output=True)


def disturb(
    command: str,
    data: Path,
    trained: SimpleNamespace,
    work: Path,
    take: Callable[[], object],
    bring: Callable[[], object],
) -> None:
    """Runs a command undisturbed, then one whose images vanish, to its end in the second try."""
    shards = [] if command == "train" else ["--shard-rows", 16]
    line = [*words(command, data, work / "undisturbed", trained.bundle), *shards]
    assert start(*line).wait(timeout=300) == 0
    expected = contents(command, work / "undisturbed")
    before = set(work.rglob("part-*")), set(work.rglob("_SUCCESS"))

    line = [*words(command, data, work / "out", trained.bundle), *shards]
    process = start(*line, decode_s=0.1)
    deadline = time.monotonic() + 200
    while not set(work.rglob("part-*")) - before[0]:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    take()
    _, said = process.communicate(timeout=200)
    assert process.returncode == 5, said
    assert "error: the storage of the input is gone: " in said
    assert "what is done is kept" in said
    assert set(work.rglob("_SUCCESS")) == before[1]
    bring()
    again = start(*line)
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert contents(command, work / "out") == expected


def contents(command: str, out: Path) -> dict[str, Any]:
    """What a command leaves; of a training, which images it took for what."""
    found = tables(command, out)
    if command == "train":
        newest = max(Path("runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        found["splits"] = pq.read_table(newest / "splits.parquet").to_pylist()
    return found


@pytest.mark.parametrize("command", ["score", "ingest", "train"])
def test_images_that_are_taken_away_end_the_run_and_the_same_command_goes_on(
    command: str,
    images: Path,
    trained: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    away = images.with_name("away")
    disturb(
        command,
        images,
        trained,
        tmp_path,
        lambda: images.rename(away),
        lambda: away.rename(images),
    )


@pytest.mark.parametrize("command", ["score", "ingest"])
def test_a_share_that_is_unmounted_ends_the_run_and_the_same_command_goes_on(
    command: str,
    images: Path,
    share: Path,
    trained: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    disturb(
        command,
        share,
        trained,
        tmp_path,
        lambda: subprocess.run(["umount", "-l", str(share)], check=True),
        lambda: mount(images, share),
    )
