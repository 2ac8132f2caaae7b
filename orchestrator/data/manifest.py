"""The manifest: the table of inputs, one row per file found, its shards fixed.

It is written before anything is read from the files and is what every later count is held
against. `StoredManifest` is its form on disk, which scoring streams; `Manifest` is the whole table
in memory, for training. Files are found in `inputs.py`; the columns are `schema.MANIFEST`.

Over 300 lines: both forms of one table, and its checks.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.data.listing.inputs import SPLIT_COLUMN_KEY, list_inputs
from orchestrator.data.listing.listed_rows import ListedFile
from orchestrator.data.listing.notes import NOTES_KEY, Notes, load_notes
from orchestrator.data.listing.options import OPTIONS_KEY, ListingOptions
from orchestrator.data.parquet import open_parquet, open_writer
from orchestrator.data.schema import (
    MANIFEST,
    ROOTS_KEY,
    dicom_fields,
    escape_path,
    unescape_path,
)
from orchestrator.errors import DataError

# When the listing began; a file changed later, or just before, may hold other bytes by now.
LISTED_KEY = b"orchestrator.listed_ns"
_KEPT_KEYS = (SPLIT_COLUMN_KEY, NOTES_KEY, OPTIONS_KEY)

__all__ = [
    "LISTED_KEY",
    "SPLIT_COLUMN_KEY",
    "Manifest",
    "StoredManifest",
    "build_manifest",
    "iter_shards",
    "load_manifest",
    "load_shard",
    "open_manifest_file",
    "rewrite_manifest",
    "write_listed",
    "write_manifest",
]


@dataclass(frozen=True)
class Manifest:
    """The table of inputs and the folders its paths are relative to, in memory.

    Attributes:
        table: schema `MANIFEST`; `row` runs from 0 in the order of (root, path bytes), `shard` is
            `row // shard_rows`.
        roots: absolute paths; the column `root` indexes them. Paths that a table gave as absolute
            and that lie outside its folder are relative to the root `/`.
    """

    table: pa.Table
    roots: tuple[bytes, ...]


@dataclass(frozen=True)
class StoredManifest:
    """A manifest on disk: one row group a shard, rows numbered from 0 throughout.

    Attributes:
        path: the Parquet file.
        roots: as in `Manifest`.
        shard_rows: rows of each shard.
        listed_ns: when the listing began, ns since the epoch; None where that is not recorded.
        notes: what the listing left out or did not understand.
    """

    path: Path
    roots: tuple[bytes, ...]
    shard_rows: tuple[int, ...]
    listed_ns: int | None
    notes: Notes

    @property
    def num_rows(self) -> int:
        """Rows of all shards."""
        return sum(self.shard_rows)

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return len(self.shard_rows)


def build_manifest(
    source: str | Path, shard_rows: int, options: ListingOptions | None = None
) -> Manifest:
    """Returns the manifest of a folder or of a table of paths, as `list_inputs` finds it.

    Args:
        source: a folder, or a table with columns `path[,label][,patient_id][,split]` or a public
            data set's.
        shard_rows: rows a shard, at least 1.
        options: what else the user says of it.

    Returns:
        The manifest, not yet written.

    Raises:
        DataError: as `list_inputs`.
    """
    listed = list_inputs([source], options)
    table = pa.concat_tables(_shard_tables(listed.rows(), shard_rows)).combine_chunks()
    return Manifest(table.replace_schema_metadata(listed.metadata or None), listed.roots)


def write_listed(
    rows: Iterable[ListedFile],
    roots: Sequence[bytes],
    metadata: Mapping[bytes, bytes],
    path: Path,
    shard_rows: int,
) -> None:
    """Writes the manifest of listed files, one shard in memory at a time, whole or not at all.

    Args:
        rows: in the order of the manifest; there may be none.
        roots: what `ListedFile.root` indexes.
        metadata: of the schema.
        path: the file to write.
        shard_rows: rows a shard, at least 1.

    Raises:
        ClusterError: the file system refused the write.
    """
    _write_tables(_shard_tables(rows, shard_rows), roots, metadata, path)


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Writes a manifest as Parquet, one row group per shard, whole or not at all.

    Args:
        manifest: the manifest.
        path: the file to write; roots go into the schema's metadata under `ROOTS_KEY`.

    Raises:
        ClusterError: the file system refused the write.
    """
    table = manifest.table
    shard = table.column("shard").to_numpy()
    starts = [int(start) for start in np.flatnonzero(np.diff(shard, prepend=-1))]
    stops = [*starts[1:], table.num_rows]
    shards = (table.slice(a, b - a) for a, b in zip(starts, stops, strict=True))
    _write_tables(shards, manifest.roots, table.schema.metadata or {}, path)


