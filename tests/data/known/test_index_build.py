"""What counts as known from an earlier run, told on run folders written by hand."""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.known.index import KnownIndex, Origin
from orchestrator.data.known.index_build import (
    build_index,
    find_runs,
    iter_known,
    known_writer,
    leave_out,
)
from orchestrator.data.listing.inputs import ListedFile, list_inputs
from orchestrator.data.manifest import LISTED_KEY, load_manifest, write_listed
from orchestrator.data.schema import KNOWN, PREDICTIONS, REJECTED
from orchestrator.errors import DataError
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.states import Status
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
    run.write_status(Status.RUNNING, terms=terms, limits=limits)
    if finished:
        finish(run)
    return run


def index_of(root: Path) -> KnownIndex:
    path = root.parent / f"{time.time_ns()}.sqlite"
    assert build_index(path, find_runs(root, TERMS, LIMITS)[0]) == []
    return KnownIndex(path)


def look_up(index: KnownIndex, source: Path | str) -> dict[str, Origin | None]:
    listed = list_inputs([source])
    found: dict[str, Origin | None] = {row.path: None for row in listed.rows()}

    def add(row: dict[str, Any]) -> None:
        found[row["path"]] = Origin(*(row[name] for name in ("run", "run_row", "sha256", "code")))

    list(leave_out(listed.rows(), listed.roots, index, add))
    return found


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
    assert index.find_content(sha("three")) == Origin("r1", 2, sha("three"), None)
    assert index.find_content(sha("other size")) is None


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
    assert index.find_content(sha("one")) == Origin("r1", 0, sha("one"), None)


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
    assert index.find_content(sha("one")) == Origin("r1", 0, sha("one"), None)


def test_only_finished_runs_on_the_same_terms_count(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one", b="two")
    make_run(root / "open", source, finished=False)
    for name, value in (("models", ["cd"]), ("engine", "keras"), ("precision", "bf16")):
        make_run(root / name, source, terms=TERMS | {name: value})
    (root / "stray").mkdir()
    (root / "file.txt").write_text("x")
    finished, unfinished = find_runs(root, TERMS, LIMITS)
    assert (finished, unfinished) == ([], [root / "open"])
    assert set(look_up(index_of(root), source).values()) == {None}
    assert find_runs(tmp_path / "nowhere", TERMS, LIMITS) == ([], [])
    make_run(root / "before", source, terms=TERMS | {"engine": "auto"})
    assert [run.folder for run in find_runs(root, TERMS, LIMITS)[0]] == [root / "before"]


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
    assert index.find_content(sha("two")) is None  # a rejected content was never scored
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
    path = tmp_path / "index.sqlite"
    assert build_index(path, find_runs(root, TERMS, LIMITS)[0]) == [broken.path]
    found = look_up(KnownIndex(path), source)
    assert [origin and origin.run for origin in found.values()] == ["r1"] * 3


def test_leaving_out_parts_the_rows_and_the_table_keeps_the_known_ones(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one", c="three", d="four")
    make_run(root / "r1", source, rejected={"d": "damaged"})
    touch(source, b="two")
    listed = list_inputs([source])
    with known_writer(tmp_path / "known.parquet") as add:
        rows: list[ListedFile] = list(leave_out(listed.rows(), listed.roots, index_of(root), add))
    assert [row.path for row in rows] == ["b"]
    known = list(iter_known(tmp_path / "known.parquet"))
    assert [(row["path"], row["run_row"], row["code"]) for row in known] == [
        ("a", 0, None),
        ("c", 1, None),
        ("d", 2, "damaged"),
    ]
    assert {(row["run"], row["matched"]) for row in known} == {("r1", "file")}
    assert list(iter_known(tmp_path / "none.parquet")) == []


def test_an_index_that_is_gone_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "i").mkdir()
    with pytest.raises(DataError, match="run the command again in a new folder"):
        KnownIndex(tmp_path / "i").find_content(sha("x"))
