"""Random access to the images of an ingested data set, memory-mapped."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.data.shard_files import Images, table_images
from orchestrator.data.source import IngestedSource

Rows = npt.NDArray[np.int64]


class ImageStore:
    """The images of a data set by manifest row; pages are read when an image is first taken.

    Args:
        dataset: finished; its shards hold consecutive rows from 0.
    """

    def __init__(self, dataset: IngestedSource) -> None:
        self._shards = [
            table_images(dataset.load_table(shard)) for shard in range(dataset.num_shards)
        ]
        self._starts = np.cumsum([0] + [len(images) for images in self._shards])

    def take(self, rows: Rows) -> Images:
        """Returns copies of the images of some rows.

        Args:
            rows: int64 [N], rows of images that were decoded.

        Returns:
            uint8 [N, size_px, size_px], in the order of `rows`.
        """
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        out = np.empty((len(rows), *self._shards[0].shape[1:]), np.uint8)
        for place, (row, shard) in enumerate(zip(rows, shards, strict=True)):
            out[place] = self._shards[shard][row - self._starts[shard]]
        return out


@dataclass(frozen=True)
class StoredImages:
    """Some rows of a store as a model's inputs, loaded slice by slice.

    Args:
        store: where the images are.
        rows: int64 [N], manifest rows.
    """

    store: ImageStore
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice, /) -> Images:
        """Returns uint8 [n, size_px, size_px, 1]."""
        return self.store.take(self.rows[rows])[..., np.newaxis]
