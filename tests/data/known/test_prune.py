"""Old runs go; what they have scored stays known, whatever happens on the way."""

import contextlib
import itertools
import shutil
from pathlib import Path

import pytest

from orchestrator.data.known.index import Origin
from orchestrator.data.known.prune import prune_runs
from orchestrator.errors import ClusterError, DataError, LockedError
from orchestrator.runs.atomic import digest
from orchestrator.runs.lock import hold
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.runs_root import RunsRoot
from orchestrator.runs.states import Status
from tests.conftest import Recorder
from tests.data.known.runs import (
    TERMS,
    contents,
    flip,
    index_of,
    look_up,
    make_nights,
    make_run,
    raw_sha,
    sha,
    state_of,
    touch,
)
from tests.runs.dying import Killed, killed_at
from tests.runs.finished import finish


def prune(root: Path, keep: int) -> tuple[list[str], int]:
    """Prunes; returns the names that were announced, which were all there then, and the rest."""
    told: list[tuple[list[str], int]] = []

    def announce(going: list[Path], num_kept: int) -> None:
        assert all(folder.is_dir() for folder in going)
        told.append(([folder.name for folder in going], num_kept))

    gone = prune_runs(root, keep, Recorder(), announce)
    ((names, num_kept),) = told
    assert [folder.name for folder in gone] == names
    assert not any((root / name).exists() for name in names)
    return names, num_kept


def all_known(root: Path, source: Path, numbers: range) -> bool:
    index = index_of(root)
    return all(
        look_up(index, source.parent / f"{source.name}{number}")[f"f{number}"]
        == Origin(f"r{number}", 0, sha(f"text {number}"), None)
        and index.find_content(raw_sha(f"text {number}")) is not None
        for number in numbers
    )


def test_the_newest_stay_and_what_the_others_scored_stays_known(tmp_path: Path) -> None:
    root, source = tmp_path / "runs", tmp_path / "in"
    make_nights(root, source, 5)
    assert prune(root, 2) == (["r1", "r2", "r3"], 2)
    assert all_known(root, source, range(1, 6))
    assert prune(root, 2) == ([], 2)
    # Night after night.
    for number in range(6, 20):
        make_nights(root, source, 1, number)
        assert prune(root, 2) == ([f"r{number - 2}"], 2)
    assert all_known(root, source, range(1, 20))
    assert sorted(path.name for path in root.iterdir()) == ["_known", "r18", "r19"]


@pytest.mark.parametrize("is_indexed", [False, True])
def test_a_run_that_recorded_no_engine_stays_known_to_later_nights(
    is_indexed: bool, tmp_path: Path
) -> None:
    source, other, root = tmp_path / "in", tmp_path / "other", tmp_path / "runs"
    touch(source, a="one")
    touch(other, b="two")
    make_run(root / "r1", source, terms=TERMS | {"engine": "auto"})
    make_run(root / "r2", other)
    if is_indexed:
        assert look_up(index_of(root), source)["a"] is not None
    prune_runs(root, 1, Recorder(), lambda going, kept: None)
    assert not (root / "r1").exists()
    assert look_up(index_of(root), source)["a"] is not None


