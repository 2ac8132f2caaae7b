"""Tables of paths behind an address, such as `s3://bucket/labels.csv`, and the files they name.

A table is copied to this machine while it is read. Its folder is listed once: to ask a store for
each of a million rows would take hours.
"""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.config.addresses import is_address, is_archive
from orchestrator.data.limits import Limits, rejection
from orchestrator.data.listing.addresses import open_folder
from orchestrator.data.listing.ignored import Ignoring
from orchestrator.data.listing.listed_rows import database_errors
from orchestrator.data.listing.listing import Found
from orchestrator.data.listing.tables import is_table
from orchestrator.errors import DataError, ImageError

_LIMITS = Limits(max_bytes=2 * 1024**3)


def is_remote_table(source: str) -> bool:
    """Returns whether an input is the address of a table, told by its name."""
    single = is_address(source) and not is_archive(source) and "::" not in source
    return single and is_table(source.partition("?")[0])


def folder_of(address: str) -> tuple[str, str]:
    """Returns the address of a table's folder, and the table's name."""
    place, mark, query = address.partition("?")
    folder, _, name = place.rpartition("/")
    return folder + mark + query, name


@contextmanager
def fetch_table(address: str) -> Iterator[Path]:
    """Yields a copy of a table, which goes with the block.

    Raises:
        SpecError: an address that cannot be used.
        DataError: there is no such table, or it cannot be read.
        ClusterError: the store does not answer.
    """
    folder, name = folder_of(address)
    try:
        data = open_folder(folder).read(name.encode(), _LIMITS)
    except ImageError as error:
        raise DataError(
            f"the table {address} cannot be read: {error.message.partition('.')[0]}; check the "
            "address"
        ) from error
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / name
        path.write_bytes(data)
        yield path


class RemoteListing:
    """The files below a folder behind an address, looked up by their paths.

    Args:
        address: of the folder.
    """

    def __init__(self, address: str) -> None:
        self._files = sqlite3.connect("", isolation_level=None)  # goes to disk when it grows
        with database_errors("the temporary folder"):
            self._files.execute("CREATE TABLE files (path BLOB, size, mtime)")
            self._files.execute("BEGIN")
            found = ((file.path, file.size_bytes, file.mtime_ns) for file in _files_of(address))
            self._files.executemany("INSERT INTO files VALUES (?, ?, ?)", found)
            self._files.execute("CREATE INDEX by_path ON files (path)")
            self._files.execute("COMMIT")

    def look_up(self, path: bytes) -> Found:
        """Returns one file that a table names.

        Args:
            path: normalised path relative to the folder.
        """
        row = self._files.execute("SELECT * FROM files WHERE path = ?", (path,)).fetchone()
        if row is not None:
            return Found(*row)
        code, what = "missing_file", "There is no such file"
        if next(self._below(path), None) is not None:
            code, what = "not_a_file", "A folder"
        return Found(path, None, None, code, rejection(code, what).message)

    def names(self, folder: bytes) -> list[bytes]:
        """Returns the names of a folder's entries, sorted; none where there is no such folder."""
        start = len(folder) + 1 if folder else 0
        return sorted({path[start:].partition(b"/")[0] for (path, *_) in self._below(folder)})

    def walk(self, ignoring: Ignoring) -> Iterator[Found]:
        """Yields every file that is an input, in the order of paths."""
        for row in self._below(b""):
            if ignoring.is_input(row[0]):
                yield Found(*row)

    def _below(self, folder: bytes) -> Iterator[tuple[bytes, int | None, int | None]]:
        if not folder:
            return iter(self._files.execute("SELECT * FROM files ORDER BY path"))
        between = (folder + b"/", folder + b"0")  # 0 is the character after /
        return iter(self._files.execute("SELECT * FROM files WHERE path > ? AND path < ?", between))


def _files_of(address: str) -> Iterator[Found]:
    return (file for file in open_folder(address).walk() if file.code is None)
