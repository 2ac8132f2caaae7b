"""What counts as known from an earlier run, told on run folders written by hand."""

import os
import time
from pathlib import Path

import fsspec
import pytest

from orchestrator.data.known.index import (
    Origin,
)
from orchestrator.data.known.index_build import find_runs
from orchestrator.data.listing.inputs import list_inputs
from orchestrator.data.manifest import LISTED_KEY, load_manifest, write_listed
from tests.data.known.runs import LONG_AGO, TERMS, index_of, look_up, make_run, raw_sha, sha, touch


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
    make_run(root / "before", source, terms=TERMS | {"engine": "auto"})
    assert [run.folder for run in find_runs(root, TERMS)[0]] == [root / "before"]


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
