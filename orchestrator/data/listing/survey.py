"""Finds what the names of a root's folders leave open: classes, splits, copies.

The survey is taken while a folder is listed; it keeps a number of folders, never files.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.data.listing.listing import Found
from orchestrator.data.listing.names import (
    LABEL_OF_NAME,
    Labels,
    class_of_name,
    read_folders,
    split_of_name,
)
from orchestrator.data.listing.notes import MOST_NAMES, Notes
from orchestrator.data.schema import escape_path

_MOST_FOLDERS = 20_000
_MOST_POOLED = 10  # more folders of class folders than these are no split


@dataclass
class Tallied:
    """Files directly in one folder.

    Attributes:
        num_files: those that can be read.
        num_bytes: their sizes together.
    """

    num_files: int = 0
    num_bytes: int = 0

    def add(self, size_bytes: int | None) -> None:
        """Counts a file, its size where it is known."""
        self.num_files += 1
        self.num_bytes += size_bytes or 0

    def remove(self, size_bytes: int | None) -> None:
        """Counts a file no longer."""
        self.num_files -= 1
        self.num_bytes -= size_bytes or 0


class Survey:
    """The folders of one root and how much is in them, for notes on their names.

    Attributes:
        is_empty: no file was found, one that cannot be read included.

    Args:
        labels: names of classes.
    """

    def __init__(self, labels: Labels = LABEL_OF_NAME) -> None:
        self._labels = labels
        self._folders: dict[bytes, Tallied] = {}
        self.is_empty = True

    def folder(self, path: bytes) -> Tallied:
        """Returns where to count the files of a folder.

        Args:
            path: relative to the root.
        """
        found = self._folders.get(path)
        if found is None:
            found = Tallied()
            if len(self._folders) < _MOST_FOLDERS:
                self._folders[path] = found
        return found

    def tally(self, files: Iterable[Found]) -> Iterator[Found]:
        """Yields files as they are, and counts those that can be read."""
        last, tallied = b"", self.folder(b"")
        for file in files:
            self.is_empty = False
            folder = file.path.rpartition(b"/")[0]
            if folder != last:
                last, tallied = folder, self.folder(folder)
            if file.code is None:
                tallied.add(file.size_bytes)
            yield file

    def note(self, notes: Notes) -> None:
        """Adds what the folders' names leave open."""
        folders = {
            tuple(path.decode("utf-8", "surrogateescape").split("/")) if path else (): tallied
            for path, tallied in self._folders.items()
            if tallied.num_files
        }
        facts = {path: read_folders(_encode(path), self._labels) for path in folders}
        places = {path: self._class_place(path) for path in folders}
        labelled = {path: places[path] for path in folders if facts[path].label is not None}
        for path in labelled:
            notes.num_labelled += folders[path].num_files
        beside = {path[:at] for path, at in places.items() if at is not None}
        common = _common(folders)
        nameless = [path for path, at in places.items() if at is None]
        named = {path: _unknown_part(path, beside, common) for path in nameless}
        names = set(named.values()) - {None}
        unknown: Counter[str] = Counter()
        for path, name in named.items():
            # The same name in a test folder, say, where no class folder lies beside it.
            name = name or next((part for part in path if part in names), None)
            if name is not None:
                unknown[escape_path(_encode((name,)))] += folders[path].num_files
        _keep_most(notes.unknown, unknown)
        self._note_splits(notes, folders, facts, labelled)
        _note_copies(notes, folders)

    def _class_place(self, path: tuple[str, ...]) -> int | None:
        """Returns where in a path the outermost class folder is."""
        named = (class_of_name(part, self._labels) is not None for part in path)
        return next((index for index, is_class in enumerate(named) if is_class), None)

    def _note_splits(
        self,
        notes: Notes,
        folders: Mapping[tuple[str, ...], Tallied],
        facts: Mapping[tuple[str, ...], Any],
        labelled: Mapping[tuple[str, ...], int | None],
    ) -> None:
        unsplit: Counter[str] = Counter()
        outer: Counter[str] = Counter()
        inner: Counter[str] = Counter()
        both: dict[str, set[int]] = {}
        for path, at in labelled.items():
            if at is None or facts[path].split is not None:
                continue
            number = folders[path].num_files
            above = path[at - 1] if at else path[at]
            unsplit[escape_path(_encode((above,)))] += number
            outer["/".join(path[:at])] += number
            if len(path) > at + 1:
                below = path[at + 1]
                inner[below] += number
                both.setdefault(below, set()).add(facts[path].label)
        if any(facts[path].split is not None for path in labelled):
            _keep_most(notes.unsplit, unsplit)
            return
        shared = Counter({name: inner[name] for name, of in both.items() if len(of) > 1})
        for pools in (outer, shared if shared.keys() == inner.keys() else Counter()):
            if 1 < len(pools) <= _MOST_POOLED:
                shown = {escape_path(_encode((name,))) or ".": n for name, n in pools.items()}
                _keep_most(notes.pooled, Counter(shown))


def _unknown_part(
    path: tuple[str, ...], beside: Collection[tuple[str, ...]], common: int
) -> str | None:
    """Returns the folder of an unlabelled path that might be a class folder by another name.

    Args:
        path: of a folder without a class folder in it.
        beside: paths of the folders that hold class folders.
        common: parts with which all paths begin.
    """
    rest = path[common:]
    if beside:
        ends = [end for end in range(len(path)) if path[:end] in beside]
        rest = path[ends[-1] :] if ends else ()
    return next((part for part in rest if split_of_name(part) is None), None)


def _common(folders: Collection[tuple[str, ...]]) -> int:
    """Returns how many parts all paths have in common, the last part of the shortest left out."""
    paths = list(folders)
    most = max(0, min((len(path) - 1 for path in paths), default=0))
    for index in range(most):
        if len({path[index] for path in paths}) > 1:
            return index
    return most


def _note_copies(notes: Notes, folders: Mapping[tuple[str, ...], Tallied]) -> None:
    """Notes folders that hold as much as the one without a part of their path."""
    for path, tallied in sorted(folders.items()):
        for index in range(len(path) - 1):
            other = path[:index] + path[index + 1 :]
            if folders.get(other) == tallied:
                notes.num_copies += tallied.num_files
                shown = tuple(escape_path(_encode(names)) for names in (path, other))
                notes.copies = notes.copies or shown
                break


def _encode(parts: tuple[str, ...]) -> bytes:
    return "/".join(parts).encode("utf-8", "surrogateescape")


def _keep_most(noted: dict[str, int], counted: Counter[str]) -> None:
    """Adds the names with the most files to the notes."""
    most = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    for name, number in most[:MOST_NAMES]:
        noted[name] = noted.get(name, 0) + number
