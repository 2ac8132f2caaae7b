"""The index of what earlier runs have processed, to be looked up in any process.

`index_build.py` makes it, `known_files.py` leaves out what it knows. A decoding process imports
this module and need not import Arrow.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from orchestrator.config.addresses import is_archive
from orchestrator.data.known import segments as seg
from orchestrator.data.known.segments import Numbers, open_segment
from orchestrator.errors import DataError, describe_newer
from orchestrator.runs.atomic import write_json
from orchestrator.runs.runs_root import IndexFiles

VERSION = 1


class Origin(NamedTuple):
    """Where a file was processed: run folder's name, row there, hash, and code if rejected."""

    run: str
    row: int
    sha256: str | None
    code: str | None


@dataclass
class IndexedRun:
    """A run whose files are in the index.

    Attributes:
        number: by which entries name it, at least 1, never used again.
        name: of its folder.
        ended: when it ended, ISO 8601: a folder's name may be used again.
        limits: digest of its limits on input files.
        pruned: its folder was removed by `runs prune`, or is about to be, and it counts on.
    """

    number: int
    name: str
    ended: str
    limits: str
    pruned: bool = False

    @property
    def key(self) -> str:
        """What no other run of the folder has."""
        return f"{self.ended} {self.name}"


@dataclass
class Segment:
    """A segment that belongs to the index.

    Attributes:
        name: of its file.
        num_entries: in it.
        sha256: of the file, hexadecimal.
    """

    name: str
    num_entries: int
    sha256: str


@dataclass
class IndexState:
    """What makes up an index; the file of this is what a change of the index commits.

    Attributes:
        terms: what the runs share, for people to read.
        last_number: the highest that a run ever had.
        codes: rejection codes; entries name them by their place, counted from 1.
        runs: in the order in which they were read.
        segments: the oldest first.
    """

    terms: dict[str, Any]
    last_number: int = 0
    codes: list[str] = field(default_factory=list)
    runs: list[IndexedRun] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)

    def commit(self, files: IndexFiles) -> None:
        """Makes this the index: the one write that counts."""
        write_json(files.state, {"version": VERSION, **asdict(self)})

    def of_runs(self, values: Iterable[tuple[IndexedRun, int]]) -> Numbers:
        """Returns an array from the number of a run to a value, 0 where none is given."""
        found = np.zeros(self.last_number + 1, np.uint64)
        for run, value in values:
            found[run.number] = value
        return found


def load_state(files: IndexFiles) -> IndexState:
    """Returns what makes up an index.

    Raises:
        FileNotFoundError: there is none.
        DataError: one of a newer version.
        ValueError: it is damaged or of an earlier version, as the text says.
    """
    text = files.state.read_text(encoding="utf-8")
    try:
        stored = json.loads(text)
        version = stored.pop("version")
        if version == VERSION:
            stored["runs"] = [IndexedRun(**run) for run in stored["runs"]]
            stored["segments"] = [Segment(**segment) for segment in stored["segments"]]
            return IndexState(**stored)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("is damaged") from error
    if isinstance(version, int) and version > VERSION:
        raise DataError(describe_newer(files.state, version, VERSION))
    raise ValueError("is of an earlier version")


@dataclass(frozen=True)
class KnownIndex:
    """The contents that earlier runs have scored; pickled to workers.

    Args:
        folder: of the index.
        runs: keys of those that count. What the index learns later makes no difference.
    """

    folder: Path
    runs: tuple[str, ...]

    def find_content(self, sha256: str) -> Origin | None:
        """Returns where the same bytes were scored.

        Args:
            sha256: hexadecimal.

        Raises:
            DataError: the index is gone.
        """
        return _open(self).find_content(bytes.fromhex(sha256))


@lru_cache(maxsize=2)
def _open(index: KnownIndex) -> "OpenIndex":
    files = IndexFiles(index.folder)
    try:
        state = load_state(files)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{files.state} is missing or damaged; run the command again in a new folder"
        ) from error
    return OpenIndex(files, state, frozenset(index.runs), None)


class Matches(NamedTuple):
    """What is known of some files, one item a file: predictions first, then the newest.

    Attributes:
        codes: -1 not known, 0 scored, otherwise the number of the rejection code.
        segments: which segment has the entry.
        places: and where.
        restored: a newer entry tells of another state of the file, scored since.
    """

    codes: npt.NDArray[np.int64]
    segments: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    restored: npt.NDArray[np.bool_]


