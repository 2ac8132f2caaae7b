"""Killed at every change of the file system, each command ends well when it is run again."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.config.load import load_job
from orchestrator.config.specs import (
    CompareSpec,
    IngestSpec,
    Resources,
    ScoreSpec,
    TrainSpec,
    TuneSpec,
)
from orchestrator.errors import ClusterError, SpecError
from orchestrator.pipelines.prepare import ingest as ingesting
from orchestrator.pipelines.score import score as scoring
from orchestrator.pipelines.train import compare as comparing
from orchestrator.pipelines.train import find_lr as finding
from orchestrator.pipelines.train import train as training
from orchestrator.pipelines.tune import tune as tuning
from orchestrator.runs.atomic import write_json, write_text
from orchestrator.runs.identity import identify
from orchestrator.runs.life_cycle import BundleFolder, open_run
from orchestrator.runs.run_dir import RunDir
from tests.conftest import Recorder
from tests.runs.dying import Killed, killed_at

COMMANDS = ("train", "tune", "compare", "find-lr", "score", "ingest")


class World:
    """The six commands in a folder, each with a stub that writes what the real work would."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.worked = 0  # times that work began
        data = folder / "data"
        data.mkdir()
        (data / "a.png").write_bytes(b"no picture: it is never decoded")
        patch.chdir(folder)
        session = SimpleNamespace(num_workers=1)
        for module in (training, tuning, comparing, finding, ingesting):
            patch.setattr(module, "open_session", lambda *_, **__: contextlib.nullcontext(session))
        patch.setattr(training, "_train", lambda spec, _, run, bundle, *__: self.work(run, bundle))
        patch.setattr(tuning, "_tune", lambda spec, _, run, __: self.work(run))
        patch.setattr(comparing, "_compare", lambda spec, _, run, *__: self.work(run))
        patch.setattr(finding, "_find", lambda spec, _, run, __: self.work(run))
        patch.setattr(scoring, "_score", lambda spec, _, opened, *__: self.work(opened.run))
        members = SimpleNamespace(
            size_px=64, names=(str(folder / "model"),), bundles=(folder / "model",), hashes=["0"]
        )
        members.at = lambda precision: members
        patch.setattr(scoring, "load_members", lambda *_: members)
        patch.setattr(ingesting, "_ingest", lambda *given: self.work(given[4]))
        self.text = "first"

    def work(self, run: RunDir, bundle: Path | None = None) -> None:
        """Leaves working files, a table, a report, and a bundle where there is one."""
        self.worked += 1
        write_text(run.features / "part-0", self.text)
        write_text(run.path / "_single", self.text)
        write_text(run.predictions / "part-0", self.text)
        if bundle is not None:
            write_text(bundle / "network", self.text)
            write_text(bundle / "bundle.json", self.text)
        write_json(run.dataset.described, {"text": self.text})
        write_json(run.report_json, {"text": self.text})

    def run(self, command: str, *, overwrite: bool = False, run_folder: Path | None = None) -> Any:
        """Runs a command with `--out out`."""
        common = {"out": str(self.folder / "out"), "overwrite": overwrite}
        data = str(self.folder / "data")
        place = {} if run_folder is None else {"run_folder": run_folder}
        resources, reporter = Resources(), Recorder()
        none = {"weights": "none", **common}
        if command == "train":
            return training.train(TrainSpec(data=data, **none), resources, reporter, **place)
        if command == "tune":
            return tuning.tune(TuneSpec(data=data, **none), resources, reporter, **place)
        if command == "compare":
            return comparing.compare(CompareSpec(data=data, **none), resources, reporter, **place)
        if command == "find-lr":
            return finding.find_lr(TrainSpec(data=data, **none), resources, reporter, **place)
        if command == "score":
            return scoring.score(ScoreSpec(input=(data,), **common), resources, reporter, **place)
        spec = IngestSpec(input=data, image_size=64, **common)
        return ingesting.ingest(spec, resources, reporter)

    def runs(self) -> list[RunDir]:
        """The folders of runs that are there, wherever the command has put them."""
        return [RunDir(path.parent) for path in sorted(self.folder.rglob("status.json"))]

    def check_successes(self, allowed: set[str]) -> None:
        """A marked run is whole and clean, whatever has happened."""
        for run in self.runs():
            if run.success.exists():
                names = [path.name for path in run.path.rglob("*")]
                # The lock of a process that was killed after its end may be left.
                left = {name for name in names if name.startswith("_")}
                assert left <= {"_SUCCESS", "_lock"}
                texts = {(run.predictions / "part-0").read_text(), load(run.report_json)["text"]}
                assert len(texts) == 1
                assert texts <= allowed
        bundle = self.folder / "out" / "bundle.json"
        if bundle.exists():
            assert bundle.read_text() == (bundle.parent / "network").read_text()

    def end_well(self, command: str, *, overwrite: bool, text: str) -> None:
        """Runs the command again, after a kill; it may have been finished by then."""
        try:
            self.run(command, overwrite=overwrite)
            assert not list((self.folder / "out").rglob(".tmp-*"))
        except SpecError as error:
            assert not overwrite
            assert "holds a finished run" in str(error) or "holds a bundle" in str(error)
        self.check_successes({"first", "second"})
        done = [run for run in self.runs() if run.success.exists()]
        newest = max(done, key=lambda run: run.success.stat().st_mtime_ns)
        assert load(newest.report_json) == {"text": text}
        if command == "train":
            assert (self.folder / "out" / "network").read_text() == text
            assert (self.folder / "out" / "bundle.json").read_text() == text


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture
def make_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], World]]:
    yield lambda name: World(_made(tmp_path / name), monkeypatch)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_killed_at_any_change_ends_well_when_run_again(
    command: str, make_world: Callable[[str], World]
) -> None:
    for number in itertools.count(1):
        world = make_world(str(number))
        with killed_at(number) as dead, contextlib.suppress(Killed):
            world.run(command)
        world.check_successes({"first"})
        if not dead():
            assert not list(world.folder.rglob(".tmp-*"))
            break
        world.end_well(command, overwrite=False, text="first")
    assert number > 15  # claim, spec, work, cleaning and end are all among them


