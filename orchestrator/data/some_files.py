"""Decodes some files of a manifest, picked out of all its shards, in their own order."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from orchestrator.config.workers import count_cpus
from orchestrator.data.limits import Limits
from orchestrator.data.manifest import Manifest, write_manifest
from orchestrator.data.shard_files import Images
from orchestrator.data.source import FileSource, Row

_SHARD_ROWS = 16  # of which every image may be in memory at once


def decode_files(
    files: Manifest, sizes_px: tuple[int, ...], limits: Limits
) -> Iterator[list[tuple[Row, Images | None]]]:
    """Yields for each file its row and its image at each size; None where it is rejected.

    Args:
        files: any rows of `MANIFEST`, with real paths, and their roots.
        sizes_px: heights and widths of the images, px.
        limits: on one file.

    Yields:
        As `Reader.decode_shard` gives them, one for each size.
    """
    shards = pa.array(np.arange(files.table.num_rows) // _SHARD_ROWS, pa.int32())
    place = files.table.schema.get_field_index("shard")
    table = files.table.set_column(place, "shard", shards)
    num_shards = -(-table.num_rows // _SHARD_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.parquet"
        write_manifest(Manifest(table, files.roots), path)
        sources = (
            FileSource(path, files.roots, num_shards, size_px, limits, None) for size_px in sizes_px
        )
        readers = [source.open_reader(count_cpus()) for source in sources]
        try:
            for shard in range(num_shards):
                for found in zip(*(r.decode_shard(shard) for r in readers), strict=True):
                    yield list(found)
        finally:
            for reader in readers:
                reader.close()
