"""Keeps the index of what the runs under one folder have processed up to date.

A file is known where a finished run that scored on the same terms has a row for it:

- the same path, size and time of change: known without a look at the file;
- otherwise the same bytes, by SHA-256, as an image that was scored: known without decoding it.

A file that was rejected for its content stays known as long as path, size, time and limits are the
same. What was rejected for want of permission, memory or the file itself is tried again.

The index takes in the runs that have ended since, so that a night adds what its predecessor found
and no more. Segments are merged until each has at least twice the entries of all after it, so that
there are few of them and the large ones stay as they are for years. New segments come
first, then the file that names them, then the old ones go: whoever is killed leaves the old index
or the new one. A run that somebody removed counts no longer, and the index is made again from the
runs that are there; one that `prune.py` removed counts on, and no run is left to make its entries
from: without the index nothing goes on.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.known import segments as seg
from orchestrator.data.known.index import (
    IndexedRun,
    IndexState,
    Segment,
    load_state,
    path_hash,
    whole_path,
)
from orchestrator.data.known.segments import Numbers, open_segment, write_segment
from orchestrator.data.manifest import iter_shards, open_manifest_file
from orchestrator.data.parquet import open_parquet
from orchestrator.data.schema import unescape_path
from orchestrator.errors import DataError, OrchestratorError
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import digest, sha256_file
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.runs_root import IndexFiles, RunsRoot

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
_SEGMENT_ROWS = 2**18  # entries held in memory while a run is read


@dataclass(frozen=True)
class EarlierRun:
    """A finished run on some terms.

    Args:
        folder: of the run.
        ended: when it ended, ISO 8601.
        limits: digest of its limits on input files.
    """

    folder: Path
    ended: str
    limits: str

    @property
    def key(self) -> str:
        """As of an `IndexedRun`."""
        return f"{self.ended} {self.folder.name}"


def find_runs(root: Path, terms: Mapping[str, Any]) -> tuple[list[EarlierRun], list[Path]]:
    """Returns the finished runs directly under a folder that scored on the same terms.

    Args:
        root: folder of run folders; it need not exist.
        terms: as stored in the runs' status under `terms`.

    Returns:
        The finished ones, oldest first, and the folders of unfinished ones.
    """
    finished: list[EarlierRun] = []
    unfinished: list[Path] = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if folder.name.startswith((".", "_")):
            continue
        run = RunDir(folder)
        try:
            status = run.load_status()
        except (OrchestratorError, OSError):
            continue  # no run's folder
        if status.get("terms") != terms:
            continue
        if run.success.exists():
            ended, limits = str(status.get("succeeded_at")), digest(status.get("limits"))
            finished.append(EarlierRun(folder, ended, limits))
        else:
            unfinished.append(folder)
    return sorted(finished, key=lambda run: (run.ended, run.folder)), unfinished


def update_index(
    root: Path, terms: Mapping[str, Any], reporter: Reporter
) -> tuple[IndexFiles, IndexState, list[Path]]:
    """Brings the index of the runs on some terms up to date, whole or not at all.

    Nobody else may write to the folder of runs meanwhile.

    Args:
        root: folder of run folders; it need not exist.
        terms: as for `find_runs`.
        reporter: receives a line where the index is made again, and for each run that cannot be
            read: its images count as never scored.

    Returns:
        The index, what makes it up, and the folders of unfinished runs.

    Raises:
        DataError: the index is lost or damaged and was all that knew of some removed runs.
        ClusterError: the file system refused a write.
    """
    finished, unfinished = find_runs(root, terms)
    files = RunsRoot(root).index(digest(terms))
    state, is_new = _load(files, terms, root, len(finished), reporter)
    update = _Update(files, state)
    present = {run.key for run in finished}
    gone = [run.name for run in state.runs if not run.pruned and run.key not in present]
    if gone:
        reporter.say(
            f"{gone[0]} {f'and {len(gone) - 1} others are' if len(gone) > 1 else 'is'} no longer "
            f"in {root}: the index of known files is made from the runs that are there"
        )
        update.keep_runs([run for run in state.runs if run.pruned])
    covered = {run.key for run in state.runs}
    for run in finished:
        if run.key not in covered and not update.add_run(run):
            reporter.say(
                f"{run.folder} cannot be read and does not count: its images are scored here"
            )
    if update.is_changed or (is_new and finished):
        update.merge()
        update.commit()
    return files, state, unfinished


def _load(
    files: IndexFiles, terms: Mapping[str, Any], root: Path, num_runs: int, reporter: Reporter
) -> tuple[IndexState, bool]:
    """Returns the index that is there, every segment checked, or an empty one, and which it is."""
    try:
        state = load_state(files)
        for segment in state.segments:
            if sha256_file(files.segment(segment.name)) != segment.sha256:
                raise ValueError("is damaged")
    except (OSError, ValueError) as error:
        is_absent = isinstance(error, FileNotFoundError)
        lost = f"the index of known files {files.folder} {'is gone' if is_absent else error}"
        try:
            pruned = json.loads(files.pruned.read_text(encoding="utf-8"))["runs"]
        except FileNotFoundError:
            pruned = []
        except (OSError, ValueError, KeyError, TypeError):
            pruned = ["one at least"]
        if pruned:
            raise DataError(
                f"{lost}, and nothing else knows what {len(pruned):,} pruned runs had processed; "
                "restore the folder from a backup, or remove it to have their images scored again"
            ) from error
        if num_runs:
            reporter.say(
                f"indexing what {num_runs:,} runs in {root} have processed"
                if is_absent and not files.folder.exists()
                else f"{lost}: it is made again from {num_runs:,} runs in {root}"
            )
        return IndexState(dict(terms)), True
    return state, False


class _Update:
    """A change of the index, in the making.

    Attributes:
        is_changed: whether there is anything to commit.

    Args:
        files: of the index.
        state: what makes it up; changed here.
    """

    def __init__(self, files: IndexFiles, state: IndexState) -> None:
        self._files = files
        self._state = state
        self.is_changed = False

    def keep_runs(self, runs: list[IndexedRun]) -> None:
        """Drops all other runs and what is known from them."""
        self._state.runs = runs
        self._write(0)
        self.is_changed = True

    def add_run(self, earlier: EarlierRun) -> bool:
        """Adds what a run has processed; returns False, with nothing changed, if it is damaged."""
        state = self._state
        numbers = {run.name: run.number for run in state.runs}  # of several the newest
        number = state.last_number + 1
        added = IndexedRun(number, earlier.folder.name, earlier.ended, earlier.limits)
        state.last_number = number
        state.runs.append(added)
        num_segments = len(state.segments)
        rows = _run_rows(earlier.folder, number, numbers, state.codes)
        try:
            while batch := list(islice(rows, _SEGMENT_ROWS)):
                self._append([_numbers(batch)])
        except (OSError, pa.ArrowException, KeyError, DataError):
            del state.segments[num_segments:]
            state.runs.pop()
            return False
        self.is_changed = True
        return True

    def merge(self) -> None:
        """Merges the newest segments until each has twice the entries of all after it."""
        sizes = [segment.num_entries for segment in self._state.segments]
        for first, size in enumerate(sizes):
            if size < 2 * sum(sizes[first + 1 :]):
                self._write(first)
                break

    def commit(self) -> None:
        """Makes the change, and removes what has no use any more or was left by a kill."""
        self._state.commit(self._files)
        kept = {self._files.segment(part.name) for part in self._state.segments}
        for path in self._files.folder.iterdir():
            if path not in kept | {self._files.state, self._files.pruned}:
                path.unlink(missing_ok=True)

    def _write(self, first: int) -> None:
        """Replaces the segments from one on by a single one of what counts in them."""
        replaced = self._state.segments[first:]
        del self._state.segments[first:]
        if replaced:
            self._append([open_segment(self._files.segment(part.name)) for part in replaced])

    def _append(self, parts: Sequence[Numbers]) -> None:
        state = self._state
        limits = {text: at for at, text in enumerate({run.limits for run in state.runs}, 1)}
        numbers = state.of_runs((run, limits[run.limits]) for run in state.runs)
        name = f"{secrets.token_hex(6)}.npy"
        num_entries = write_segment(self._files.segment(name), parts, numbers)
        if num_entries:
            sha256 = sha256_file(self._files.segment(name))
            state.segments.append(Segment(name, num_entries, sha256))


# Hash of the path, size, time, number of the run, row, number of the code, and SHA-256.
_Entry = tuple[bytes, int | None, int | None, int, int, int, bytes]
_NO_SHA = bytes(32)


def _numbers(entries: Sequence[_Entry]) -> Numbers:
    """Returns entries as columns, [NUM_GIVEN, entry]."""
    paths, sizes, times, *plain, shas = zip(*entries, strict=True)
    return np.concatenate(
        [
            seg.hash_numbers(paths),
            np.stack([seg.state_numbers(sizes), seg.state_numbers(times)]),
            np.array(plain, np.uint64),
            seg.hash_numbers(shas),
        ]
    )


def _run_rows(
    folder: Path, number: int, numbers: Mapping[str, int], codes: list[str]
) -> Iterator[_Entry]:
    """Yields what one run has processed.

    Args:
        folder: of the run.
        number: of the run in the index.
        numbers: those of earlier runs, by name; a prediction in a run that is gone is lost.
        codes: rejection codes; new ones are appended.
    """
    run = RunDir(folder)
    stored = open_manifest_file(run.manifest)
    settled = (stored.listed_ns or 0) - _SETTLED_NS
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
            file = path_hash(whole_path(stored.roots[root], unescape_path(path)))
            if row in hashes:
                sha = bytes.fromhex(hashes[row])
                yield _scored(file if settles else None, size, mtime, number, row, sha)
            elif settles and _lasts(code := rejected.get(row), listed):
                if code not in codes:
                    codes.append(str(code))
                place = 1 + codes.index(str(code))
                yield file, size, mtime, number, row, place, _NO_SHA
    for known in iter_known_elsewhere(run.known):
        mtime, origin = known["mtime_ns"], numbers.get(known["run"])
        if origin is not None and mtime is not None and mtime < settled:
            path = whole_path(stored.roots[known["root"]], unescape_path(known["path"]))
            sha = bytes.fromhex(known["sha256"])
            size, row = known["size_bytes"], known["run_row"]
            yield _scored(path_hash(path), size, mtime, origin, row, sha)


def _scored(
    file: bytes | None, size: int | None, mtime: int | None, number: int, row: int, sha: bytes
) -> _Entry:
    if file is None:  # known by its content alone: in the place of a path that no file has
        return sha[:16], None, None, number, row, 0, sha
    return file, size, mtime, number, row, 0, sha


def iter_known_elsewhere(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a table of `schema.KNOWN` that tell more than earlier runs do.

    Those are all but the files that earlier versions listed each night, unchanged.
    """
    if path.exists():
        for batch in open_parquet(path).iter_batches(batch_size=_BATCH_ROWS):
            yield from batch.filter(pc.not_equal(batch.column("matched"), "file")).to_pylist()


def _lasts(code: str | None, listed: str | None) -> bool:
    """Returns whether a rejection still holds for the same file.

    Args:
        code: as in the rejected row; None where there is none that counts.
        listed: the listing's own code.
    """
    if code is None or code in _PASSING:
        return False
    return code == listed or code not in _OF_LISTING
