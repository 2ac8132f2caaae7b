"""Keeps the index of what the runs under one folder have processed up to date.

The index takes in the runs that have ended since, so that a night adds what its predecessor found
and no more. Segments are merged until each has at least twice the entries of all after it, so that
there are few of them and the large ones stay as they are for years. New segments are written first,
then the file that names them, then the old ones are removed: a kill leaves the old index or the new
one.

A run that somebody removed no longer counts, and the index is made again from the runs that are
there. One that `prune.py` removed still counts; its entries cannot be made again, and so an index
that is lost is refused from then on.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.data.known.forgotten import load_forgotten
from orchestrator.data.known.index import (
    IndexedRun,
    IndexState,
    Segment,
    load_state,
)
from orchestrator.data.known.run_entries import Entry, entry_columns, read_entries
from orchestrator.data.known.segments import Numbers, open_segment, write_segment
from orchestrator.errors import DataError, NewerRunError, OrchestratorError
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import digest, sha256_file
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.runs_root import IndexFiles, RunsRoot

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

    Raises:
        NewerRunError: a newer version of the program has made one.
    """
    finished: list[EarlierRun] = []
    unfinished: list[Path] = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if folder.name.startswith("."):  # on its way out
            continue
        run = RunDir(folder)
        try:
            status = run.load_status()
        except NewerRunError:
            raise  # passed over, all its images would be scored again
        except (OrchestratorError, OSError):
            continue  # no run's folder
        if terms not in terms_served(status.get("terms") or {}):
            continue
        if run.success.exists():
            ended, limits = str(status.get("succeeded_at")), digest_limits(status.get("limits"))
            finished.append(EarlierRun(folder, ended, limits))
        else:
            unfinished.append(folder)
    return sorted(finished, key=lambda run: (run.ended, run.folder)), unfinished


def terms_served(recorded: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the terms on which a run counts: its own, but for an engine that it does not name.

    Earlier versions recorded `auto` in place of the engine that it meant. Each also as `any_model`
    gives it.

    Args:
        recorded: `terms` of the run's status.
    """
    engines = ("openvino", "keras") if recorded.get("engine") == "auto" else ()
    own = [dict(recorded), *({**recorded, "engine": engine} for engine in engines)]
    return own + [any_model(terms) for terms in own if terms]


def any_model(terms: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the terms that runs share which differ in the model alone."""
    return {**terms, "models": "any"}


def digest_limits(limits: Mapping[str, Any] | None) -> str:
    """Returns the digest of the limits that were set.

    One that only a later version knows is not set in an earlier run.
    """
    given = {name: value for name, value in (limits or {}).items() if value is not None}
    return digest(given)


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
    update = IndexUpdate(files, state)
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
    forgotten = load_forgotten(root)
    if forgotten.files and forgotten.as_run(0).key not in covered:
        update.add(
            forgotten.as_run(state.last_number + 1), forgotten.entries(state.last_number + 1)
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


class IndexUpdate:
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
        num_segments = len(state.segments)
        try:
            self.add(added, read_entries(earlier.folder, number, numbers, state.codes))
        except (OSError, pa.ArrowException, KeyError, DataError):
            del state.segments[num_segments:]
            state.runs.pop()
            return False
        return True

    def add(self, run: IndexedRun, entries: Iterator[Entry]) -> None:
        """Adds a run with its entries."""
        self._state.last_number = run.number
        self._state.runs.append(run)
        while batch := list(islice(entries, _SEGMENT_ROWS)):
            self.append([entry_columns(batch)])
        self.is_changed = True

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
            self.append([open_segment(self._files.segment(part.name)) for part in replaced])

    def append(self, parts: Sequence[Numbers]) -> None:
        """Adds entries as one segment; the oldest part first."""
        state = self._state
        limits = {text: at for at, text in enumerate({run.limits for run in state.runs}, 1)}
        numbers = state.of_runs((run, limits[run.limits]) for run in state.runs)
        name = f"{secrets.token_hex(6)}.npy"
        num_entries = write_segment(self._files.segment(name), parts, numbers)
        if num_entries:
            sha256 = sha256_file(self._files.segment(name))
            state.segments.append(Segment(name, num_entries, sha256))