@pytest.mark.parametrize("command", COMMANDS)
def test_an_overwrite_killed_at_any_change_leaves_no_false_success(
    command: str, make_world: Callable[[str], World]
) -> None:
    for number in itertools.count(1):
        world = make_world(str(number))
        world.run(command)
        world.text = "second"
        with killed_at(number) as dead, contextlib.suppress(Killed):
            world.run(command, overwrite=True)
        world.check_successes({"first", "second"})
        if not dead():
            break
        world.end_well(command, overwrite=True, text="second")
    assert number > 20


@pytest.mark.parametrize("command", COMMANDS)
def test_what_was_done_is_not_done_again(command: str, make_world: Callable[[str], World]) -> None:
    """Killed after the work, on the way to `_SUCCESS`, a command only has to get there."""
    saved = 0
    for number in itertools.count(1):
        world = make_world(str(number))
        with killed_at(number) as dead, contextlib.suppress(Killed):
            world.run(command)
        if not dead():
            break
        unfinished = [run for run in world.runs() if not run.success.exists()]
        if any(run.load_status().get("completed") for run in unfinished):
            assert world.worked == 1
            world.run(command)
            assert world.worked == 1
            saved += 1
    assert saved > 3


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "ingest"])
def test_a_moved_run_goes_on_where_it_is(
    command: str, make_world: Callable[[str], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world("world")

    def fail(*_: Any) -> None:
        raise ClusterError("the node is gone")

    with monkeypatch.context() as patch:
        patch.setattr(world, "work", fail)
        with pytest.raises(ClusterError):
            world.run(command)
    (run,) = world.runs()
    moved = world.folder / "elsewhere" / "moved"
    moved.parent.mkdir()
    run.path.rename(moved)
    spec = load_job(RunDir(moved).unfinished_spec())
    assert spec.kind == command
    if command != "train":  # a training's `out` is its bundle
        assert spec.args["out"] == str(moved)
    world.run(command, run_folder=moved)
    assert RunDir(moved).success.exists()
    assert not run.path.exists() or command == "train"
    assert world.folder.joinpath("out", "network").exists() == (command == "train")


def test_a_failure_is_recorded_and_says_how_to_go_on(tmp_path: Path) -> None:
    spec = ScoreSpec(input=("x",))

    def attempt(bundle: BundleFolder | None) -> ClusterError:
        with (
            pytest.raises(ClusterError) as caught,
            open_run("score", tmp_path / "run", spec, Resources(), bundle=bundle),
        ):
            raise ClusterError("the disk is full")
        return caught.value

    folder = tmp_path / "run"
    assert attempt(None).__notes__ == [f"what is done is kept in {folder}: --out {folder} goes on"]
    status = RunDir(folder).load_status()
    assert (status["status"], status["error"]) == ("FAILED", "the disk is full")
    error = attempt(BundleFolder(tmp_path / "bundle", "bundle.json"))
    assert error.__notes__ == [f"what is done is kept in {folder}: --resume {folder} goes on"]


def test_a_run_of_another_kind_is_not_resumed(tmp_path: Path) -> None:
    spec = TrainSpec(data="x")
    with pytest.raises(ClusterError), open_run("find-lr", tmp_path / "r", spec, Resources()):
        raise ClusterError("later")
    with (
        pytest.raises(SpecError, match="holds a run of another spec"),
        open_run("train", tmp_path / "r", spec, Resources()),
    ):
        pass


def test_others_files_and_folders_are_left_alone(tmp_path: Path) -> None:
    spec = TrainSpec(data="x", overwrite=True)
    (tmp_path / "thesis.txt").touch()
    bundle = BundleFolder(tmp_path, "bundle.json")
    for place, match in (
        (tmp_path, "not empty and holds no run"),
        (tmp_path / "thesis.txt", "is a"),
    ):
        with pytest.raises(SpecError, match=match), open_run("tune", place, spec, Resources()):
            pass
    with (
        pytest.raises(SpecError, match="not empty and holds no bundle"),
        open_run("train", None, spec, Resources(), bundle=bundle),
    ):
        pass
    assert (tmp_path / "thesis.txt").exists()


def test_identity_is_what_decides_the_results() -> None:
    spec = TrainSpec(data="x", out="a", overwrite=True)
    assert identify(spec) == identify(TrainSpec(data="x", out="b"))
    assert identify(spec) != identify(TrainSpec(data="x", seed=1))


def test_a_run_that_has_ended_says_when_it_began(tmp_path: Path) -> None:
    began = "2026-01-01T02:00:00+00:00"
    with open_run("score", tmp_path / "run", ScoreSpec(input=("x",)), Resources()) as opened:
        write_json(opened.run.status, opened.run.load_status() | {"running_at": began})
    status = opened.run.load_status()
    assert status["status"] == "SUCCEEDED"
    assert status["running_at"] == began < status["succeeded_at"]
