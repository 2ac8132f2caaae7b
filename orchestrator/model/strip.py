"""A strip of training images beside their augmented views: the paper's Figure 2.

It shows patients' images, so it belongs in the report of a run's own folder and nowhere else.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator.data.schema import CLASS_NAMES
from orchestrator.data.shard_files import table_images
from orchestrator.data.source import IngestedSource
from orchestrator.model.augment import augment

MAX_VIEWS = 5
_PER_CLASS = 2
_TILE_PX = 112
_GAP_PX = 4
_QUALITY = 80  # JPEG


@dataclass(frozen=True)
class Samples:
    """A few training images.

    Attributes:
        images: uint8 [n, S, S].
        rows: int64 [n], their manifest rows, which decide their augmented views.
    """

    images: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.int64]


def pick_samples(dataset: IngestedSource, rows: pa.Table, splits: pa.Array, seed: int) -> Samples:
    """Returns a few training images, as many of each class.

    Args:
        dataset: where the images are.
        rows: its rows, with columns row, shard and label.
        splits: the split of each row, from `split_rows`.
        seed: of the choice.
    """
    label = rows.column("label").to_numpy(zero_copy_only=False)
    train = np.array(splits.to_pylist(), object) == "train"
    rng = np.random.default_rng(seed)
    chosen = np.concatenate(
        [
            rng.permutation(np.flatnonzero(train & (label == number)))[:_PER_CLASS]
            for number in range(len(CLASS_NAMES))
        ]
    )
    shard = rows.column("shard").to_numpy()
    images = [
        table_images(dataset.load_table(int(shard[row])))[row - np.searchsorted(shard, shard[row])]
        for row in chosen
    ]
    return Samples(np.stack(images), chosen.astype(np.int64))


def draw_strip(samples: Samples, num_views: int, seed: int, augmentation: str) -> str:
    """Returns one small JPEG as a data URI: a line an image, the original and then its views.

    Args:
        samples: the images.
        num_views: augmented views of each, 1..`MAX_VIEWS`: those that training sees first.
        seed: of the run.
        augmentation: a key of `augment.RECIPES`.

    Returns:
        `data:image/jpeg;base64,…`, some tens of kilobytes.
    """
    from PIL import Image

    columns = [samples.images]
    columns += [
        augment(samples.images, samples.rows, view + 1, seed, recipe=augmentation)
        for view in range(num_views)
    ]
    pitch = _TILE_PX + _GAP_PX
    sheet = Image.new(
        "L", (len(columns) * pitch - _GAP_PX, len(samples.rows) * pitch - _GAP_PX), 255
    )
    for across, column in enumerate(columns):
        for down, pixels in enumerate(column):
            tile = Image.fromarray(pixels).resize((_TILE_PX, _TILE_PX))
            sheet.paste(tile, (across * pitch, down * pitch))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
