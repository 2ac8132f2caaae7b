"""Leaves the files that earlier runs have processed out of a listing, and accounts for them.

A file that is as it was when it was processed leaves a count and no row: its row is in the earlier
run, and a million of them each night would be gigabytes in a year. A row of `schema.KNOWN` goes to
what earlier runs do not tell: bytes found under another name, and a file that is back in a state
that it had before it was scored in another one.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from orchestrator.data.known.index import OpenIndex, whole_path
from orchestrator.data.listing.listed_rows import ListedFile
from orchestrator.data.listing.listing import Found
from orchestrator.data.parquet import open_parquet, open_writer
from orchestrator.data.schema import KNOWN, escape_path
from orchestrator.runs.runs_root import FORGOTTEN

_BATCH_ROWS = 4096
_File = TypeVar("_File", Found, ListedFile)


class KnownFiles:
    """Leaves known files out and counts them.

    Args:
        index: what is known.
    """

    def __init__(self, index: OpenIndex) -> None:
        self._index = index
        self._counts: Counter[tuple[int, int]] = Counter()  # by root and number of the code
        self._first: dict[int, tuple[int, bytes]] = {}

    def leave_out_found(self, number: int, root: bytes, found: Iterable[Found]) -> Iterator[Found]:
        """Yields the files of a folder but for those known; one of several names is not decided on.

        Args:
            number: of the root.
            root: path or address of the folder.
            found: as listed.
        """
        for file, code, restored, _ in self._look_up(root, found, attrgetter("path")):
            if restored or file.same_as is not None or not self._is_known(file, code):
                yield file
            else:
                self._count(number, code, file.path)

    def take_back(self, number: int, root: bytes, found: Iterable[Found]) -> Iterator[Found]:
        """Yields those of some files that were left out, and counts them as such no longer.

        Args:
            number: of the root.
            root: path or address of the folder.
            found: in the state in which they were listed.
        """
        for file, code, restored, _ in self._look_up(root, found, attrgetter("path")):
            if not restored and self._is_known(file, code):
                self._counts[number, code] -= 1
                yield file

    def leave_out(
        self,
        rows: Iterable[ListedFile],
        roots: tuple[bytes, ...],
        add: Callable[[dict[str, Any]], None],
    ) -> Iterator[ListedFile]:
        """Yields the rows of a listing but for those of known files.

        Args:
            rows: in the order of roots.
            roots: what `ListedFile.root` indexes.
            add: receives a row of `schema.KNOWN` of each file that is back in an earlier state.
        """
        for number, of_root in groupby(rows, attrgetter("root")):
            for file, code, restored, entry in self._look_up(
                roots[number], of_root, attrgetter("raw")
            ):
                if not self._is_known(file, code):
                    yield file
                    continue
                self._count(number, code, file.raw)
                origin = self._index.origin(*entry) if restored else None
                if origin is not None and origin.run != FORGOTTEN:
                    add(
                        {
                            "root": number,
                            "path": file.path,
                            "size_bytes": file.size_bytes,
                            "mtime_ns": file.mtime_ns,
                            "sha256": origin.sha256,
                            "matched": "restored",
                            "run": origin.run,
                            "run_row": origin.row,
                        }
                    )

    def counts(self) -> list[dict[str, Any]]:
        """Returns the number of files left out by root and rejection code, JSON-able.

        Each has `root`, `code` (None: scored), `files`, and for a rejection code `first_root` and
        `first`, which name one of the files.
        """
        found = []
        for (root, number), files in sorted(self._counts.items()):
            row = {"root": root, "code": self._index.code(number), "files": files}
            if number:
                first_root, path = self._first[number]
                row |= {"first_root": first_root, "first": escape_path(path)}
            found += [row] * bool(files)
        return found

    def _is_known(self, file: Found | ListedFile, code: int) -> bool:
        # What the listing rejects is known by the same rejection, and by nothing else.
        return code >= 0 and (file.code is None or file.code == self._index.code(code))

    def _count(self, number: int, code: int, path: bytes) -> None:
        self._counts[number, code] += 1
        if code:
            first = self._first.setdefault(code, (number, path))
            self._first[code] = min(first, (number, path))

    def _look_up(
        self, root: bytes, files: Iterable[_File], path_of: Callable[[_File], bytes]
    ) -> Iterator[tuple[_File, int, bool, tuple[int, int]]]:
        """Yields each file with the items of `Matches` for it, the place of the entry as a pair."""
        remaining = iter(files)
        while batch := list(islice(remaining, _BATCH_ROWS)):
            paths = [whole_path(root, path_of(file)) for file in batch]
            sizes = [file.size_bytes for file in batch]
            found = self._index.find_files(paths, sizes, [file.mtime_ns for file in batch])
            entries = zip(found.segments.tolist(), found.places.tolist(), strict=True)
            yield from zip(
                batch, found.codes.tolist(), found.restored.tolist(), entries, strict=True
            )


@contextmanager
def known_writer(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields a function that adds a row to a table of `schema.KNOWN`, written as it grows.

    Args:
        path: the Parquet file, whole or not there.

    Raises:
        ClusterError: the file system refused the write.
    """
    rows: list[dict[str, Any]] = []
    with open_writer(path, KNOWN) as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(rows, KNOWN))
            rows.clear()

        def add(row: dict[str, Any]) -> None:
            rows.append(row)
            if len(rows) == _BATCH_ROWS:
                flush()

        yield add
        if rows:
            flush()


def iter_known(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a table of `schema.KNOWN`; none where the file is absent.

    Args:
        path: written through `known_writer`.
    """
    if path.exists():
        for batch in open_parquet(path).iter_batches(batch_size=_BATCH_ROWS):
            yield from batch.to_pylist()
