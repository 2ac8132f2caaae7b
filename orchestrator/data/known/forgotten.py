"""The files of forgotten patients: no later night with `only_new` scores them again.

`runs forget` removes what the runs hold of them. What stays is this list, of hashes alone: of a
path, with size and time of change, and of the bytes. Each index takes it in as one run more.
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.data.known.index import IndexedRun
from orchestrator.data.known.run_entries import Entry
from orchestrator.errors import DataError
from orchestrator.runs.atomic import write_json
from orchestrator.runs.runs_root import FORGOTTEN, RunsRoot

# Hash of the whole path, size, time of change, SHA-256 or nothing: the hashes hexadecimal.
File = tuple[str, int | None, int | None, str]


@dataclass(frozen=True)
class Forgotten:
    """The list of a folder of runs.

    Attributes:
        changed_at: ISO 8601, empty where there is none.
        files: of it.
    """

    changed_at: str
    files: frozenset[File]

    def as_run(self, number: int) -> IndexedRun:
        """Returns the run that the list is to an index; it counts though it has no folder."""
        return IndexedRun(number, FORGOTTEN, self.changed_at, "", pruned=True)

    def entries(self, number: int) -> Iterator[Entry]:
        """Yields what the list adds to an index."""
        for path, size, mtime, sha in sorted(self.files, key=str):
            file = bytes.fromhex(path)
            yield file, size, mtime, number, 0, 0, bytes.fromhex(sha) or bytes(32)


def load_forgotten(root: Path) -> Forgotten:
    """Returns the list of a folder of runs, an empty one where there is none.

    Raises:
        DataError: it is damaged: without it the images would be scored again.
    """
    path = RunsRoot(root).forgotten
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Forgotten(stored["changed_at"], frozenset(map(tuple, stored["files"])))
    except FileNotFoundError:
        return Forgotten("", frozenset())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}, which says what must not be scored again, cannot be read; restore it from a "
            "backup, or remove it to have the images of forgotten patients scored again"
        ) from error


def add_forgotten(root: Path, files: Collection[File]) -> None:
    """Adds files to the list, whole or not at all."""
    known = load_forgotten(root)
    if set(files) <= known.files:
        return
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    merged = sorted(known.files | set(files), key=str)
    write_json(RunsRoot(root).forgotten, {"version": 1, "changed_at": now, "files": merged})
