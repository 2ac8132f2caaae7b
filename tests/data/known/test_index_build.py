"""What counts as known from an earlier run, told on run folders written by hand."""

import contextlib
import hashlib
import itertools
import os
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.known import index_build
from orchestrator.data.known import segments as seg
from orchestrator.data.known.index import (
    IndexState,
    KnownIndex,
    OpenIndex,
    Origin,
    load_state,
    whole_path,
)
from orchestrator.data.known.index_build import find_runs, update_index
from orchestrator.data.known.known_files import KnownFiles
from orchestrator.data.listing.inputs import list_inputs
from orchestrator.data.manifest import LISTED_KEY, load_manifest, write_listed
from orchestrator.data.schema import KNOWN, PREDICTIONS, REJECTED
from orchestrator.errors import DataError
from orchestrator.runs.atomic import digest
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.runs_root import RunsRoot
from orchestrator.runs.states import Status
from tests.conftest import Recorder
from tests.runs.dying import Killed, killed_at
from tests.runs.finished import finish

TERMS = {"models": ["ab"], "engine": "auto", "precision": "f32", "decoder": 1}
LIMITS = {"max_bytes": None}
LONG_AGO = time.time_ns() - 3600 * 10**9


def touch(folder: Path, **contents: str) -> None:
    for name, text in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, ns=(LONG_AGO, LONG_AGO))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def raw_sha(text: str) -> bytes:
    return bytes.fromhex(sha(text))


def make_run(
    folder: Path,
    source: Path,
    *,
    rejected: dict[str, str] | None = None,
    known: list[dict[str, Any]] | None = None,
    terms: dict[str, Any] = TERMS,
    limits: dict[str, Any] = LIMITS,
    finished: bool = True,
) -> RunDir:
    """Writes what a finished run leaves: every file scored but those rejected with a code."""
    run, rejected = RunDir(folder), rejected or {}
    listed = list_inputs([source])
    metadata = {LISTED_KEY: str(time.time_ns()).encode()}
    write_listed(listed.rows(), listed.roots, metadata, run.manifest, 2)
    scored: dict[int, list[dict[str, Any]]] = {}
    bad = []
    for row in load_manifest(run.manifest).table.to_pylist():
        scored.setdefault(row["shard"], [])
        code = row["code"] or rejected.get(row["path"])
        if code:
            bad.append({"row": row["row"], "path": row["path"], "code": code})
        else:
            content = (source / row["path"]).read_text()
            scored[row["shard"]].append({"row": row["row"], "sha256": sha(content)})
    run.predictions.mkdir()
    for shard, rows in scored.items():
        path = run.predictions / f"part-{shard:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, PREDICTIONS), path)
    pq.write_table(pa.Table.from_pylist(bad, REJECTED), run.rejected)
    if known is not None:
        pq.write_table(pa.Table.from_pylist(known, KNOWN), run.known)
    run.write_status(Status.RUNNING, kind="score", terms=terms, limits=limits)
    if finished:
        finish(run)
    return run


def index_of(
    root: Path, limits: dict[str, Any] = LIMITS, said: list[str] | None = None
) -> OpenIndex:
    """The index as a night of today would see it."""
    reporter = Recorder()
    files, state, _ = update_index(root, TERMS, reporter)
    if said is not None:
        said += reporter.lines
    keys = [run.key for run in state.runs]
    index = OpenIndex(files, state, frozenset(keys), digest(limits))
    workers = pickle.loads(pickle.dumps(KnownIndex(files.folder, tuple(keys))))
    index.find_content = lambda sha: workers.find_content(sha.hex())  # type: ignore[method-assign]
    return index


def look_up(index: OpenIndex, source: Path | str) -> dict[str, Origin | None]:
    listed = list_inputs([source])
    rows = list(listed.rows())
    found = index.find_files(
        [whole_path(listed.roots[row.root], row.raw) for row in rows],
        [row.size_bytes for row in rows],
        [row.mtime_ns for row in rows],
    )
    new = list(KnownFiles(index).leave_out(rows, listed.roots, lambda _: None))
    return {
        row.path: None if row in new else index.origin(segment, place)
        for row, segment, place in zip(rows, found.segments, found.places, strict=True)
    }