class OpenIndex:
    """The index as one run sees it.

    Args:
        files: of the index.
        state: what makes it up.
        runs: keys of the runs that count.
        limits: digest of those under which rejections count; None where none does.
    """

    def __init__(
        self, files: IndexFiles, state: IndexState, runs: frozenset[str], limits: str | None
    ) -> None:
        self._segments = [open_segment(files.segment(part.name)) for part in state.segments]
        self._names = {run.number: run.name for run in state.runs}
        self._codes = [None, *state.codes]
        counted = [run for run in state.runs if run.key in runs]
        # By number of a run: whether its predictions count, and whether its rejections do too.
        self._counts = state.of_runs((run, 1 + (run.limits == limits)) for run in counted)

    def code(self, number: int) -> str | None:
        """Returns the rejection code of a number in `Matches.codes`; None for a scored file."""
        return self._codes[number]

    def origin(self, segment: int, place: int) -> Origin:
        """Returns what an entry says."""
        entry = self._segments[segment][:, place]
        code = self._codes[int(entry[seg.CODE])]
        sha = entry[seg.SHA : seg.NUM_GIVEN].tobytes().hex() if code is None else None
        return Origin(self._names[int(entry[seg.RUN])], int(entry[seg.ROW]), sha, code)

    def find_content(self, sha: bytes) -> Origin | None:
        """Returns where the same bytes were scored, most lately where in several runs."""
        wanted = np.frombuffer(sha, np.uint64)
        best: tuple[int, int, int] | None = None
        for number, entries in enumerate(self._segments):
            first = int(np.searchsorted(entries[seg.SHA_SORTED], wanted[0]))
            for at in range(first, entries.shape[1]):
                if entries[seg.SHA_SORTED, at] != wanted[0]:
                    break
                place = int(entries[seg.BY_SHA, at])
                if not self._valid(entries, place) or entries[seg.CODE, place]:
                    continue
                if (entries[seg.SHA : seg.NUM_GIVEN, place] == wanted).all():
                    found = (int(entries[seg.RUN, place]), number, place)
                    best = found if best is None else max(best, found)
        return None if best is None else self.origin(*best[1:])

    def find_files(
        self, paths: Sequence[bytes], sizes: Sequence[int | None], times: Sequence[int | None]
    ) -> Matches:
        """Returns what is known of files in their present state.

        Args:
            paths: whole paths.
            sizes: in bytes.
            times: of the last change, ns since the epoch.
        """
        head, tail = seg.hash_numbers([path_hash(path) for path in paths])
        size, mtime = seg.state_numbers(sizes), seg.state_numbers(times)
        found = Matches(
            np.full(len(paths), -1),
            np.zeros(len(paths), int),
            np.zeros(len(paths), int),
            np.zeros(len(paths), bool),
        )
        for number, entries in enumerate(self._segments):
            heads, items = entries[seg.HEAD], np.arange(len(paths))
            at = np.searchsorted(heads, head)
            while len(items):  # from entry to entry of the same path, in the order of their age
                there = at < len(heads)
                there[there] = heads[at[there]] == head[items[there]]
                at, items = at[there], items[there]
                code = entries[seg.CODE][at]
                counts = self._counts[entries[seg.RUN][at]] > (code != 0)
                counts &= entries[seg.TAIL][at] == tail[items]
                same = counts & (entries[seg.SIZE][at] == size[items])
                same &= entries[seg.MTIME][at] == mtime[items]
                found.restored[items] |= counts & ~same & (code == 0)
                taken = same & ((code == 0) | (found.codes[items] != 0))
                found.codes[items[taken]] = code[taken]
                found.segments[items[taken]] = number
                found.places[items[taken]] = at[taken]
                found.restored[items[taken]] = False
                at = at + 1
        found.restored[found.codes != 0] = False
        return found

    def _valid(self, entries: Numbers, place: int) -> bool:
        return bool(self._counts[entries[seg.RUN, place]] > (entries[seg.CODE, place] != 0))


def whole_path(root: bytes, path: bytes) -> bytes:
    """Returns the path by which a file is known, whatever input it is listed under.

    An archive's instance is known whichever query found it.
    """
    if is_archive(os.fsdecode(root)):
        root = root.partition(b"?")[0]
    return root.rstrip(b"/") + b"/" + path


def path_hash(path: bytes) -> bytes:
    """Returns 128 bits that stand for a whole path."""
    return hashlib.blake2b(path, digest_size=16).digest()
