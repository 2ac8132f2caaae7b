"""Looks up, in any process, what earlier runs have processed; `index_build.py` makes the index.

Apart from there because a decoding process imports this and need not import Arrow.
"""

import hashlib
import sqlite3
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from orchestrator.errors import DataError

_LOCK = threading.Lock()


class Origin(NamedTuple):
    """Where a file was processed: run folder's name, row there, hash, and code if rejected."""

    run: str
    row: int
    sha256: str | None
    code: str | None


@dataclass(frozen=True)
class KnownIndex:
    """Looks files up; pickled to workers.

    Args:
        path: written by `build_index`.
    """

    path: Path

    def find_file(self, key: bytes) -> Origin | None:
        """Returns where this very file, unchanged, was processed.

        Args:
            key: of `file_key`.
        """
        return self._find("key", key)

    def find_content(self, sha256: str) -> Origin | None:
        """Returns where the same bytes were scored.

        Args:
            sha256: hexadecimal.
        """
        return self._find("sha", bytes.fromhex(sha256))

    def _find(self, column: str, value: bytes) -> Origin | None:
        database = _connect(self.path, self.path.stat().st_mtime_ns)
        query = f"SELECT run, row, sha, code FROM known WHERE {column} = ? "
        order = "ORDER BY code IS NOT NULL, rowid DESC LIMIT 1"
        with _LOCK:
            found = database.execute(query + order, (value,)).fetchone()
        if found is None:
            return None
        run, row, sha, code = found
        return Origin(run, row, None if sha is None else sha.hex(), code)


def file_key(root: bytes, path: bytes, size_bytes: int | None, mtime_ns: int | None) -> bytes:
    """Returns 128 bits that stand for one state of one file."""
    full = root.rstrip(b"/") + b"/" + path
    text = b"%b\0%a\0%a" % (full, size_bytes, mtime_ns)
    return hashlib.blake2b(text, digest_size=16).digest()


@lru_cache(maxsize=2)
def _connect(path: Path, _written_ns: int) -> sqlite3.Connection:
    if not path.is_file():
        raise DataError(f"{path} is missing; run the command again in a new folder")
    address = f"file:{quote(str(path))}?mode=ro&immutable=1"
    return sqlite3.connect(address, uri=True, check_same_thread=False)