def test_a_file_is_known_by_path_size_and_time(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one", b="two", c="three")
    make_run(root / "r1", source)
    found = look_up(index_of(root), source)
    assert found == {name: Origin("r1", row, sha(text), None) for name, row, text in (
        ("a", 0, "one"), ("b", 1, "two"), ("c", 2, "three"))}  # fmt: skip

    touch(source, a="1ne", d="one")  # a: same size and time, which is what "unchanged" means
    touch(source, b="other size")
    os.utime(source / "c", ns=(LONG_AGO, LONG_AGO + 1))
    index = index_of(root)
    found = look_up(index, source)
    assert found["a"] == Origin("r1", 0, sha("one"), None)
    assert found["b"] is found["c"] is found["d"] is None
    assert index.find_content(raw_sha("three")) == Origin("r1", 2, sha("three"), None)
    assert index.find_content(raw_sha("other size")) is None


def test_the_same_path_in_another_root_is_the_same_file(tmp_path: Path) -> None:
    touch(tmp_path / "in", **{"ward/a": "one"})
    make_run(tmp_path / "runs" / "r1", tmp_path / "in")
    found = look_up(index_of(tmp_path / "runs"), tmp_path / "in" / "ward")
    assert found["a"] is not None


def test_a_file_changed_just_before_the_listing_is_known_by_content_alone(tmp_path: Path) -> None:
    source = tmp_path / "in"
    touch(source, a="one")
    os.utime(source / "a")
    make_run(tmp_path / "runs" / "r1", source)
    index = index_of(tmp_path / "runs")
    assert look_up(index, source) == {"a": None}
    assert index.find_content(raw_sha("one")) == Origin("r1", 0, sha("one"), None)


def test_where_a_store_tells_no_time_contents_are_compared(tmp_path: Path) -> None:
    store, copy = fsspec.filesystem("memory"), tmp_path / "in"
    touch(copy, a="one")
    store.pipe("/known/a", b"one")
    run = make_run(tmp_path / "runs" / "r1", copy)
    listed = list_inputs(["memory://known"])
    metadata = {LISTED_KEY: str(time.time_ns()).encode()}
    write_listed(listed.rows(), listed.roots, metadata, run.manifest, 2)
    store.pipe("/known/a", b"two")  # another image of the same size
    index = index_of(tmp_path / "runs")
    assert look_up(index, "memory://known") == {"a": None}
    assert index.find_content(raw_sha("one")) == Origin("r1", 0, sha("one"), None)


def test_only_finished_runs_on_the_same_terms_count(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one", b="two")
    make_run(root / "open", source, finished=False)
    for name, value in (("models", ["cd"]), ("engine", "keras"), ("precision", "bf16")):
        make_run(root / name, source, terms=TERMS | {name: value})
    assert not (root / "_known").exists()
    (root / "stray").mkdir()
    (root / "file.txt").write_text("x")
    finished, unfinished = find_runs(root, TERMS)
    assert (finished, unfinished) == ([], [root / "open"])
    assert set(look_up(index_of(root), source).values()) == {None}
    assert find_runs(tmp_path / "nowhere", TERMS) == ([], [])


@pytest.mark.parametrize(
    ("code", "is_known"),
    [
        ("damaged", True),
        ("too_large", True),
        ("unreadable", False),
        ("missing_file", False),
        ("out_of_memory", False),
        ("decoder_hung", False),  # perhaps it was the storage
        ("decoder_crashed", False),
        ("not_a_file", False),  # the listing took it for a file: it was changing
    ],
)
def test_a_rejected_file_is_tried_again_only_where_that_may_help(
    code: str, is_known: bool, tmp_path: Path
) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one", b="two")
    make_run(root / "r1", source, rejected={"b": code})
    index = index_of(root)
    found = look_up(index, source)
    assert found["a"] is not None
    assert found["b"] == (Origin("r1", 1, None, code) if is_known else None)
    assert index.find_content(raw_sha("two")) is None  # a rejected content was never scored
    os.utime(source / "b")
    assert look_up(index, source)["b"] is None


def test_rejections_under_other_limits_do_not_count_but_predictions_do(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one", b="two")
    make_run(root / "r1", source, rejected={"b": "too_large"}, limits={"max_bytes": 9})
    found = look_up(index_of(root), source)
    assert found["a"] is not None
    assert found["b"] is None


def test_what_the_listing_rejects_is_known_by_the_same_rejection(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one")
    os.mkfifo(source / "b")
    make_run(root / "r1", source)
    index = index_of(root)
    assert look_up(index, source)["b"] == Origin("r1", 1, None, "not_a_file")
    (source / "b").unlink()
    (source / "b").symlink_to("/nowhere")
    assert look_up(index, source)["b"] is None


def test_of_several_runs_a_prediction_counts_before_a_rejection(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one")
    make_run(root / "r1", source, rejected={"a": "damaged"})
    make_run(root / "r2", source)
    make_run(root / "r3", source, rejected={"a": "too_slow"})
    assert look_up(index_of(root), source)["a"] == Origin("r2", 0, sha("one"), None)


def test_a_match_by_content_is_a_match_by_file_the_night_after(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one")
    make_run(root / "r1", source)
    touch(source, copy="one")
    info = (source / "copy").stat()
    row = {"root": 0, "path": "copy", "size_bytes": 3, "mtime_ns": info.st_mtime_ns}
    row |= {"sha256": sha("one"), "matched": "content", "run": "r1", "run_row": 0}
    touch(tmp_path / "in2", z="z")
    second = make_run(root / "r2", tmp_path / "in2", known=[row])
    manifest = load_manifest(second.manifest)
    touch(tmp_path / "in2", copy="one")
    assert manifest.roots == (os.fsencode(tmp_path / "in2"),)
    assert look_up(index_of(root), tmp_path / "in2")["copy"] == Origin("r1", 0, sha("one"), None)
    # With the run that holds the prediction gone, it counts no longer.
    (root / "r1" / "_SUCCESS").unlink()
    assert look_up(index_of(root), tmp_path / "in2")["copy"] is None


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


def contents(root: Path) -> dict[str, bytes]:
    """Every file of the indexes under a folder of runs."""
    return {path.name: path.read_bytes() for path in (root / "_known").rglob("*") if path.is_file()}


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


def state_of(root: Path) -> IndexState:
    return load_state(RunsRoot(root).index(digest(TERMS)))


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


def flip(path: Path) -> None:
    """Changes one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_an_index_of_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one")
    make_run(root / "r1", source)
    index_of(root)
    state = RunsRoot(root).index(digest(TERMS)).state
    state.write_text(state.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(DataError, match=r"known-index.json is of version 2; this program reads 1"):
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
