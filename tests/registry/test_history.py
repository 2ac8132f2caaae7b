"""A registry under kills, power cuts and several who change it: alias and history agree."""

import contextlib
import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.errors import BundleError, SpecError
from orchestrator.model.bundle import load_info
from orchestrator.registry.history import (
    HistoryRow,
    add_version,
    load_registry,
    promote,
    roll_back,
    version_folder,
)
from orchestrator.runs import lock
from orchestrator.runs.atomic import sha256_file
from tests.registry.bundles import make_bundle, make_comparison
from tests.runs.dying import Killed, killed_at
from tests.runs.power import put, recorded


def quiet(line: str) -> None:
    pass


def make_registry(folder: Path) -> Path:
    """Three versions of a model, the first two of them promoted one after the other."""
    place = folder / "models"
    for seed in (1, 2, 3):
        make_bundle(folder / f"bundle-{seed}", seed=seed)
        add_version(place, folder / f"bundle-{seed}", "lite", "trained", quiet)
    promote(place, "lite@1", "production", "the first", quiet)
    make_comparison(folder / "compared", folder / "bundle-2", folder / "bundle-3")
    promote(place, "lite@2", "production", "better", quiet, force=True)
    return place


def promote_better(place: Path) -> HistoryRow:
    report = place.parent / "compared"
    return promote(place, "lite@3", "production", "why", quiet, report=report)


def add_again(place: Path) -> HistoryRow:
    return add_version(place, place.parent / "bundle-4", "lite", "trained", quiet)


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncs are slow, and of no effect where no power fails."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


CHANGES: dict[str, Callable[[Path], HistoryRow]] = {
    "promote": promote_better,
    "rollback": lambda place: roll_back(place, "production", "why", quiet),
    "add": add_again,
}
ENDS = {"promote": "lite@3", "rollback": "lite@1", "add": "lite@2"}  # what production names


def check_whole(place: Path, allowed: set[str]) -> None:
    """Alias and history agree by their form: a row is there or not; what it names is whole."""
    registry = load_registry(str(place))
    live = registry.aliases["production"]
    assert live in allowed
    moves = [row for row in registry.rows if row.alias == "production"]
    assert moves[-1].version == live
    assert [row.before for row in moves] == [None, *(row.version for row in moves[:-1])]
    for row in registry.rows:
        if row.report is not None:
            kept = place / "registry/reports" / row.report.sha256
            assert sha256_file(kept / "report.json") == kept.name
            assert (kept / "report.html").exists()
    for name, row in registry.versions.items():
        assert load_info(version_folder(str(place), row.sha256)).sha256 == row.sha256, name


@pytest.mark.parametrize("change", CHANGES)
def test_a_kill_at_any_write_leaves_a_whole_version_live(change: str, tmp_path: Path) -> None:
    made = make_registry(tmp_path / "made")
    make_bundle(made.parent / "bundle-4", seed=4)
    for number in itertools.count(1):
        place = Path(shutil.copytree(made.parent, tmp_path / str(number))) / "models"
        with killed_at(number) as dead, contextlib.suppress(Killed):
            CHANGES[change](place)
        check_whole(place, {"lite@2", ENDS[change]})
        if not dead():
            break
        done = len(load_registry(str(place)).rows) == 6
        if not done or change == "add":
            CHANGES[change](place)
        check_whole(place, {ENDS[change]})
        assert len(load_registry(str(place)).rows) == 6
        if not done:
            assert not list(place.rglob(".tmp-*"))
    assert number > 5


@pytest.mark.parametrize("change", CHANGES)
def test_a_power_cut_leaves_the_old_or_the_new_version_live(change: str, tmp_path: Path) -> None:
    place = make_registry(tmp_path / "world")
    make_bundle(place.parent / "bundle-4", seed=4)
    with recorded(tmp_path / "world") as recording:
        CHANGES[change](place)
    seen = 0
    for moment in recording.moments:
        for tree in moment.trees:
            put(tree, tmp_path / "world")
            check_whole(place, {"lite@2", ENDS[change]})
            seen += 1
    assert seen > 5


