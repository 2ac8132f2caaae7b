"""Finds the files that the rows of a table name, and says where they are if none is found.

A path is looked for as it is written. Only where there is no such file it is tried as Windows
writes paths, and as one that starts at a folder above the table's: `data/images/1.png` in a table
that lies in `data`. A table of a public data set may name a file by its name alone.
"""

# pathlib has no paths of bytes
# ruff: noqa: PTH118, PTH119, PTH122
import os
import re
import sqlite3
from collections.abc import Iterator
from itertools import islice

from orchestrator.data.listing.ignored import Ignoring
from orchestrator.data.listing.listing import Found, Listing
from orchestrator.data.listing.remote_tables import RemoteListing
from orchestrator.data.schema import escape_path
from orchestrator.errors import DataError

_SYSTEM_ROOT = b"/"
_SUFFIXES = (b".png", b".jpg", b".jpeg", b".dcm")
_DRIVE = re.compile(rb"[A-Za-z]:/")
_LOOKED_THROUGH = 20_000  # files, for the hint where none is found


class TableFiles:
    """The files below a table's folder, and those elsewhere that it names by absolute paths.

    Args:
        folder: the table's, absolute.
        remote: the files below it, where it is behind an address; there are none elsewhere then.
        by_name: a path that leads nowhere may be that of a file in any folder below.
        of_folders: a path may be that of a folder.
    """

    def __init__(
        self,
        folder: bytes,
        *,
        by_name: bool,
        of_folders: bool,
        remote: RemoteListing | None = None,
    ) -> None:
        self._folder = folder
        self._is_remote = remote is not None
        self._by_name = by_name
        self._of_folders = of_folders
        self._listings = (remote or Listing(folder), Listing(_SYSTEM_ROOT))
        self._names: sqlite3.Connection | None = None

    def find(self, path: bytes) -> Iterator[tuple[int, Found]]:
        """Yields the files of one row, each with 0 for the table's folder or 1 for the root `/`.

        Args:
            path: as `InputTable` gives it.
        """
        root, found = self._look_up(path)
        if found.code == "missing_file":
            for other in self._other_ways(path):
                again, there = self._look_up(other)
                if there.code != "missing_file":
                    root, found = again, there
                    break
        if self._of_folders and root == 0 and found.code == "not_a_file":
            images = self._images_in(found.path)
            yield from ((0, image) for image in images or [found])
        else:
            yield root, found

    def explain(self, path: bytes) -> str:
        """Returns what is likely wrong with the paths of a table of which no file is found."""
        plain = path.replace(b"\\", b"/")
        parts = [part for part in plain.split(b"/") if part]
        for start in range(1, len(parts)):
            end = b"/".join(parts[start:])
            if self._look_up(end)[1].code != "missing_file":
                extra = plain[: len(plain) - len(end)]
                return f"{_shown(end)} is there: remove {_shown(extra)} from the paths"
        alike = self._in_other_case(parts)
        if alike is not None:
            return f"{_shown(alike)} is there: write the paths in the same upper and lower case"
        name = parts[-1] if parts else path
        walk = self._listings[0].walk(Ignoring(include_hidden=False))
        for found in islice(walk, _LOOKED_THROUGH):
            base = os.path.basename(found.path)
            if name in (base, os.path.splitext(base)[0]):
                return f"{_shown(found.path)} is there: write the paths like this"
        if _DRIVE.match(plain):
            return "the drive letter is another machine's: write paths relative to the table"
        return "write paths relative to the table's folder, or absolute ones"

    def _look_up(self, path: bytes) -> tuple[int, Found]:
        root = int(path.startswith(b"/") and not self._is_remote)
        return root, self._listings[root].look_up(path[1:] if root else path)

    def _other_ways(self, path: bytes) -> Iterator[bytes]:
        """Yields paths that may be meant where there is none as it is written."""
        plain = path
        if b"\\" in path:
            plain = os.path.normpath(path.replace(b"\\", b"/"))
            if plain.startswith(b"../"):
                return
            if plain.startswith(b"/"):
                plain = b"/" + plain.lstrip(b"/")
            yield plain
        own = self._folder.strip(b"/").split(b"/")
        parts = plain.split(b"/")
        for length in range(1, min(len(own), len(parts) - 1) + 1):
            if parts[:length] == own[-length:]:
                yield b"/".join(parts[length:])
        if self._by_name:
            if not os.path.splitext(plain)[1]:
                yield from (plain + suffix for suffix in _SUFFIXES)
            named = self._find_name(os.path.basename(plain))
            if named is not None:
                yield named

    def _find_name(self, name: bytes) -> bytes | None:
        """Returns the path of the file with a name, with or without its suffix.

        Raises:
            DataError: there are several.
        """
        if self._names is None:
            self._names = sqlite3.connect("", isolation_level=None)  # goes to disk when it grows
            self._names.execute("CREATE TABLE names (name BLOB, path BLOB)")
            self._names.execute("BEGIN")
            self._names.executemany("INSERT INTO names VALUES (?, ?)", self._all_names())
            self._names.execute("CREATE INDEX by_name ON names (name)")
            self._names.execute("COMMIT")
        paths = self._names.execute(
            "SELECT path FROM names WHERE name = ? ORDER BY path LIMIT 2", (name,)
        ).fetchall()
        if len(paths) > 1:
            shown = " and ".join(_shown(path) for (path,) in paths)
            raise DataError(
                f"the table names {_shown(name)}, which is {shown}; keep one of them below the "
                "table's folder"
            )
        return paths[0][0] if paths else None

    def _all_names(self) -> Iterator[tuple[bytes, bytes]]:
        for found in self._listings[0].walk(Ignoring(include_hidden=False)):
            name = os.path.basename(found.path)
            yield name, found.path
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in _SUFFIXES:
                yield stem, found.path

    def _images_in(self, folder: bytes) -> list[Found]:
        """Returns the files directly in a folder, none where it cannot be listed."""
        ignoring = Ignoring(include_hidden=False)
        names = self._listings[0].names(folder)
        names = [name for name in names if not ignoring.leaves_out(name, is_folder=False)]
        files = (self._listings[0].look_up(folder + b"/" + name) for name in names)
        return [found for found in files if found.code is None]

    def _in_other_case(self, parts: list[bytes]) -> bytes | None:
        """Returns the one path that differs from a given one in upper and lower case alone."""
        at = b""
        for part in parts:
            names = self._listings[0].names(at)
            alike = [name for name in names if name.lower() == part.lower()]
            if len(alike) != 1:
                return None
            at = os.path.join(at, alike[0])
        return at


def _shown(path: bytes) -> str:
    return escape_path(path)