def test_nothing_goes_while_a_night_is_at_work(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one")
    for name in ("r1", "r2"):
        make_run(root / name, source)
    with hold(root), pytest.raises(LockedError, match="runs is held by process"):
        prune_runs(root, 1, Recorder(), lambda going, kept: None)
    assert (root / "r1").is_dir()


def test_unfinished_runs_and_those_of_other_commands_stay(tmp_path: Path) -> None:
    root, source = tmp_path / "runs", tmp_path / "in"
    make_nights(root, source, 3)
    make_run(root / "open", source.parent / "in1", finished=False)
    training = RunDir(root / "train-1")
    training.write_status(Status.RUNNING, kind="train")
    finish(training)
    (root / "notes.txt").write_text("x")
    broken = RunDir(root / "r1")
    (broken.predictions / "part-00000.parquet").write_bytes(b"PAR1")
    reporter = Recorder()
    gone = prune_runs(root, 1, reporter, lambda *_: None)
    assert [folder.name for folder in gone] == ["r2"]
    assert any(f"{broken.path} cannot be read" in line for line in reporter.lines)
    names = {path.name for path in root.iterdir()}
    assert names == {"_known", "notes.txt", "open", "r1", "r3", "train-1"}


def test_runs_of_several_models_are_counted_together_and_all_stay_known(tmp_path: Path) -> None:
    root, source = tmp_path / "runs", tmp_path / "in"
    touch(source, a="one")
    make_run(root / "r1", source)
    make_run(root / "r2", source, terms=TERMS | {"precision": "bf16"})
    plain = RunDir(root / "r0")  # of a version that recorded no terms
    plain.write_status(Status.RUNNING, kind="score")
    finish(plain)
    make_run(root / "r3", source, terms=TERMS | {"precision": "bf16"})
    assert prune(root, 1) == (["r1", "r2", "r0"], 1)  # in the order of their ends
    assert look_up(index_of(root), source)["a"] == Origin("r1", 0, sha("one"), None)


def test_a_run_removed_by_hand_counts_no_longer_and_a_pruned_one_does(tmp_path: Path) -> None:
    root, source = tmp_path / "runs", tmp_path / "in"
    make_nights(root, source, 4)
    prune(root, 2)
    shutil.rmtree(root / "r3")
    index = index_of(root)
    assert look_up(index, tmp_path / "in3") == {"f3": None}
    assert all_known(root, source, range(1, 3)) and all_known(root, source, range(4, 5))


def test_a_run_under_the_name_of_a_pruned_one_is_another_run(tmp_path: Path) -> None:
    root, source = tmp_path / "runs", tmp_path / "in"
    make_nights(root, source, 2)
    prune(root, 1)
    touch(tmp_path / "other", x="new")
    make_run(root / "r1", tmp_path / "other")
    index = index_of(root)
    assert look_up(index, tmp_path / "other")["x"] == Origin("r1", 0, sha("new"), None)
    assert all_known(root, source, range(1, 3))


@pytest.mark.parametrize("harm", ["state", "segment", "both"])
def test_a_lost_index_that_alone_knew_pruned_runs_is_refused(harm: str, tmp_path: Path) -> None:
    root, source = tmp_path / "runs", tmp_path / "in"
    make_nights(root, source, 3)
    prune(root, 2)
    files = RunsRoot(root).index(digest(TERMS))
    if harm != "state":
        flip(next(files.folder.glob("*.npy")))
    if harm != "segment":
        files.state.unlink()
    before = contents(root)
    for act in (lambda: index_of(root), lambda: prune(root, 1)):
        with pytest.raises(
            DataError,
            match=f"the index of known files {files.folder} is .*nothing else knows what 1 pruned "
            "runs had processed; restore the folder from a backup, or remove it to have their",
        ):
            act()
    assert contents(root) == before
    shutil.rmtree(files.folder)
    assert look_up(index_of(root), tmp_path / "in1") == {"f1": None}
    assert all_known(root, source, range(2, 4))


def test_a_prune_killed_at_any_change_loses_nothing(tmp_path: Path) -> None:
    source, made = tmp_path / "in", tmp_path / "made"
    make_nights(made, source, 4)
    for number in itertools.count(1):
        root = tmp_path / str(number)
        shutil.copytree(made, root)
        with killed_at(number) as dead, contextlib.suppress(Killed):
            prune(root, 2)
        # A folder that still has a run's name holds that run, whole.
        for path in root.glob("r*"):
            assert len(list(path.rglob("*"))) > 5
        assert {"r3", "r4"} <= {path.name for path in root.iterdir()}
        assert all_known(root, source, range(1, 5))
        prune(root, 2)
        assert sorted(path.name for path in root.iterdir()) == ["_known", "r3", "r4"]
        assert all_known(root, source, range(1, 5))
        assert [run.name for run in state_of(root).runs if run.pruned] == ["r1", "r2"]
        if not dead():
            break
    assert number > 12


def test_what_cannot_be_removed_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source = tmp_path / "runs", tmp_path / "in"
    with pytest.raises(DataError, match="is not a folder; name a folder of runs"):
        prune(root, 1)
    make_nights(root, source, 2)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        with pytest.raises(ClusterError, match=r"cannot remove .*r1: Permission denied; its"):
            prune_runs(root, 1, Recorder(), lambda *_: None)
    assert all_known(root, source, range(1, 3))
    prune(root, 1)
    assert sorted(path.name for path in root.iterdir()) == ["_known", "r2"]
