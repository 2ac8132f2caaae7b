"""Committed shard files: one Arrow file a shard, whole or absent, memory-mapped when read.

A file names its owner, the run that it belongs to: a worker that has outlived its own run may still
write one into a folder that is another's by then.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from orchestrator.errors import ClusterError, DataError
from orchestrator.runs.atomic import atomic_path

_OWNER = b"orchestrator.owner"
Images = npt.NDArray[np.uint8]


def part_path(folder: Path, shard: int) -> Path:
    """Returns the file of one shard in a folder of committed results."""
    return folder / f"part-{shard:05d}.arrow"


def read_part(path: Path) -> pa.Table:
    """Returns one committed shard file, memory-mapped.

    Raises:
        DataError: it is not an Arrow file.
        ClusterError: the system does not give it.
    """
    with _opened(path) as part:
        return part.read_all().replace_schema_metadata()


def has_part(path: Path, owner: str) -> bool:
    """Returns whether a shard's file is there and its owner's.

    Args:
        path: of the file.
        owner: id of a run, or key of a feature set; empty for one from before files named it.

    Raises:
        DataError: not an Arrow file.
        ClusterError: the system does not give it.
    """
    try:
        with _opened(path) as part:
            return bool((part.schema.metadata or {}).get(_OWNER, b"") == owner.encode())
    except ClusterError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return False
        raise


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Yields the open file of a shard."""
    try:
        with pa.memory_map(os.fsencode(path)) as mapped:
            yield pa.ipc.open_file(mapped)
    except (OSError, pa.ArrowInvalid) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ClusterError(
                f"cannot read {path}: {os.strerror(error.errno)}; bring its storage back, then run "
                "the same command again"
            ) from error
        raise DataError(f"cannot read {path}: remove it and run the command again") from error


def check_parts(folder: Path, num_shards: int, owner: str) -> None:
    """Raises ClusterError where the file of a shard is not its owner's, or not there any more."""
    for shard in range(num_shards):
        if not has_part(part_path(folder, shard), owner):
            raise ClusterError(
                f"{part_path(folder, shard)} is not of this run: another writer has put its own "
                "there; run the same command again, which computes it anew"
            )


def table_images(table: pa.Table) -> Images:
    """Returns the image column of a table as uint8 [rows, size_px, size_px], without a copy
    where the table is one chunk."""
    column = table.column("image").combine_chunks()
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return (
        np.concatenate([c.to_numpy_ndarray() for c in chunks])
        if len(chunks) != 1
        else (chunks[0].to_numpy_ndarray())
    )


def write_part(path: Path, table: pa.Table, owner: str = "") -> None:
    """Writes one shard's result as an Arrow file, whole or not at all; `owner` as `has_part`."""
    table = table.replace_schema_metadata({_OWNER: owner.encode()})
    with (
        atomic_path(path) as temporary,
        pa.OSFile(os.fsencode(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)
