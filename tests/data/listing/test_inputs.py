"""Several inputs, and the order of rows that are sorted on disk."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.listing import inputs
from orchestrator.data.listing.inputs import list_inputs
from orchestrator.data.listing.listing import Found, Listing
from orchestrator.data.listing.options import ListingOptions
from orchestrator.errors import ClusterError, DataError, SpecError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_several_folders_keep_their_order_and_each_its_own_paths(tmp_path: Path) -> None:
    touch(tmp_path / "b", "NORMAL/IM-0001-0001.jpeg", "z.jpg")
    touch(tmp_path / "a", "NORMAL/IM-0001-0001.jpeg", "train/a.jpg")
    listed = list_inputs([tmp_path / "b", str(tmp_path / "a")])
    assert listed.roots == (os.fsencode(tmp_path / "b"), os.fsencode(tmp_path / "a"))
    assert [(row.root, row.path, row.label, row.split) for row in listed.rows()] == [
        (0, "NORMAL/IM-0001-0001.jpeg", 0, None),
        (0, "z.jpg", None, None),
        (1, "NORMAL/IM-0001-0001.jpeg", 0, None),
        (1, "train/a.jpg", None, "train"),
    ]
    assert listed.num_rows == 4
    # Two archives number their patients alike: they are not the same people.
    patients = [row.patient_id for row in listed.rows() if row.patient_id]
    assert patients == ["input0/IM-0001", "input1/IM-0001"]
    (row,) = [row for row in list_inputs([tmp_path / "a"]).rows() if row.patient_id]
    assert row.patient_id == "IM-0001"


def test_each_folder_must_give_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "hidden", "Thumbs.db")
    touch(tmp_path / "full", "a.jpg")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "link.jpg").symlink_to("nowhere")  # a row, though it is rejected
    touch(tmp_path / "beside", "b.jpg")
    full = [tmp_path / "full", tmp_path / "broken", tmp_path / "beside" / "b.jpg"]
    assert list_inputs(full).num_rows == 3
    with pytest.raises(DataError, match=r"^the folder \S*/empty holds no files; .*--allow-empty`"):
        list_inputs([*full, tmp_path / "empty"])
    with pytest.raises(DataError, match=r"/hidden, \S*/empty holds no files;"):
        list_inputs([tmp_path / "hidden", *full, tmp_path / "empty"])
    with pytest.raises(DataError, match=r"/empty, \S*/hidden holds no files \(ignored 1 name: Th"):
        list_inputs([tmp_path / "empty", tmp_path / "hidden"])


def test_an_empty_input_is_accepted_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "full", "a.jpg")
    (tmp_path / "table.csv").write_text("path\n")
    accept = ListingOptions(allow_empty=True)
    both = list_inputs([tmp_path / "empty", tmp_path / "full"], accept)
    assert [(row.root, row.path) for row in both.rows()] == [(1, "a.jpg")]
    assert len(both.roots) == 2
    for source in ("empty", "table.csv"):
        assert list_inputs([tmp_path / source], accept).num_rows == 0


@pytest.mark.parametrize(
    ("first", "second"), [("a", "a/b"), ("a/b", "a"), ("a", "a"), ("a", "link"), ("link", "a/b")]
)
def test_a_folder_within_another_would_give_files_twice(
    first: str, second: str, tmp_path: Path
) -> None:
    touch(tmp_path, "a/b/c.jpg", "a.b/c.jpg")
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(DataError, match=r"lies in the input .* found twice; leave one of them out"):
        list_inputs([tmp_path / first, tmp_path / "a.b", tmp_path / second])


def test_folders_with_a_common_beginning_of_their_names_are_not_nested(tmp_path: Path) -> None:
    touch(tmp_path, "a/c.jpg", "a b/c.jpg", "a.b/c.jpg", "ab/c.jpg")
    assert list_inputs([tmp_path / name for name in ("ab", "a", "a.b", "a b")]).num_rows == 4


def test_a_table_stands_alone(tmp_path: Path) -> None:
    touch(tmp_path, "a/c.jpg")
    (tmp_path / "t.csv").write_text("path\na/c.jpg\n")
    with pytest.raises(DataError, match=r"t\.csv is not a folder; expected one table, or folders"):
        list_inputs([tmp_path / "a", tmp_path / "t.csv"])
    with pytest.raises(DataError, match="none does not exist; name a folder"):
        list_inputs([tmp_path / "a", tmp_path / "none"])


def test_files_have_the_folder_above_them_all_as_root(tmp_path: Path) -> None:
    touch(tmp_path, "in/NORMAL/a.jpg", "in/PNEUMONIA/b.jpg", "in/c.jpg", "side/d.jpg")
    one = list_inputs([tmp_path / "in" / "c.jpg"])
    assert one.roots == (os.fsencode(tmp_path / "in"),)
    assert [(row.path, row.label) for row in one.rows()] == [("c.jpg", None)]
    several = list_inputs([tmp_path / "in" / "PNEUMONIA" / "b.jpg", tmp_path / "in/NORMAL/a.jpg"])
    assert several.roots == (os.fsencode(tmp_path / "in"),)
    assert [(row.path, row.label) for row in several.rows()] == [
        ("NORMAL/a.jpg", 0),
        ("PNEUMONIA/b.jpg", 1),
    ]
    mixed = list_inputs([tmp_path / "in" / "c.jpg", tmp_path / "side"])
    assert mixed.roots == (os.fsencode(tmp_path / "side"), os.fsencode(tmp_path / "in"))
    assert [(row.root, row.path) for row in mixed.rows()] == [(0, "d.jpg"), (1, "c.jpg")]


def test_a_named_file_is_read_whatever_its_name_and_wherever_a_link_leads(tmp_path: Path) -> None:
    touch(tmp_path, "in/.hidden.jpg", "elsewhere/real.jpg", "in/Thumbs.db")
    (tmp_path / "in" / "link.jpg").symlink_to("../elsewhere/real.jpg")
    (tmp_path / "in" / "other.jpg").symlink_to("../elsewhere/real.jpg")
    names = (".hidden.jpg", "Thumbs.db", "link.jpg", "other.jpg")
    listed = list_inputs([tmp_path / "in" / name for name in names])
    assert listed.roots == (os.fsencode(tmp_path / "in"), b"/")
    assert [(row.root, row.code) for row in listed.rows()] == [(0, None)] * 2 + [(1, None)] * 2
    for row in listed.rows():
        assert (Path(os.fsdecode(listed.roots[row.root])) / row.path).is_file()


@pytest.mark.parametrize(
    "names",
    [("a/b.jpg", "a/b.jpg"), ("a", "a/b.jpg"), ("a/b.jpg", "link/b.jpg"), ("link", "a/b.jpg")],
)
def test_a_file_named_twice_is_an_error(names: tuple[str, ...], tmp_path: Path) -> None:
    touch(tmp_path, "a/b.jpg", "a/b.jpg2")
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(DataError, match="would be found twice"):
        list_inputs([tmp_path / name for name in names])
    assert list_inputs([tmp_path / "a/b.jpg", tmp_path / "a/b.jpg2"]).num_rows == 2


def test_a_kind_of_table_is_of_no_use_for_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    with pytest.raises(SpecError, match=r"table nih says whose columns .* name the file, such as"):
        list_inputs([tmp_path], ListingOptions(table="nih"))


def test_an_input_of_ignored_names_alone_says_so(tmp_path: Path) -> None:
    touch(tmp_path, ".git/a.jpg", "Thumbs.db")
    expected = r"holds no files \(ignored 2 names: .git \(1\), Thumbs.db \(1\); --include-hidden"
    with pytest.raises(DataError, match=expected):
        list_inputs([tmp_path])


def test_notes_are_of_all_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a/NORMAL/1.jpg", "a/VIRUS/2.jpg", "a/.x", "b/NORMAL/1.jpg", "b/VIRUS/3.jpg")
    notes = list_inputs([tmp_path / "a", tmp_path / "b"]).notes
    assert (notes.ignored, notes.unknown, notes.num_labelled) == ({".*": 1}, {"VIRUS": 2}, 2)


def test_a_full_temporary_folder_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, *(f"{n:05d}.jpg" for n in range(2000)))
    connect = sqlite3.connect

    def connect_small(*args: object, **options: object) -> sqlite3.Connection:
        database = connect(*args, **options)  # type: ignore[arg-type]
        database.execute("PRAGMA max_page_count = 10")
        return database

    monkeypatch.setattr(inputs.sqlite3, "connect", connect_small)
    with pytest.raises(ClusterError, match="temporary folder: database or disk is full; free"):
        list_inputs([tmp_path])


def test_a_share_that_vanishes_while_it_is_listed_ends_the_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = tmp_path / "share"
    touch(share, *(f"{n}/a.jpg" for n in range(5)))
    listed = inputs.Listing._list

    def list_and_vanish(listing: Listing, folder: bytes, *rest: Any) -> Iterator[Found]:
        yield from listed(listing, folder, *rest)
        if folder and share.exists():
            share.rename(tmp_path / "away")

    with monkeypatch.context() as patch:
        patch.setattr(inputs.Listing, "_list", list_and_vanish)
        with pytest.raises(ClusterError, match="share is not there any more"):
            list_inputs([share])
    # What has no permission is a row as before.
    (tmp_path / "away").rename(share)
    (share / "0").chmod(0)
    try:
        assert list_inputs([share]).num_rows == 5
    finally:
        (share / "0").chmod(0o700)


def test_other_names_of_a_file_are_not_counted_in_its_folders(tmp_path: Path) -> None:
    (tmp_path / "NORMAL").mkdir()
    (tmp_path / "virus").mkdir()
    (tmp_path / "NORMAL" / "a.jpg").write_bytes(b"x")
    (tmp_path / "NORMAL" / "b.jpg").hardlink_to(tmp_path / "NORMAL" / "a.jpg")
    (tmp_path / "virus" / "c.jpg").write_bytes(b"y")
    (tmp_path / "virus" / "d.jpg").symlink_to("c.jpg")
    notes = list_inputs([tmp_path]).notes
    assert (notes.num_labelled, notes.unknown) == (1, {"virus": 1})
    assert notes.ignored == {"other names of a listed file": 2}
