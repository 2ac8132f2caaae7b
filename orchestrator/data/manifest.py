"""Builds, writes and loads the manifest: the table of inputs, one row per file found.

The manifest is written before anything is read from the files, with its shards fixed, and is what
every later count is held against. Files are listed in `listing.py`, tables read in `tables.py`,
what a path says is in `names.py`; the columns are `schema.MANIFEST`.
"""

# pathlib has no paths of bytes
# ruff: noqa: PTH100, PTH110, PTH112, PTH117, PTH120
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.data.listing import Found, Listing
from orchestrator.data.names import FolderFacts, patient_of_name, read_folders
from orchestrator.data.schema import MANIFEST, ROOTS_KEY, escape_path, unescape_path
from orchestrator.data.tables import InputTable
from orchestrator.errors import DataError
from orchestrator.run_dir import atomic_path

# Present in the metadata of a manifest whose splits were written by hand in a table's column.
SPLIT_COLUMN_KEY = b"orchestrator.split_column"

_BATCH_ROWS = 65_536
_SYSTEM_ROOT = b"/"

# While listing: the raw path, to sort by bytes, and the line of the table it came from.
_LISTED = pa.schema(
    [
        ("root", pa.int16()),
        ("raw", pa.binary()),
        ("line", pa.int64()),
        *(field for field in MANIFEST if field.name not in ("row", "shard", "root")),
    ]
)


@dataclass(frozen=True)
class Manifest:
    """The table of inputs and the folders its paths are relative to.

    Attributes:
        table: schema `MANIFEST`; `row` runs from 0 in the order of (root, path bytes), `shard` is
            `row // shard_rows`.
        roots: absolute paths; the column `root` indexes them. Paths that a table gave as absolute
            and that lie outside its folder are relative to the root `/`.
    """

    table: pa.Table
    roots: tuple[bytes, ...]


class _Listed(NamedTuple):
    """A row of `_LISTED`."""

    root: int
    raw: bytes
    line: int | None
    path: str
    size_bytes: int | None
    mtime_ns: int | None
    label: int | None
    patient_id: str | None
    patient_source: str | None
    split: str | None
    code: str | None
    message: str | None


