"""What earlier runs under one folder have processed, so that a new run leaves it out.

A file is known where a finished run that scored on the same terms has a row for it:

- the same path, size and time of change: known without a look at the file;
- otherwise the same bytes, by SHA-256, as an image that was scored: known without decoding it.

A file that was rejected for its content stays known as long as path, size, time and limits are the
same. What was rejected for want of permission, memory or the file itself is tried again. The index
is built again from the runs that are there, so it cannot disagree with them; it is an SQLite file,
since millions of keys must not fill the memory of every worker.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.known.index import KnownIndex, file_key
from orchestrator.data.listing.listed_rows import ListedFile, database_errors
from orchestrator.data.manifest import iter_shards, open_manifest_file
from orchestrator.data.parquet import open_parquet, open_writer
from orchestrator.data.schema import KNOWN, unescape_path
from orchestrator.errors import NewerRunError, OrchestratorError
from orchestrator.runs.atomic import atomic_path
from orchestrator.runs.run_dir import RunDir

# Rejected for what may pass: tried again at the next chance. A decoder also hangs on storage that
# stalls, and crashes for want of memory: better lost time each night than an X-ray never scored.
_PASSING = frozenset(
    {
        "unreadable",
        "missing_file",
        "unlistable_folder",
        "out_of_memory",
        "decoder_hung",
        "decoder_crashed",
    }
)
# Rejected by the listing alone; a file that a listing took and that became one of these is moving.
_OF_LISTING = frozenset({"not_a_file", "link_outside_root", "link_loop"})
# A file changed this shortly before it was listed could change again without a new time.
_SETTLED_NS = 2 * 10**9
_BATCH_ROWS = 4096


@dataclass(frozen=True)
class EarlierRun:
    """A finished run on the same terms.

    Args:
        folder: of the run.
        same_limits: whether its limits on input files were the same too, so that its rejections
            hold.
    """

    folder: Path
    same_limits: bool


def find_runs(
    root: Path, terms: Mapping[str, Any], limits: Mapping[str, Any]
) -> tuple[list[EarlierRun], list[Path]]:
    """Returns the finished runs directly under a folder that scored on the same terms.

    Args:
        root: folder of run folders; it need not exist.
        terms: as stored in the runs' status under `terms`.
        limits: as stored under `limits`.

    Returns:
        The finished ones, oldest first, and the folders of unfinished ones.

    Raises:
        NewerRunError: a newer version of the program has made one.
    """
    finished: list[tuple[str, Path, bool]] = []
    unfinished: list[Path] = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        run = RunDir(folder)
        try:
            status = run.load_status()
        except NewerRunError:
            raise  # passed over, all its images would be scored again
        except (OrchestratorError, OSError):
            continue  # no run's folder
        # Earlier versions recorded `auto` in place of the engine that it meant.
        if status.get("terms") not in (terms, {**terms, "engine": "auto"}):
            continue
        if run.success.exists():
            ended = str(status.get("succeeded_at"))
            same_limits = _given(status.get("limits") or {}) == _given(limits)
            finished.append((ended, folder, same_limits))
        else:
            unfinished.append(folder)
    return [EarlierRun(folder, same) for _, folder, same in sorted(finished)], unfinished


def _given(limits: Mapping[str, Any]) -> dict[str, Any]:
    """The limits that were set: one that only a later version knows is not, in an earlier run."""
    return {name: value for name, value in limits.items() if value is not None}


def build_index(path: Path, runs: Sequence[EarlierRun]) -> list[Path]:
    """Writes the index of what some runs have processed, whole or not at all.

    Args:
        path: the file to write.
        runs: oldest first; of several that know a file the newest counts.

    Returns:
        Folders of runs that could not be read; their images count as never scored.

    Raises:
        ClusterError: the file system refused the write.
    """
    unread: list[Path] = []
    names = {run.folder.name for run in runs}
    with (
        database_errors(str(path.parent)),
        atomic_path(path) as temporary,
        closing(sqlite3.connect(temporary, isolation_level=None)) as index,
    ):
        index.execute("PRAGMA journal_mode = OFF")
        index.execute("PRAGMA synchronous = OFF")
        index.execute("CREATE TABLE known (key BLOB, run TEXT, row INTEGER, sha BLOB, code TEXT)")
        for run in runs:
            index.execute("BEGIN")
            before = index.execute("SELECT count(*) FROM known").fetchone()[0]
            try:
                index.executemany("INSERT INTO known VALUES (?, ?, ?, ?, ?)", _rows(run, names))
            except (OrchestratorError, OSError, pa.ArrowException, KeyError):
                index.execute("DELETE FROM known WHERE rowid > ?", (before,))
                unread.append(run.folder)
            index.execute("COMMIT")
        index.execute("CREATE INDEX by_key ON known (key)")
        index.execute("CREATE INDEX by_sha ON known (sha) WHERE sha IS NOT NULL")
    return unread


def leave_out(
    rows: Iterable[ListedFile],
    roots: Sequence[bytes],
    index: KnownIndex,
    add: Callable[[dict[str, Any]], None],
) -> Iterator[ListedFile]:
    """Yields the files that no earlier run has processed.

    Args:
        rows: files as listed.
        roots: what `ListedFile.root` indexes.
        index: what is known.
        add: receives a row of `schema.KNOWN` for each of the others.
    """
    for file in rows:
        key = file_key(roots[file.root], file.raw, file.size_bytes, file.mtime_ns)
        origin = index.find_file(key)
        # What the listing rejects is known by the same rejection, and by nothing else.
        if origin is None or (file.code is not None and origin.code != file.code):
            yield file
            continue
        add(
            {
                "root": file.root,
                "path": file.path,
                "size_bytes": file.size_bytes,
                "mtime_ns": file.mtime_ns,
                "sha256": origin.sha256,
                "matched": "file",
                "run": origin.run,
                "run_row": origin.row,
                "code": origin.code,
            }
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


_IndexRow = tuple[bytes | None, str, int, bytes | None, str | None]


def _rows(earlier: EarlierRun, names: set[str]) -> Iterator[_IndexRow]:
    """Yields what one run has processed, scored rows first.

    Args:
        earlier: the run.
        names: of all runs that are there; a prediction in a run that was removed is lost.
    """
    run = RunDir(earlier.folder)
    name = run.path.name
    stored = open_manifest_file(run.manifest)
    settled = (stored.listed_ns or 0) - _SETTLED_NS
    rejected: dict[int, str] = {}
    if earlier.same_limits:
        table = open_parquet(run.rejected).read(columns=["row", "code"])
        rejected = dict(zip(table["row"].to_pylist(), table["code"].to_pylist(), strict=True))
    columns = ["row", "root", "path", "size_bytes", "mtime_ns", "code"]
    for shard, table in enumerate(iter_shards(stored, columns)):
        part = run.predictions / f"part-{shard:05d}.parquet"
        scored = open_parquet(part).read(columns=["row", "sha256"])
        hashes = dict(zip(scored["row"].to_pylist(), scored["sha256"].to_pylist(), strict=True))
        for row, root, path, size, mtime, listed in zip(
            *(table[column].to_pylist() for column in columns), strict=True
        ):
            # What a listing took has a size; where its store tells no time, contents are compared.
            settles = size is None if mtime is None else mtime < settled
            key = (
                file_key(stored.roots[root], unescape_path(path), size, mtime) if settles else None
            )
            if row in hashes:
                yield key, name, row, bytes.fromhex(hashes[row]), None
            elif key is not None and _lasts(rejected.get(row), listed):
                yield key, name, row, None, rejected[row]
    if not run.known.exists():
        return
    for known in iter_known_content(run.known):
        changed_ns = known["mtime_ns"]
        if known["run"] in names and changed_ns is not None and changed_ns < settled:
            root, path = stored.roots[known["root"]], unescape_path(known["path"])
            key = file_key(root, path, known["size_bytes"], known["mtime_ns"])
            yield key, known["run"], known["run_row"], bytes.fromhex(known["sha256"]), None


def iter_known_content(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a table of `schema.KNOWN` that were matched by content."""
    for batch in open_parquet(path).iter_batches(batch_size=_BATCH_ROWS):
        yield from batch.filter(pc.equal(batch.column("matched"), "content")).to_pylist()


def _lasts(code: str | None, listed: str | None) -> bool:
    """Returns whether a rejection still holds for the same file.

    Args:
        code: as in the rejected row; None where there is none that counts.
        listed: the listing's own code.
    """
    if code is None or code in _PASSING:
        return False
    return code == listed or code not in _OF_LISTING
