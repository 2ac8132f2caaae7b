"""Parquet files under any name: Arrow takes a name that is not UTF-8 as bytes alone."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.runs.atomic import atomic_path


def open_parquet(path: Path) -> pq.ParquetFile:
    """Opens a Parquet file.

    Raises:
        OSError: it cannot be opened.
        ArrowInvalid: it is no Parquet file.
    """
    return pq.ParquetFile(pa.OSFile(os.fsencode(path), "rb"))


def write_parquet(path: Path, table: pa.Table) -> None:
    """Writes a table as a Parquet file, whole or not at all."""
    with open_writer(path, table.schema) as writer:
        writer.write_table(table)


@contextlib.contextmanager
def open_writer(path: Path, schema: pa.Schema, **options: Any) -> Iterator[pq.ParquetWriter]:
    """Yields the writer of a Parquet file that is there, whole, once the block ends well.

    Args:
        path: of the file; its folder is made.
        schema: of its rows.
        **options: the writer's own.
    """
    with (
        atomic_path(path) as temporary,
        pa.OSFile(os.fsencode(temporary), "wb") as sink,
        pq.ParquetWriter(sink, schema, **options) as writer,
    ):
        yield writer
