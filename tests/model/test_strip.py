import base64
import io
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
from PIL import Image

from orchestrator.data.schema import images_schema
from orchestrator.model.augment import augment
from orchestrator.model.strip import Samples, draw_strip, pick_samples

SIZE = 64


def dataset_of(num_rows: int, shard_rows: int) -> tuple[SimpleNamespace, pa.Table]:
    """Images whose grey level is their row number, in shards."""
    images = np.repeat(np.arange(num_rows, dtype=np.uint8), SIZE * SIZE)
    columns = {
        "row": np.arange(num_rows),
        "shard": np.arange(num_rows) // shard_rows,
        "label": np.arange(num_rows) % 2,
    }
    schema = images_schema(SIZE)
    rows = pa.table({name: pa.array(values) for name, values in columns.items()})
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(images.reshape(num_rows, SIZE, SIZE))
    table = rows.append_column(schema.field("image"), tensors)

    def load_table(shard: int) -> pa.Table:
        return table.slice(shard * shard_rows, shard_rows)

    return SimpleNamespace(load_table=load_table), rows


def test_samples_are_training_images_of_both_classes() -> None:
    dataset, rows = dataset_of(50, 16)
    splits = pa.array(["train" if row % 3 else "val" for row in range(50)])
    samples = pick_samples(dataset, rows, splits, seed=0)
    assert (samples.images == samples.rows[:, None, None]).all()
    assert sorted(samples.rows % 2) == [0, 0, 1, 1]
    assert (samples.rows % 3 != 0).all()


def test_the_strip_holds_the_originals_and_the_views_that_training_sees() -> None:
    pattern = (np.indices((SIZE, SIZE)).sum(axis=0) * 2).astype(np.uint8)
    samples = Samples(np.stack([pattern, pattern[::-1]]), np.array([3, 8]))
    uri = draw_strip(samples, 3, seed=5, augmentation="paper")
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    assert len(uri) < 100_000
    with Image.open(io.BytesIO(base64.b64decode(data))) as sheet:
        pixels = np.asarray(sheet, float)
    assert pixels.shape == (2 * 112 + 4, 4 * 112 + 3 * 4)
    wanted = [samples.images] + [augment(samples.images, samples.rows, v, 5) for v in (1, 2, 3)]
    for across, column in enumerate(wanted):
        for down, image in enumerate(column):
            tile = pixels[down * 116 : down * 116 + 112, across * 116 : across * 116 + 112]
            expected = np.asarray(Image.fromarray(image).resize((112, 112)), float)
            assert np.abs(tile - expected).mean() < 4
