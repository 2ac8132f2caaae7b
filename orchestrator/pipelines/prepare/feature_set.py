"""Packed features: two arrays that any number of processes of a node map and share.

Computing them is in `features.py`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.data.shard_files import part_path, read_part
from orchestrator.errors import DataError
from orchestrator.runs.atomic import atomic_path

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
_ROWS, _AUGMENTED, _PLAIN = "rows.npz", "augmented.npy", "plain.npy"


@dataclass(frozen=True)
class FeatureSet:
    """Packed features, memory-mapped: the processes of a node that open them share one copy.

    Args:
        augmented: [views, num_augmented, D], float16 or float32, the plain image's view first.
        augmented_rows: int64 [num_augmented], manifest rows, rising.
        plain: [1, num_plain, D], of rows that have the plain view alone.
        plain_rows: int64 [num_plain], rising.
    """

    augmented: Array
    augmented_rows: IntArray
    plain: Array
    plain_rows: IntArray

    def places(self, rows: IntArray) -> IntArray:
        """Returns where in `augmented` each row is.

        Raises:
            DataError: a row is not there.
        """
        place = _places(self.augmented_rows, rows)
        _check_found(rows[place < 0])
        return place

    def take(self, rows: IntArray, views: int = 1) -> Array:
        """Returns a copy of the features of rows, in their order.

        Args:
            rows: int64 [N], manifest rows.
            views: views wanted of each, counted from the plain image.

        Returns:
            float32 [views, N, D].

        Raises:
            DataError: a row or a view is not there.
        """
        place = _places(self.augmented_rows, rows)
        other = place < 0
        if views > len(self.augmented) or (views > 1 and other.any()):
            _check_found(rows[other] if other.any() else rows)
        out = np.empty((views, len(rows), self.augmented.shape[-1]), np.float32)
        out[:, ~other] = self.augmented[:views, place[~other]]
        if other.any():
            rest = _places(self.plain_rows, rows[other])
            _check_found(rows[other][rest < 0])
            out[:, other] = self.plain[:, rest]
        return out


def _places(stored: IntArray, rows: IntArray) -> IntArray:
    """Where in the rising `stored` each row is, -1 where it is not there."""
    if not len(stored):
        return np.full(len(rows), -1, np.int64)
    place = np.minimum(np.searchsorted(stored, rows), len(stored) - 1)
    return np.where(stored[place] == rows, place, -1).astype(np.int64)


def _check_found(lacking: IntArray) -> None:
    if len(lacking):
        raise DataError(
            f"the feature set lacks views of {len(lacking)} rows, such as row {lacking[0]}; remove "
            "its folder and run the same command again"
        )


def is_packed(folder: Path) -> bool:
    """Returns whether the folder holds packed features."""
    return (folder / _ROWS).exists()


def open_features(folder: Path) -> FeatureSet:
    """Opens what `pack_features` wrote."""
    with np.load(folder / _ROWS, allow_pickle=False) as stored:
        augmented_rows, plain_rows = stored["augmented"], stored["plain"]
    return FeatureSet(
        np.load(folder / _AUGMENTED, mmap_mode="r"),
        augmented_rows,
        np.load(folder / _PLAIN, mmap_mode="r"),
        plain_rows,
    )


def pack_features(
    folder: Path, num_shards: int, augmented: IntArray, plain: IntArray, views: int
) -> None:
    """Turns the shards of features into packed features, shard by shard, and removes the shards.

    Args:
        folder: of the shards, and of the result.
        num_shards: shards of the data set.
        augmented: int64, rows that have all views.
        plain: int64, rows that have the plain view alone.
        views: views of an augmented row.

    Raises:
        DataError: a wanted view is not there, or is there twice.
    """
    if is_packed(folder):
        return
    kinds = (_AUGMENTED, np.sort(augmented), views), (_PLAIN, np.sort(plain), 1)
    for name, rows, number in kinds:
        with atomic_path(folder / name) as temporary:
            _pack(temporary, folder, num_shards, rows, number)
    with atomic_path(folder / _ROWS) as temporary, temporary.open("wb") as handle:
        np.savez(handle, augmented=kinds[0][1], plain=kinds[1][1])
    for shard in range(num_shards):
        part_path(folder, shard).unlink(missing_ok=True)


def _pack(final: Path, folder: Path, num_shards: int, rows: IntArray, views: int) -> None:
    """Writes one array [views, rows, D]."""
    kind = read_part(part_path(folder, 0)).schema.field("feature").type
    out = np.lib.format.open_memmap(
        final,
        mode="w+",
        dtype=kind.value_type.to_pandas_dtype(),
        shape=(views, len(rows), kind.list_size),
    )
    filled = np.zeros((views, len(rows)), np.int8)
    for shard in range(num_shards):
        table = read_part(part_path(folder, shard))
        place = _places(rows, table.column("row").to_numpy())
        view = table.column("view").to_numpy().astype(np.int64)
        wanted = (place >= 0) & (view < views)
        flat = table.column("feature").combine_chunks().flatten().to_numpy()
        out[view[wanted], place[wanted]] = flat.reshape(-1, kind.list_size)[wanted]
        np.add.at(filled, (view[wanted], place[wanted]), 1)
    out.flush()
    if not (filled == 1).all():
        raise DataError(
            f"{folder} lacks or doubles {int((filled != 1).sum())} features; remove it and run the "
            "same command again"
        )
