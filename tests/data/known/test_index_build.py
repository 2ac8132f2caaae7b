"""The index grows by small steps, and is whole whatever happens."""

import contextlib
import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.known import index_build
from orchestrator.data.known import segments as seg
from orchestrator.data.known.index import (
    KnownIndex,
    Origin,
)
from orchestrator.data.known.index_build import update_index
from orchestrator.data.listing.inputs import list_inputs
from orchestrator.errors import DataError
from orchestrator.runs.atomic import digest
from orchestrator.runs.runs_root import RunsRoot
from tests.conftest import Recorder
from tests.data.known.runs import (
    TERMS,
    contents,
    flip,
    index_of,
    look_up,
    make_run,
    raw_sha,
    sha,
    state_of,
    touch,
)
from tests.runs.dying import Killed, killed_at


def test_a_run_that_cannot_be_read_counts_for_nothing(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one", b="two", c="three")
    make_run(root / "r1", source)
    broken = make_run(root / "r2", source)
    (broken.predictions / "part-00001.parquet").write_bytes(b"PAR1")
    said: list[str] = []
    found = look_up(index_of(root, said=said), source)
    assert [origin and origin.run for origin in found.values()] == ["r1"] * 3
    assert f"{broken.path} cannot be read and does not count: its images are scored here" in said
    # It is read again each night, and counts once it can be.
    whole = make_run(tmp_path / "whole", source)
    (broken.predictions / "part-00001.parquet").write_bytes(
        (whole.predictions / "part-00001.parquet").read_bytes()
    )
    found = look_up(index_of(root, said=said), source)
    assert [origin and origin.run for origin in found.values()] == ["r2"] * 3
    assert len(said) == 2  # the first line tells that an index is made


def test_a_night_without_a_new_run_writes_nothing_and_one_with_a_few_files_little(
    tmp_path: Path,
) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, **{f"{number:03d}": str(number) for number in range(300)})
    make_run(root / "r1", source)
    index_of(root)
    first = contents(root)
    index_of(root)
    assert contents(root) == first
    for night in range(2, 30):
        touch(tmp_path / f"in{night}", **{f"{night}a": f"new {night}"})
        make_run(root / f"r{night:02d}", tmp_path / f"in{night}")
        before = contents(root)
        index = index_of(root)
        added = {name: text for name, text in contents(root).items() if before.get(name) != text}
        # The files of a run, a state, and never the 300 of the first run again.
        assert sum(map(len, added.values())) < 300 * 8 * seg.NUM_COLUMNS
    entries = [segment.num_entries for segment in state_of(root).segments]
    assert sum(entries) == 328
    assert all(n >= 2 * sum(entries[at + 1 :]) for at, n in enumerate(entries[:-1]))
    assert len(list((root / "_known").rglob("*.npy"))) == len(entries)  # the old ones are gone
    assert None not in look_up(index, source).values()
    for night in range(2, 30):
        assert None not in look_up(index, tmp_path / f"in{night}").values()


def test_a_file_scored_again_and_again_has_one_entry(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one", b="two", c="three")
    for night in range(1, 6):
        make_run(root / f"r{night}", source, rejected={"c": "damaged"})
    assert look_up(index_of(root), source)["a"] == Origin("r5", 0, sha("one"), None)
    assert [segment.num_entries for segment in state_of(root).segments] == [3]


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (lambda files: files.state.unlink(), "is gone: it is made again from 2 runs"),
        (lambda files: files.state.write_text("{"), "is damaged: it is made again from 2 runs"),
        (lambda files: files.state.write_text("[]"), "is damaged: it is made"),
        (lambda files: files.state.write_text('{"version": 0}'), "is of an earlier version: it is"),
        (lambda files: next(files.folder.glob("*.npy")).unlink(), "is gone: it is made again"),
        (lambda files: flip(next(files.folder.glob("*.npy"))), "is damaged: it is made again"),
        (lambda files: shutil.rmtree(files.folder), "indexing what 2 runs in"),
    ],
)
def test_an_index_that_is_lost_is_made_again_from_the_runs(
    harm: Any, line: str, tmp_path: Path
) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one", b="two")
    make_run(root / "r1", source)
    touch(source, c="three")
    make_run(root / "r2", source)
    expected = look_up(index_of(root), source)
    harm(RunsRoot(root).index(digest(TERMS)))
    said: list[str] = []
    assert look_up(index_of(root, said=said), source) == expected
    assert len(said) == 1 and line in said[0]
    index_of(root, said=said)
    assert len(said) == 1


