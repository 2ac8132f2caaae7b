"""Lists the inputs of a run: folders or one table of paths -> rows in the order of the manifest.

Rows are sorted in a temporary SQLite database, which goes to disk when it grows, so that millions
of files need no memory in proportion. Folders are walked in `listing.py`, tables read in
`tables.py`, what a path says is in `names.py`; the manifest they become is `manifest.py`'s.
"""

# pathlib has no paths of bytes
# ruff: noqa: PTH100, PTH110, PTH112, PTH117, PTH120
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.config.addresses import is_address
from orchestrator.data.listing.addresses import check_address, open_folder
from orchestrator.data.listing.listing import Found, Listing
from orchestrator.data.listing.names import patient_of_name, read_folders
from orchestrator.data.listing.tables import InputTable
from orchestrator.data.schema import escape_path
from orchestrator.errors import ClusterError, DataError

# Present in the metadata of a manifest whose splits were written by hand in a table's column.
SPLIT_COLUMN_KEY = b"orchestrator.split_column"

_SYSTEM_ROOT = b"/"
_read_folders = lru_cache(maxsize=4096)(read_folders)


class ListedFile(NamedTuple):
    """One file found: where, what the table or its path says of it, or why it is rejected.

    Attributes:
        root: index of the input root.
        raw: path relative to the root, bytes.
        line: line of the table that names it; None where a folder was listed.
        path: `raw`, escaped.
        size_bytes: None where it is not a readable file, as in `Found`.
        mtime_ns: ns since the epoch.
        label: 0 NORMAL, 1 PNEUMONIA, or None.
        patient_id: from the table or the file's name, or None.
        patient_source: "column" or "filename", or None.
        split: "train", "val", "test", or None.
        code: why the listing rejects it, or None.
        message: what to do about it, or None.
    """

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


@dataclass(frozen=True)
class Inputs:
    """Every file found, sorted, on disk.

    Attributes:
        roots: absolute paths or addresses; `ListedFile.root` indexes them. Paths that a table
            gave as absolute and that lie outside its folder are relative to the root `/`.
        metadata: of the manifest's schema; `SPLIT_COLUMN_KEY` where a table has that column.
        num_rows: files found, at least 1.
    """

    roots: tuple[bytes, ...]
    metadata: dict[bytes, bytes]
    num_rows: int
    _database: sqlite3.Connection

    def rows(self) -> Iterator[ListedFile]:
        """Yields the files in the order of (root, path bytes)."""
        columns = ", ".join(ListedFile._fields)
        with database_errors("the temporary folder"):
            found = self._database.execute(f"SELECT {columns} FROM listed ORDER BY root, raw")
            yield from map(ListedFile._make, found)


def list_inputs(sources: Sequence[str | Path]) -> Inputs:
    """Finds every file of some folders, or of one table of paths.

    A folder gives one row per file found below it, whatever the file is: hidden files too, and
    what cannot be read gets a code. Labels and splits come from class folders (NORMAL, PNEUMONIA)
    and split folders (train, val or validation, test) in any case, at any depth below the root
    (see `read_folders`); a file under none of these has no label. A table gives one row per row;
    a column it lacks is filled from the path in the same way, an empty cell stays empty.

    Args:
        sources: folders or addresses of folders that do not hold one another, or one .csv or
            .parquet file with columns `path[,label][,patient_id][,split]`.

    Raises:
        SpecError: an address that cannot be used.
        DataError: no such path, nothing in it, a folder within another, a bad value in the table
            (named by line), or a path that the table lists twice.
        ClusterError: the temporary folder is full, or a store does not answer.
    """
    check_inputs(sources)
    shown = ", ".join(map(_shown, sources))
    if len(sources) > 1 or _is_folder(sources[0]):
        roots = tuple(map(_root, sources))
        database = _sort(row for index in range(len(roots)) for row in _list_folder(roots, index))
        metadata: dict[bytes, bytes] = {}
        when_empty = f"the folder {shown} holds no files"
    else:
        table = InputTable(Path(sources[0]))
        folder = os.path.dirname(os.path.abspath(os.fsencode(sources[0])))
        database = _sort(_list_table(table, folder))
        _check_unique(database, f"{table.name}, {table.unit}")
        metadata = {SPLIT_COLUMN_KEY: b"1"} if "split" in table.columns else {}
        outside = database.execute("SELECT max(root) FROM listed").fetchone()[0]
        roots = (folder, _SYSTEM_ROOT) if outside else (folder,)
        when_empty = f"the table {table.name} has no rows"
    num_rows = database.execute("SELECT count(*) FROM listed").fetchone()[0]
    if not num_rows:
        raise DataError(f"{when_empty}; expected chest X-rays")
    return Inputs(roots, metadata, num_rows, database)


