"""What is left out of a listing, counted, and what becomes a row."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

from orchestrator.data.known.known_files import KnownFiles, iter_known, known_writer
from orchestrator.data.listing.inputs import Inputs, list_inputs
from orchestrator.runs.run_dir import RunDir
from tests.data.known.runs import LONG_AGO, index_of, make_run, sha, touch


def night(source: Path, root: Path) -> tuple[KnownFiles, Inputs, list[str], list[dict[str, Any]]]:
    """Lists a folder; returns what is new and the rows of what is known in another way."""
    known = KnownFiles(index_of(root))
    listed = list_inputs([source], known=known)
    rows: list[dict[str, Any]] = []
    new = [row.path for row in known.leave_out(listed.rows(), listed.roots, rows.append)]
    return known, listed, new, rows


def total(known: KnownFiles) -> int:
    return sum(row["files"] for row in known.counts())


def test_known_files_leave_a_count_and_no_row(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, **{"a": "one", "x/c": "three", "d": "four", "c": "five"})
    os.mkfifo(source / "e")
    make_run(root / "r1", source, rejected={"d": "damaged", "c": "damaged"})
    touch(source, b="two")
    known, listed, new, rows = night(source, root)
    assert new == ["b"]
    assert rows == []
    assert total(known) == 5
    assert known.counts() == [
        {"root": 0, "code": None, "files": 2},
        {"root": 0, "code": "damaged", "files": 2, "first_root": 0, "first": "c"},
        {"root": 0, "code": "not_a_file", "files": 1, "first_root": 0, "first": "e"},
    ]
    assert listed.num_rows == 1  # the others took no room


def test_a_folder_of_known_files_alone_is_not_an_empty_one(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, **{"NORMAL/a": "one", "PNEUMONIA/b": "two", "covid/c": "three"})
    make_run(root / "r1", source)
    known, listed, new, _ = night(source, root)
    assert (new, total(known), listed.num_rows) == ([], 3, 0)
    assert listed.roots == (os.fsencode(source),)
    # What folders' names leave open is told as if nothing was known.
    assert listed.notes == list_inputs([source]).notes
    assert listed.notes.unknown == {"covid": 1}


def test_a_file_that_is_back_in_an_earlier_state_is_told_once(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, a="one", b="two")
    make_run(root / "r1", source)
    os.utime(source / "a", ns=(LONG_AGO, LONG_AGO + 10))
    (tmp_path / "in2").mkdir()
    (source / "b").rename(tmp_path / "in2" / "b")
    make_run(root / "r2", source)
    os.utime(source / "a", ns=(LONG_AGO, LONG_AGO))
    known, _, new, rows = night(source, root)
    assert (new, total(known)) == ([], 1)
    (row,) = rows
    assert row == {
        "root": 0,
        "path": "a",
        "size_bytes": 3,
        "mtime_ns": LONG_AGO,
        "sha256": sha("one"),
        "matched": "restored",
        "run": "r1",
        "run_row": 0,
    }
    touch(tmp_path / "in3", c="three")
    third = make_run(root / "r3", source, known=rows)
    known, _, new, rows = night(source, root)
    assert (new, rows, total(known)) == ([], [], 1)
    assert third.known.exists()


def link_cases(source: Path) -> None:
    """Files of several names; each of them is known by some nights and new in others."""
    touch(source, **{"a": "one", "NORMAL/b": "two", "c": "three", "train/d": "four", "e": "five"})
    touch(source, **{".hidden/f": "six", "g": "seven", "h": "eight"})
    (source / "zz").symlink_to("a")
    (source / "PNEUMONIA").mkdir()
    (source / "PNEUMONIA" / "c").symlink_to("../c")  # says more than the file
    (source / "NORMAL" / "d").symlink_to("../train/d")
    os.link(source / "e", source / "NORMAL" / "e")
    (source / "f").symlink_to(".hidden/f")  # the file itself is not listed
    (source / "f2").symlink_to(".hidden/f")
    os.link(source / "g", source / "g2")
    (source / "g3").symlink_to("g2")


def test_of_a_file_of_several_names_the_same_one_stays_whatever_is_known(tmp_path: Path) -> None:
    source = tmp_path / "in"
    link_cases(source)
    plain = list_inputs([source])
    expected = [row.path for row in plain.rows()]
    for number in range(2 ** len(expected)):
        if number % 37:  # some of all the ways in which files are known or new
            continue
        root, part = tmp_path / f"runs{number}", tmp_path / f"part{number}"
        chosen = {path for at, path in enumerate(expected) if number >> at & 1}
        make_partial_run(root / "r1", source, chosen, part)
        known, listed, new, rows = night(source, root)
        assert sorted(new) == [path for path in expected if path not in chosen], chosen
        assert total(known) == len(chosen)
        assert listed.notes == plain.notes
        assert rows == []


def make_partial_run(folder: Path, source: Path, chosen: set[str], part: Path) -> RunDir:
    """A run that has scored some of the names that a listing keeps, and nothing else."""
    touch(part, placeholder="none of them")
    for path in chosen:
        (part / path).parent.mkdir(parents=True, exist_ok=True)
        (part / path).write_text((source / path).read_text())
        os.utime(part / path, ns=(LONG_AGO, LONG_AGO))
    held = part.with_name(f"{part.name}-held")
    source.rename(held)
    part.rename(source)
    try:
        return make_run(folder, source)
    finally:
        source.rename(part)
        held.rename(source)


def test_a_table_of_rows_is_written_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "known.parquet"
    with known_writer(path) as add:
        for number in range(5000):
            add({"root": 0, "path": str(number), "matched": "content", "run": "r1"})
        assert not path.exists()
    assert Counter(row["matched"] for row in iter_known(path)) == {"content": 5000}
    assert list(iter_known(tmp_path / "none.parquet")) == []


def test_a_hidden_file_that_is_known_stands_for_none_of_its_links(tmp_path: Path) -> None:
    source, root = tmp_path / "in", tmp_path / "runs"
    touch(source, **{".hidden/f": "six"})
    make_run(root / "r1", source / ".hidden")  # the user named the folder itself
    for name in ("f", "f2"):
        (source / name).symlink_to(".hidden/f")
    known, _, new, _ = night(source, root)
    assert (new, total(known)) == (["f"], 0)