def test_an_index_of_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one")
    make_run(root / "r1", source)
    index_of(root)
    state = RunsRoot(root).index(digest(TERMS)).state
    state.write_text(state.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(
        DataError,
        match=r"known-index.json was made by a newer version .*schema 2, this one reads up to 1",
    ):
        index_of(root)


def test_the_images_of_a_run_that_somebody_removed_are_scored_again(tmp_path: Path) -> None:
    source, other, root = tmp_path / "in", tmp_path / "other", tmp_path / "runs"
    touch(source, a="one")
    touch(other, b="two")
    make_run(root / "r1", source)
    make_run(root / "r2", other)
    index_of(root)
    shutil.rmtree(root / "r1")
    said: list[str] = []
    index = index_of(root, said=said)
    assert look_up(index, source) == {"a": None}
    assert index.find_content(raw_sha("one")) is None
    assert look_up(index, other)["b"] is not None
    assert said == [
        f"r1 is no longer in {root}: the index of known files is made from the runs that are there"
    ]
    # A run that comes back counts again, and one of the same name and another time is another one.
    make_run(root / "r1", other)
    assert look_up(index_of(root), source) == {"a": None}


def test_an_update_killed_at_any_change_leaves_the_old_index_or_the_new_one(
    tmp_path: Path,
) -> None:
    for number in itertools.count(1):
        source, root = tmp_path / "in", tmp_path / str(number)
        touch(source, a="one", b="two")
        make_run(root / "r1", source)
        index_of(root)
        touch(tmp_path / "in2", c="three", d="four", e="five")
        make_run(root / "r2", tmp_path / "in2")  # larger than what is there: it is merged
        before = contents(root)
        with killed_at(number) as dead, contextlib.suppress(Killed):
            index_of(root)
        state = state_of(root)
        assert [run.name for run in state.runs] in (["r1"], ["r1", "r2"])
        if [run.name for run in state.runs] == ["r1"]:
            assert before.items() <= contents(root).items()
        said: list[str] = []
        index = index_of(root, said=said)
        assert said == []  # nothing was lost
        assert None not in look_up(index, source).values()
        assert None not in look_up(index, tmp_path / "in2").values()
        if not dead():
            break
        touch(tmp_path / "in3", f="six")
        make_run(root / "r3", tmp_path / "in3")
        index_of(root)
        assert len(list((root / "_known").rglob("*.npy"))) == len(state_of(root).segments)
        assert not [name for name in contents(root) if name.startswith(".tmp-")]
    assert number > 6


def test_a_large_run_is_read_in_parts_and_a_damaged_one_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_build, "_SEGMENT_ROWS", 4)
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, **{f"{number:02d}": str(number) for number in range(19)})
    run = make_run(root / "r1", source)
    last = run.predictions / "part-00009.parquet"
    whole = last.read_bytes()
    last.write_bytes(whole[:-8])
    assert set(look_up(index_of(root), source).values()) == {None}
    assert state_of(root).segments == []
    last.write_bytes(whole)
    assert None not in look_up(index_of(root), source).values()
    assert [segment.num_entries for segment in state_of(root).segments] == [19]
    assert len(list((root / "_known").rglob("*.npy"))) == 1


def test_each_terms_have_an_index_of_their_own(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one")
    make_run(root / "r1", source)
    make_run(root / "r2", source, terms=TERMS | {"precision": "bf16"})
    update_index(root, TERMS | {"precision": "bf16"}, Recorder())
    assert look_up(index_of(root), source)["a"] == Origin("r1", 0, sha("one"), None)
    assert len(list((root / "_known").iterdir())) == 2
    # They lie beside the runs, which may lie in an input.
    assert [row.path for row in list_inputs([tmp_path]).rows()] == ["in/a"]


def test_what_a_run_in_progress_sees_stays_while_the_index_grows(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one")
    make_run(root / "r1", source)
    files, state, _ = update_index(root, TERMS, Recorder())
    pinned = KnownIndex(files.folder, tuple(run.key for run in state.runs))
    touch(tmp_path / "in2", b="two", c="three", d="four")
    make_run(root / "r2", tmp_path / "in2")
    index_of(root)
    assert pinned.find_content(sha("one")) == Origin("r1", 0, sha("one"), None)
    assert pinned.find_content(sha("two")) is None