def check_inputs(sources: Sequence[str | Path]) -> None:
    """Raises where inputs are not there, cannot be used or would give one file twice.

    Raises:
        SpecError: an address that cannot be used; its server is not asked.
        DataError: no such path, several inputs with a table among them, or one within another.
    """
    for source in sources:
        if is_address(str(source)):
            check_address(str(source))
            continue
        path = os.fsencode(source)
        if not os.path.exists(path):
            raise DataError(
                f"{_shown(source)} does not exist; name a folder of X-rays, a CSV or Parquet table "
                "with a `path` column, or an ingested data set"
            )
        if len(sources) > 1 and not os.path.isdir(path):
            raise DataError(f"{_shown(source)} is not a folder; expected one table, or folders")
    # Every path under /a/ sorts between /a/ and the next folder that is not under it.
    real = sorted((_real(source), _shown(source)) for source in sources)
    for (outer, outer_shown), (inner, inner_shown) in pairwise(real):
        if inner.startswith(outer):
            raise DataError(
                f"the input {inner_shown} lies in the input {outer_shown}, so its files would be "
                "found twice; leave one of them out"
            )


def _list_folder(roots: tuple[bytes, ...], index: int) -> Iterator[ListedFile]:
    # Patients are told apart by file names within one root only: two archives number alike.
    scope = f"input{index}/" if len(roots) > 1 else ""
    root = roots[index]
    address = os.fsdecode(root)
    listing = open_folder(address) if is_address(address) else Listing(root)
    for found in listing.walk():
        yield _describe(index, found, {}, None, scope)


def _list_table(table: InputTable, folder: bytes) -> Iterator[ListedFile]:
    listings = (Listing(folder), Listing(_SYSTEM_ROOT))
    for row in table.rows():
        root = int(os.path.isabs(row.path))
        found = listings[root].look_up(row.path[1:] if root else row.path)
        given = {name: getattr(row, name) for name in table.columns - {"path"}}
        yield _describe(root, found, given, row.line, "")


def _describe(
    root: int, found: Found, given: dict[str, Any], line: int | None, scope: str
) -> ListedFile:
    """Returns the row of one file: what a table gave, and for the rest what the path says.

    Args:
        root: index of the file's root.
        found: the file.
        given: values of the columns that the table has.
        line: line of the table, or None for a listed folder.
        scope: goes before a patient id that a file name tells.
    """
    folder, name = os.path.split(found.path)
    facts = _read_folders(folder)
    source, patient = "column", given.get("patient_id")
    if patient is None:
        source, patient = "filename", patient_of_name(name, facts.scope)
        patient = patient and scope + patient
    return ListedFile(
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


def _sort(rows: Iterable[ListedFile]) -> sqlite3.Connection:
    """Returns a temporary database of rows; SQLite sorts on disk what does not fit its cache."""
    database = sqlite3.connect("", isolation_level=None)
    columns = ", ".join(ListedFile._fields)
    places = ", ".join("?" * len(ListedFile._fields))
    with database_errors("the temporary folder"):
        database.execute("PRAGMA journal_mode = OFF")
        database.execute(f"CREATE TABLE listed ({columns})")
        database.execute("BEGIN")
        database.executemany(f"INSERT INTO listed VALUES ({places})", rows)
        database.execute("COMMIT")
    return database


@contextmanager
def database_errors(where: str) -> Iterator[None]:
    """Turns an SQLite error, which a full disk is, into a `ClusterError`.

    Args:
        where: the place of the database, for the message.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        raise ClusterError(
            f"cannot keep the list of files in {where}: {error}; free space there (TMPDIR names "
            "the temporary folder), then run the same command again"
        ) from error


def _check_unique(database: sqlite3.Connection, where: str) -> None:
    """Raises `DataError` where one path has two rows."""
    again = database.execute(
        "SELECT min(line), max(line) FROM listed GROUP BY root, raw HAVING count(*) > 1 "
        "ORDER BY max(line) LIMIT 1"
    ).fetchone()
    if again:
        raise DataError(
            f"{where} {again[1]} lists the same path as {again[0]}; expected one row per image: "
            "remove one of them"
        )


def _is_folder(source: str | Path) -> bool:
    return is_address(str(source)) or os.path.isdir(os.fsencode(source))


def _root(source: str | Path) -> bytes:
    raw = os.fsencode(source)
    return raw if is_address(str(source)) else os.path.abspath(raw)


def _real(source: str | Path) -> bytes:
    """Returns a name with a slash at its end by which inputs within one another are told."""
    raw = os.fsencode(source)
    real = raw.partition(b"?")[0] if is_address(str(source)) else os.path.realpath(raw)
    return real.rstrip(b"/") + b"/"


def _shown(source: str | Path) -> str:
    return escape_path(os.fsencode(source))
