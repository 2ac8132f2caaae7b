import pytest

from orchestrator.data.listing.listed_rows import (
    ListedFile,
    check_unique,
    drop_other_names,
    merge_rows,
    read_rows,
    store_rows,
)
from orchestrator.errors import DataError


def listed(path: str, label=None, split=None, line=None) -> ListedFile:
    raw = path.encode()
    return ListedFile(0, raw, line, path, 1, 1, label, None, None, split, None, None)


def kept(*rows) -> list[str]:
    database = store_rows(rows)
    forgotten: list[bytes] = []
    dropped = drop_other_names(database, lambda root, raw, size: forgotten.append(raw))
    paths = [row.path for row in read_rows(database)]
    assert {row.path for row, _ in rows} - set(paths) == {raw.decode() for raw in forgotten}
    assert dropped == len(rows) - len(paths)
    return paths


def test_a_link_is_dropped_for_its_file_and_a_file_for_a_link_that_says_more() -> None:
    assert kept((listed("b"), None), (listed("a"), b"b")) == ["b"]
    assert kept((listed("b"), None), (listed("a", 1), b"b")) == ["a"]
    assert kept((listed("b", 1), None), (listed("a", 1), b"b")) == ["b"]
    assert kept((listed("b", 1), None), (listed("a", 1, "train"), b"b")) == ["a"]


def test_of_links_alone_the_first_stays() -> None:
    assert kept((listed("b"), b"/gone"), (listed("a"), b"/gone"), (listed("c"), None)) == ["a", "c"]


def test_names_that_contradict_each_other_all_stay() -> None:
    rows = [(listed("a", 0), b"x"), (listed("b", 1), b"x"), (listed("c", 1), b"x")]
    assert kept(*rows, (listed("x"), None)) == ["a", "b"]
    splits = [(listed("a", 0, "train"), b"/1:2"), (listed("b", 0, "test"), b"/1:2")]
    assert kept(*splits) == ["a", "b"]


def test_many_names_of_one_file() -> None:
    rows = [(listed(f"{n:05d}", n % 2), b"/1:2") for n in range(5000)]
    assert kept(*rows) == ["00000", "00001"]


def test_rows_of_one_image_are_merged_pneumonia_first() -> None:
    rows = [listed("a", 0, line=2), listed("b", None, line=3), listed("a", 1, line=4)]
    rows += [listed("b", 0, line=5), listed("c", line=6)]
    database = store_rows((row, None) for row in rows)
    with pytest.raises(DataError, match=r"t\.csv, line 4 lists the same path as 2"):
        check_unique(database, "t.csv, line")
    assert merge_rows(database) == 2
    assert [(row.path, row.label, row.line) for row in read_rows(database)] == [
        ("a", 1, 2),
        ("b", 0, 3),
        ("c", None, 6),
    ]
    check_unique(database, "t.csv, line")
