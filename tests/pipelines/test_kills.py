"""The real commands, killed on their way into and out of their runs, and then run again."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.runs.run_dir import RunDir
from tests.pipelines.command import start

pytestmark = [pytest.mark.ray, pytest.mark.slow]
# Claim and spec are the first changes; cleaning and the end come after the work.
MOMENTS = (1, 3, 5, 8, 12, 18)
TINY = ("--weights", "none", "--image-size", "32", "--workers", "1")
SHORT = (*TINY, "--epochs", "2")
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": ("--backbone", "tiny", *SHORT),
    "find-lr": ("--backbone", "tiny", *TINY),
    "compare": ("--backbones", "tiny", *SHORT),
    "tune": ("--backbone", "tiny", *SHORT, "--trials", "2", "--views", "1"),
    "score": (),  # in one process, without a cluster
    "recalibrate": (),
    "models compare": (),  # of a model with itself: two scoring runs in one
    "ingest": ("--image-size", "32", "--workers", "1"),
}


def words(command: str, data: Path, out: Path, model: Path) -> list[object]:
    """The command line; `ingest` names its folder by place."""
    place = [out] if command == "ingest" else ["--out", out]
    extra = ["--model", model] if command == "score" else []
    first = {"recalibrate": [model], "models compare": [model, model]}.get(command, [])
    return [*command.split(), *first, data, *place, *extra, *COMMANDS[command]]


def tables(command: str, out: Path) -> dict[str, Any]:
    """What a command leaves, less times, names of runs and what training rounds."""
    run = RunDir(out)
    if command in ("train", "recalibrate"):
        return {name: path.exists() for name in ("bundle.json",) for path in [out / name]}
    found: dict[str, Any] = {"success": run.success.exists()}
    for path in sorted(out.rglob("*.parquet")):
        found[str(path.relative_to(out))] = pq.read_metadata(path).num_rows
    if command == "score":
        table = pq.read_table(run.predictions)
        found["rows"] = table.select(["path", "probability", "label"]).to_pylist()
    if command == "ingest":
        found["described"] = json.loads(run.dataset.described.read_text())
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_command_ends_well_when_it_is_run_again(
    command: str,
    phantoms: Path,
    trained: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert finish(words(command, phantoms, tmp_path / "undisturbed", trained.bundle)) == 0
    expected = tables(command, tmp_path / "undisturbed")
    killed = 0
    for moment in MOMENTS:
        out = tmp_path / f"out-{moment}"
        line = words(command, phantoms, out, trained.bundle)
        if finish(line, kill_at=moment) == 0:
            break
        killed += 1
        if finish(line) == 2:  # killed after its end: the run is whole, and is not replaced
            marker = out / "bundle.json" if command == "train" else RunDir(out).success
            assert marker.exists()
        assert tables(command, out) == expected
        assert not [path for path in out.rglob("*") if path.name.startswith((".tmp-", "_un"))]
    assert killed >= 4


def finish(line: list[object], kill_at: int | None = None) -> int:
    """Runs a command to its end or its kill; returns its exit code, or -9."""
    process = start(*line, kill_at=kill_at)
    _, said = process.communicate(timeout=600)
    assert process.returncode in (0, 2, -signal.SIGKILL), said
    return process.returncode
