"""Several inputs, and the order of rows that are sorted on disk."""

import os
import sqlite3
from pathlib import Path

import pytest

from orchestrator.data.listing import inputs
from orchestrator.data.listing.inputs import list_inputs
from orchestrator.errors import ClusterError, DataError


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


def test_one_empty_folder_among_several_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "full", "a.jpg")
    assert list_inputs([tmp_path / "empty", tmp_path / "full"]).num_rows == 1
    (tmp_path / "empty2").mkdir()
    with pytest.raises(DataError, match=r"empty, .*empty2 holds no files"):
        list_inputs([tmp_path / "empty", tmp_path / "empty2"])


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
