"""Trainings and searches whose disk fills up, wherever that is, and then has space again."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.specs import Resources, TrainSpec, TuneSpec
from orchestrator.errors import ClusterError
from orchestrator.model.bundle import load_info
from orchestrator.pipelines.train.train import train
from orchestrator.pipelines.tune.tune import tune
from orchestrator.runs.run_dir import RunDir
from tests.conftest import Recorder

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ONE = Resources(workers=1)
SMALL: dict[str, Any] = {"backbone": "tiny", "weights": "none", "image_size": 32, "epochs": 2}
WHOLE = "32m"


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 32 MiB, which `shrink` makes smaller."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={WHOLE}", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    monkeypatch.chdir(disk)
    yield disk
    monkeypatch.undo()
    subprocess.run(["umount", "-l", str(disk)], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def check_line(error: ClusterError) -> None:
    assert re.search(r"No space left on device|Errno 28", str(error)), str(error)
    assert "\n" not in str(error)
    assert "same command again to continue" in str(error), str(error)


# Of what a training writes: its listing and images, features, checkpoints, and the bundle.
@pytest.mark.parametrize("size", ["32k", "120k", "400k", "1200k", "1800k"])
def test_a_training_goes_on_once_there_is_space(
    size: str, disk: Path, phantoms: Path, ray_cluster: None
) -> None:
    spec = TrainSpec(data=str(phantoms), out=str(disk / "bundle"), lr=0.003, **SMALL)
    resize(disk, size)
    with pytest.raises(ClusterError) as caught:
        train(spec, ONE, Recorder(), run_folder=disk / "run")
    print(size, caught.value)
    check_line(caught.value)
    assert not (disk / "run" / "_SUCCESS").exists()
    assert not (disk / "bundle" / "bundle.json").exists()
    resize(disk, WHOLE)
    load_info(train(spec, ONE, Recorder(), run_folder=disk / "run").bundle)


@pytest.mark.parametrize("size", ["120k", "500k", "800k"])
def test_a_search_goes_on_once_there_is_space(
    size: str, disk: Path, phantoms: Path, ray_cluster: None
) -> None:
    out = disk / "run"
    spec = TuneSpec(data=str(phantoms), out=str(out), trials=2, views=1, **SMALL)
    resize(disk, size)
    with pytest.raises(ClusterError) as caught:
        tune(spec, ONE, Recorder())
    print(size, caught.value)
    check_line(caught.value)
    assert not RunDir(out).success.exists()
    resize(disk, WHOLE)
    load_info(tune(spec, ONE, Recorder()).bundle)