def test_several_who_promote_at_once_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_registry(tmp_path)
    monkeypatch.setattr(lock, "_LOOK_S", 0.001)
    gate = threading.Barrier(6)

    def work(number: int) -> None:
        gate.wait()
        for _ in range(3):
            with contextlib.suppress(SpecError):  # it is live already, by another one
                promote(place, f"lite@{number % 3 + 1}", "production", "", quiet, force=True)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))  # raises what one of them has raised

    check_whole(place, {"lite@1", "lite@2", "lite@3"})
    assert len(load_registry(str(place)).rows) > 8


def test_a_row_says_who_when_why_from_and_to(tmp_path: Path) -> None:
    place = make_registry(tmp_path)
    stored = json.loads((place / "registry/history/000005.json").read_text())
    sha256 = load_info(tmp_path / "bundle-2").sha256
    assert stored["who"].count("@") == 1
    assert stored["when"].endswith("+00:00")
    assert {name: stored[name] for name in ("action", "alias", "from", "to", "why", "sha256")} == {
        "action": "promote",
        "alias": "production",
        "from": "lite@1",
        "to": "lite@2",
        "why": "better",
        "sha256": sha256,
    }


def test_a_user_without_a_name_is_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", fail)
    make_bundle(tmp_path / "bundle")
    row = add_version(tmp_path / "models", tmp_path / "bundle", "lite", "why", quiet)
    assert row.who.startswith(f"user {os.getuid()}@")


def test_a_rollback_goes_back_step_by_step_and_not_in_a_circle(tmp_path: Path) -> None:
    place = make_registry(tmp_path)
    promote(place, "lite@3", "production", "why", quiet, force=True)
    assert roll_back(place, "production", "why", quiet).version == "lite@2"
    assert roll_back(place, "production", "why", quiet).version == "lite@1"
    with pytest.raises(SpecError, match="production has no version before lite@1; promote another"):
        roll_back(place, "production", "why", quiet)
    promote(place, "lite@3", "production", "why", quiet, force=True)
    assert roll_back(place, "production", "why", quiet).version == "lite@1"


def test_a_content_is_one_version_of_a_name(tmp_path: Path) -> None:
    place = make_registry(tmp_path)
    make_bundle(tmp_path / "again", seed=1, files=load_info(tmp_path / "bundle-1").files)
    assert add_version(place, tmp_path / "bundle-1", "lite", "again", quiet).version == "lite@1"
    assert add_version(place, tmp_path / "bundle-1", "other", "again", quiet).version == "other@1"
    assert len(list((place / "registry/versions").iterdir())) == 3
    with pytest.raises(SpecError, match="'a/b' cannot be the name of a model; give --name"):
        add_version(place, tmp_path / "bundle-1", "a/b", "why", quiet)


def test_what_cannot_be_live_is_refused(tmp_path: Path) -> None:
    place = make_registry(tmp_path)
    with pytest.raises(SpecError, match=r"has no lite@9; aliases: production; versions: lite@1, "):
        promote(place, "lite@9", "staging", "why", quiet)
    with pytest.raises(SpecError, match="production names lite@2 already; nothing was changed"):
        promote(place, "lite@2", "production", "why", quiet)
    stored = version_folder(str(place), load_registry(str(place)).versions["lite@3"].sha256)
    (stored / "openvino.bin").chmod(0o644)
    (stored / "openvino.bin").write_text("another")
    with pytest.raises(BundleError, match=r"openvino.bin differs from what bundle.json records"):
        promote_better(place)
    check_whole_rows = [row.version for row in load_registry(str(place)).rows]
    assert check_whole_rows[-1] == "lite@2"


def test_a_history_with_a_gap_or_a_damaged_or_newer_row_is_refused(tmp_path: Path) -> None:
    place = make_registry(tmp_path)
    folder = place / "registry/history"
    text = (folder / "000003.json").read_text()
    (folder / "000003.json").unlink()
    with pytest.raises(BundleError, match=r"has 000004.json where 000003.json is expected"):
        load_registry(str(place))
    (folder / "000003.json").write_text("{")
    with pytest.raises(BundleError, match=r"row 000003.json of the history of .* is damaged"):
        load_registry(str(place))
    (folder / "000003.json").write_text(json.dumps(json.loads(text) | {"schema_version": 99}))
    with pytest.raises(BundleError, match=r"newer version .*schema 99, .*; upgrade orchestrator"):
        load_registry(str(place))