def rewrite_manifest(
    stored: StoredManifest,
    path: Path,
    change: Callable[[pa.Table], pa.Table],
    *,
    names: bool = True,
    dicom: Sequence[str] = (),
) -> None:
    """Writes a changed copy of a stored manifest, one shard in memory at a time.

    Args:
        stored: the manifest.
        path: the file to write.
        change: gives the rows of a shard as they shall stand, schema `MANIFEST` and `dicom`.
        names: keep the listing's notes, which hold names of folders.
        dicom: columns kept of DICOM headers, for who reads the file; no function here returns them.
    """
    metadata = dict(_open(stored.path).schema_arrow.metadata)
    if not names:
        metadata.pop(NOTES_KEY, None)
    _write_tables(map(change, iter_shards(stored)), stored.roots, metadata, path, dicom)


def iter_shards(stored: StoredManifest, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Yields the rows of each shard in turn.

    Args:
        stored: the manifest.
        columns: of `MANIFEST`; all where not given.

    Raises:
        DataError: the file is damaged.
    """
    file = _open(stored.path)
    for shard in range(file.num_row_groups):
        try:
            table = file.read_row_group(shard, columns=columns or MANIFEST.names)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(stored.path) from error
        yield table.replace_schema_metadata(None)


def open_manifest_file(path: Path) -> StoredManifest:
    """Returns what is on disk, its rows unread.

    Args:
        path: a file written by this module.

    Raises:
        DataError: the file is absent, damaged or not a manifest.
    """
    file = _open(path)
    groups = (file.metadata.row_group(index).num_rows for index in range(file.num_row_groups))
    roots = _load_roots(path, file.schema_arrow)
    metadata = file.schema_arrow.metadata
    listed = metadata.get(LISTED_KEY)
    listed_ns = None if listed is None else int(listed)
    return StoredManifest(path, roots, tuple(groups), listed_ns, load_notes(metadata))


def load_manifest(path: Path) -> Manifest:
    """Returns a stored manifest as a table.

    Args:
        path: a file written by this module.

    Raises:
        DataError: the file is absent, damaged or not a manifest.
    """
    file = _open(path)
    try:
        table = file.read(columns=MANIFEST.names)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path) from error
    metadata = dict(table.schema.metadata or {})
    roots = _load_roots(path, table.schema)
    row = table.column("row").to_numpy()
    root = table.column("root").to_numpy()
    if (row != np.arange(len(row))).any() or not ((root >= 0) & (root < len(roots))).all():
        raise _damaged(path)
    known = {key: metadata[key] for key in _KEPT_KEYS if key in metadata}
    return Manifest(table.replace_schema_metadata(known or None), roots)


def load_shard(path: Path, shard: int) -> pa.Table:
    """Returns the rows of one shard, schema `MANIFEST`; reads that shard alone.

    Args:
        path: a file written by this module.
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
        table = file.read_row_group(shard, columns=MANIFEST.names)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path) from error
    if pc.unique(table.column("shard")).to_pylist() != [shard]:
        raise _damaged(path)
    return table.replace_schema_metadata(None)


def _shard_tables(rows: Iterable[ListedFile], shard_rows: int) -> Iterator[pa.Table]:
    """Yields one table a shard, numbered; Python objects exist for one shard at a time."""
    remaining = iter(rows)
    shard = 0
    while listed := list(islice(remaining, shard_rows)):
        columns: dict[str, Sequence[object]] = dict(
            zip(ListedFile._fields, zip(*listed, strict=True), strict=True)
        )
        first = shard * shard_rows
        columns["row"] = range(first, first + len(listed))
        columns["shard"] = [shard] * len(listed)
        arrays = [pa.array(columns[field.name], field.type) for field in MANIFEST]
        yield pa.Table.from_arrays(arrays, schema=MANIFEST)
        shard += 1


def _write_tables(
    shards: Iterable[pa.Table],
    roots: Sequence[bytes],
    metadata: Mapping[bytes, bytes],
    path: Path,
    dicom: Sequence[str] = (),
) -> None:
    shown = json.dumps([escape_path(root) for root in roots]).encode()
    columns = pa.schema([*MANIFEST, *dicom_fields(dicom)])
    schema = columns.with_metadata({**metadata, ROOTS_KEY: shown})
    # Statistics of every row group would make up most of the file's footer, and nobody asks them.
    with open_writer(path, schema, write_statistics=False) as writer:
        for table in shards:
            writer.write_table(table, row_group_size=table.num_rows)


def _load_roots(path: Path, found: pa.Schema) -> tuple[bytes, ...]:
    try:
        return tuple(unescape_path(text) for text in json.loads(found.metadata[ROOTS_KEY]))
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(path) from error


def _open(path: Path) -> pq.ParquetFile:
    """Returns an opened manifest file with the schema checked."""
    try:
        file = open_parquet(path)
        found = file.schema_arrow
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; expected a manifest") from error
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path) from error
    if not found.equals(pa.schema([*MANIFEST, *dicom_fields(found.names[len(MANIFEST) :])])):
        raise DataError(
            f"{path} has the columns {', '.join(found.names[:20])}; expected a manifest of this "
            "version: run the command again in a new folder"
        )
    return file


def _damaged(path: Path) -> DataError:
    return DataError(f"{path} is not a whole manifest; run the command again in a new folder")