def build_manifest(source: Path, shard_rows: int) -> Manifest:
    """Returns the manifest of a folder or of a table of paths.

    A folder gives one row per file found below it, whatever the file is: hidden files too, and
    what cannot be read gets a code. Labels and splits come from class folders (NORMAL, PNEUMONIA)
    and split folders (train, val or validation, test) in any case, at any depth below the root
    (see `read_folders`); a file under none of these has no label. A table gives one row per row;
    a column it lacks is filled from the path in the same way, an empty cell stays empty.

    Args:
        source: a folder, or a .csv or .parquet file with columns
            `path[,label][,patient_id][,split]`.
        shard_rows: rows a shard, at least 1.

    Returns:
        The manifest, not yet written.

    Raises:
        DataError: no such path, nothing in it, a bad value in the table (named by line), or a
            path that the table lists twice.
    """
    path = os.path.abspath(os.fsencode(source))
    shown = escape_path(os.fsencode(source))
    if os.path.isdir(path):
        listed = _gather(_list_folder(path))
        return _finish(listed, (path,), shard_rows, {}, f"the folder {shown} holds no files")
    if not os.path.exists(path):
        raise DataError(
            f"{shown} does not exist; name a folder of X-rays, or a CSV or Parquet table with a "
            "`path` column"
        )
    table = InputTable(source)
    listed = _gather(_list_table(table, os.path.dirname(path)))
    _check_unique(listed, f"{table.name}, {table.unit}")
    metadata = {SPLIT_COLUMN_KEY: b"1"} if "split" in table.columns else {}
    roots = (os.path.dirname(path), _SYSTEM_ROOT)
    return _finish(listed, roots, shard_rows, metadata, f"the table {table.name} has no rows")


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Writes a manifest as Parquet, one row group per shard, whole or not at all.

    Args:
        manifest: the manifest.
        path: the file to write; roots go into the schema's metadata under `ROOTS_KEY`.

    Raises:
        ClusterError: the file system refused the write.
    """
    table = manifest.table
    metadata = dict(table.schema.metadata or {})
    metadata[ROOTS_KEY] = json.dumps([escape_path(root) for root in manifest.roots]).encode()
    starts = _shard_starts(table)
    schema = MANIFEST.with_metadata(metadata)
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for start, stop in zip(starts, [*starts[1:], table.num_rows], strict=True):
            writer.write_table(table.slice(start, stop - start), row_group_size=stop - start)


def load_manifest(path: Path) -> Manifest:
    """Returns a stored manifest.

    Args:
        path: a file written by `write_manifest`.

    Raises:
        DataError: the file is absent, damaged or not a manifest.
    """
    file = _open(path)
    try:
        table = file.read()
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path) from error
    metadata = dict(table.schema.metadata or {})
    try:
        texts = json.loads(metadata[ROOTS_KEY])
        roots = tuple(unescape_path(text) for text in texts)
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(path) from error
    row = table.column("row").to_numpy()
    root = table.column("root").to_numpy()
    if (row != np.arange(len(row))).any() or not ((root >= 0) & (root < len(roots))).all():
        raise _damaged(path)
    known = {key: value for key, value in metadata.items() if key == SPLIT_COLUMN_KEY}
    return Manifest(table.replace_schema_metadata(known or None), roots)


def load_shard(path: Path, shard: int) -> pa.Table:
    """Returns the rows of one shard, schema `MANIFEST`; reads that shard alone.

    Args:
        path: a file written by `write_manifest`.
        shard: number of the shard, from 0.

    Raises:
        DataError: the file is absent, damaged or not a manifest, or has no such shard.
    """
    file = _open(path)
    if not 0 <= shard < file.num_row_groups:
        raise DataError(
            f"{path} has the shards 0 to {file.num_row_groups - 1}, not {shard}; it is not the "
            "manifest of this run"
        )
    try:
        table = file.read_row_group(shard)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path) from error
    if pc.unique(table.column("shard")).to_pylist() != [shard]:
        raise _damaged(path)
    return table.replace_schema_metadata(None)


def _list_folder(root: bytes) -> Iterator[_Listed]:
    folders: dict[bytes, FolderFacts] = {}
    for found in Listing(root).walk():
        yield _describe(0, found, folders, {}, None)


def _list_table(table: InputTable, folder: bytes) -> Iterator[_Listed]:
    folders: dict[bytes, FolderFacts] = {}
    listings = (Listing(folder), Listing(_SYSTEM_ROOT))
    for row in table.rows():
        root = int(os.path.isabs(row.path))
        found = listings[root].look_up(row.path[1:] if root else row.path)
        given = {name: getattr(row, name) for name in table.columns - {"path"}}
        yield _describe(root, found, folders, given, row.line)


def _describe(
    root: int,
    found: Found,
    folders: dict[bytes, FolderFacts],
    given: dict[str, Any],
    line: int | None,
) -> _Listed:
    """Returns the row of one file: what a table gave, and for the rest what the path says.

    Args:
        root: index of the file's root.
        found: the file.
        folders: what the folders met so far say; added to.
        given: values of the columns that the table has.
        line: line of the table, or None for a listed folder.
    """
    folder, name = os.path.split(found.path)
    facts = folders.get(folder)
    if facts is None:
        facts = folders[folder] = read_folders(folder)
    source, patient = "column", given.get("patient_id")
    if patient is None:
        source, patient = "filename", patient_of_name(name, facts.scope)
    return _Listed(
        root,
        found.path,
        line,
        escape_path(found.path),
        found.size_bytes,
        found.mtime_ns,
        given.get("label", facts.label),
        patient,
        source if patient is not None else None,
        given.get("split", facts.split),
        found.code,
        found.message,
    )


def _gather(rows: Iterable[_Listed]) -> pa.Table:
    """Returns rows as an Arrow table; Python objects exist for one batch at a time."""
    remaining = iter(rows)
    batches = []
    while batch := list(islice(remaining, _BATCH_ROWS)):
        columns = zip(*batch, strict=True)
        arrays = [
            pa.array(column, type=field.type)
            for column, field in zip(columns, _LISTED, strict=True)
        ]
        batches.append(pa.record_batch(arrays, schema=_LISTED))
    return pa.Table.from_batches(batches, schema=_LISTED).sort_by(
        [("root", "ascending"), ("raw", "ascending")]
    )


def _check_unique(listed: pa.Table, where: str) -> None:
    """Raises `DataError` where a sorted table has one path twice."""
    root, raw = listed.column("root"), listed.column("raw")
    again = pc.and_(pc.equal(raw[1:], raw[:-1]), pc.equal(root[1:], root[:-1]))
    at = pc.index(again, True).as_py() if listed.num_rows > 1 else -1
    if at >= 0:
        first, second = sorted(listed.column("line")[at : at + 2].to_pylist())
        raise DataError(
            f"{where} {second} lists the same path as {first}; expected one row per image: remove "
            "one of them"
        )


def _finish(
    listed: pa.Table,
    roots: tuple[bytes, ...],
    shard_rows: int,
    metadata: dict[bytes, bytes],
    when_empty: str,
) -> Manifest:
    """Returns the manifest of sorted rows, numbered and cut into shards."""
    if not listed.num_rows:
        raise DataError(f"{when_empty}; expected chest X-rays")
    row = np.arange(listed.num_rows)
    columns = {
        "row": pa.array(row, pa.int64()),
        "shard": pa.array((row // shard_rows).astype(np.int32)),
    }
    arrays = [columns[name] if name in columns else listed.column(name) for name in MANIFEST.names]
    table = pa.Table.from_arrays(arrays, schema=MANIFEST).combine_chunks()
    used = pc.max(listed.column("root")).as_py()
    return Manifest(table.replace_schema_metadata(metadata or None), roots[: used + 1])


def _shard_starts(table: pa.Table) -> list[int]:
    """Returns the first row of each shard."""
    shard = table.column("shard").to_numpy()
    return [int(start) for start in np.flatnonzero(np.diff(shard, prepend=-1))]


def _open(path: Path) -> pq.ParquetFile:
    """Returns an opened manifest file with the schema checked."""
    try:
        file = pq.ParquetFile(path)
        found = file.schema_arrow
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; expected a manifest") from error
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path) from error
    if not found.equals(MANIFEST):
        raise DataError(
            f"{path} has the columns {', '.join(found.names[:20])}; expected a manifest of this "
            "version: run the command again in a new folder"
        )
    return file


def _damaged(path: Path) -> DataError:
    return DataError(f"{path} is not a whole manifest; run the command again in a new folder")
