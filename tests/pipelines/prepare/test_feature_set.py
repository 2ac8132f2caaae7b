from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data.shard_files import part_path, write_part
from orchestrator.errors import DataError
from orchestrator.pipelines.prepare.feature_set import is_packed, open_features, pack_features

AUGMENTED, PLAIN = np.array([0, 1, 4]), np.array([2, 5])


def feature(row: int, view: int) -> list[float]:
    return [float(row), float(view)]


def write_shard(folder: Path, shard: int, entries: list[tuple[int, int]]) -> None:
    """One shard of a feature pass, as the workers write it: a row a view."""
    flat = [number for entry in entries for number in feature(*entry)]
    table = {
        "row": pa.array([row for row, _ in entries], pa.int64()),
        "view": pa.array([view for _, view in entries], pa.int16()),
        "feature": pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), 2),
    }
    write_part(part_path(folder, shard), pa.table(table))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards; row 3 was rejected."""
    write_shard(tmp_path, 0, [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)])
    write_shard(tmp_path, 1, [(4, 0), (5, 0), (4, 1)])
    return tmp_path


def test_rows_come_back_in_the_order_asked_for(folder: Path) -> None:
    pack_features(folder, 2, AUGMENTED, PLAIN, views=2)
    features = open_features(folder)
    taken = features.take(np.array([4, 0]), views=2)
    assert taken.dtype == np.float32
    assert taken.tolist() == [[feature(4, 0), feature(0, 0)], [feature(4, 1), feature(0, 1)]]
    assert features.take(np.array([5, 1, 2])).tolist() == [
        [feature(5, 0), feature(1, 0), feature(2, 0)]
    ]
    assert features.places(np.array([4, 1])).tolist() == [2, 1]


def test_packing_that_was_killed_is_done_again_from_the_shards(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", killed)
        with pytest.raises(KeyboardInterrupt):
            pack_features(folder, 2, AUGMENTED, PLAIN, views=2)
    assert not is_packed(folder)
    pack_features(folder, 2, AUGMENTED, PLAIN, views=2)
    assert is_packed(folder)
    assert not list(folder.glob("part-*"))


@pytest.mark.parametrize(("rows", "views"), [([3], 1), ([5], 2), ([0], 3), ([6], 1)])
def test_what_is_not_there_is_named(folder: Path, rows: list[int], views: int) -> None:
    pack_features(folder, 2, AUGMENTED, PLAIN, views=2)
    with pytest.raises(DataError, match=f"lacks views of 1 rows, such as row {rows[0]}"):
        open_features(folder).take(np.array(rows), views)


@pytest.mark.parametrize("entries", [[(4, 0), (5, 0)], [(4, 0), (5, 0), (4, 1), (4, 1)]])
def test_a_view_that_is_lacking_or_doubled_is_not_packed(
    folder: Path, entries: list[tuple[int, int]]
) -> None:
    write_shard(folder, 1, entries)
    with pytest.raises(DataError, match="lacks or doubles 1 features"):
        pack_features(folder, 2, AUGMENTED, PLAIN, views=2)
    assert not is_packed(folder)
