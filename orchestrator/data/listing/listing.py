"""Lists what lies under a folder, one item per file found, and tells what kind each is.

Names are bytes from end to end, since a file system takes any byte but `/` and NUL. Reading the
files is `files.py`'s business, the table of them `manifest.py`'s.

Links are followed in one case only: to a regular file under the same root, listed under the
link's own name. A link to a folder under the root is not descended into, since the files there
are listed under their own folder; the link itself becomes a rejected item, so nothing found is
passed over in silence.
"""

# pathlib has no paths of bytes
# ruff: noqa: PTH115, PTH116, PTH118, PTH120, PTH208
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple, Protocol

from orchestrator.data.limits import rejection
from orchestrator.data.listing.ignored import Ignoring
from orchestrator.errors import DataError
from orchestrator.runs.outputs import MOST_ENTRIES

_ANNEX = b".git/annex/objects/"
_FOLDERS_KEPT = 4096  # a table may name millions


class Found(NamedTuple):
    """One file found, or one thing in the place of a file.

    Attributes:
        path: relative to the root.
        size_bytes: of the file, after following a link; None where it is not a readable file.
        mtime_ns: time of the last change, ns since the epoch; None likewise.
        code: why it is rejected already, a key of `REJECTION_CODES`, or None.
        message: what to do about it, or None.
        same_as: what it has in common with the other names of the same file, where it may have
            some: the path that a link leads to, relative to the root, or `/` and a number of the
            file where that has several names itself. None for a file of one name.
    """

    path: bytes
    size_bytes: int | None
    mtime_ns: int | None
    code: str | None = None
    message: str | None = None
    same_as: bytes | None = None


class Known(Protocol):
    """Leaves known files out of what is listed, as `known_files.py` does."""

    def leave_out_found(self, number: int, root: bytes, found: Iterable[Found]) -> Iterator[Found]:
        """Yields the files of a root that are not left out; those of several names are not."""

    def take_back(self, number: int, root: bytes, found: Iterable[Found]) -> Iterator[Found]:
        """Yields those of some files that were left out, and counts them as such no longer."""


class _Scan:
    """The entries of a folder, read one by one; an error ends them and is kept.

    Attributes:
        error: what ended the entries, None where they were read to their end.

    Args:
        path: of the folder.
    """

    def __init__(self, path: bytes) -> None:
        self._path = path
        self.error: OSError | None = None

    def __iter__(self) -> Iterator[os.DirEntry[bytes]]:
        try:
            with os.scandir(self._path) as entries:
                yield from entries
        except OSError as error:
            self.error = error


class Listing:
    """The files of one root; holds the real path of the root and of folders looked up in it.

    Args:
        root: absolute path of a folder.
    """

    def __init__(self, root: bytes) -> None:
        self.root = root
        self._real_root = os.path.realpath(root)
        self._real_folders: dict[bytes, bytes] = {}

    def walk(self, ignoring: Ignoring | None = None) -> Iterator[Found]:
        """Yields every file below the root, in no particular order.

        Entries are read one by one with a single `lstat` each; only the folders still to be read
        are held in memory, and the first entries of one.

        Args:
            ignoring: what to leave out; nothing where not given.

        Raises:
            DataError: the root itself cannot be listed.
        """
        folders = [b""]
        while folders:
            yield from self._list(folders.pop(), folders, ignoring)

    def _list(
        self, folder: bytes, folders: list[bytes], ignoring: Ignoring | None
    ) -> Iterator[Found]:
        """Yields the files of one folder and adds the folders in it to those still to be read."""
        scan = _Scan(os.path.join(self._real_root, folder))
        entries = iter(scan)
        first: list[os.DirEntry[bytes]] = []
        if ignoring is not None:
            first = list(islice(entries, MOST_ENTRIES + 1))
            names = [entry.name for entry in first]
            if len(first) <= MOST_ENTRIES and ignoring.leaves_out_folder(names):
                return
        for entry in chain(first, entries):
            path = folder + b"/" + entry.name if folder else entry.name
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
                if ignoring is not None and ignoring.leaves_out(entry.name, is_folder):
                    continue
                if is_folder:
                    folders.append(path)
                else:
                    yield self._classify(path, entry.stat(follow_symlinks=False))
            except OSError as error:
                yield _failed(path, error)
        if scan.error is not None:
            reason = _reason(scan.error)
            if not folder:
                raise DataError(
                    f"cannot list the input folder ({reason}); check the path and its permissions"
                ) from scan.error
            found = f"The folder could not be listed to its end ({reason})"
            yield _rejected(folder, "unlistable_folder", found)

    def look_up(self, path: bytes) -> Found:
        """Returns one file that a table names.

        Links to folders under the root are followed here, since the table asks for this path.

        Args:
            path: normalised path relative to the root.
        """
        folder, name = os.path.split(path)
        real = self._real_folders.get(folder)
        if real is None:
            real = os.path.realpath(os.path.join(self._real_root, folder))
            if len(self._real_folders) >= _FOLDERS_KEPT:
                self._real_folders.clear()
            self._real_folders[folder] = real
        if not self._holds(real):
            return _rejected(path, "link_outside_root", "A folder of the path is a link out of it")
        full = os.path.join(real, name)
        try:
            return self._classify(path, os.lstat(full), full)
        except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
            return _failed(path, error)

    def names(self, folder: bytes) -> list[bytes]:
        """Returns the names of a folder's entries, sorted; none where it cannot be listed."""
        try:
            return sorted(os.listdir(os.path.join(self._real_root, folder)))
        except OSError:
            return []

    def _classify(self, path: bytes, info: os.stat_result, full: bytes | None = None) -> Found:
        """Returns the item for a path whose `lstat` is `info`."""
        if stat.S_ISREG(info.st_mode):
            same_as = _number(info) if info.st_nlink > 1 else None
            return Found(path, info.st_size, info.st_mtime_ns, same_as=same_as)
        if stat.S_ISLNK(info.st_mode):
            return self._follow(path, full or os.path.join(self._real_root, path))
        found = "A folder" if stat.S_ISDIR(info.st_mode) else "A FIFO, a socket or a device"
        return _rejected(path, "not_a_file", found)

    def _follow(self, path: bytes, link: bytes) -> Found:
        """Returns the item for a link at the absolute path `link`."""
        try:
            target = os.path.realpath(link, strict=True)
            info = os.stat(target)
        except OSError as error:
            if error.errno != errno.ELOOP and not self._holds(os.path.realpath(link)):
                return _rejected(path, "link_outside_root", "A link out of the input folder")
            if error.errno == errno.ENOENT and _ANNEX in os.readlink(link):
                found = "git-annex has not fetched it; run `git annex get`"
                return _rejected(path, "missing_file", found)
            return _failed(path, error)
        if not self._holds(target):
            return _rejected(path, "link_outside_root", "A link out of the input folder")
        if stat.S_ISREG(info.st_mode):
            relative = target[len(self._real_root.rstrip(b"/")) + 1 :]
            same_as = _number(info) if info.st_nlink > 1 else relative
            return Found(path, info.st_size, info.st_mtime_ns, same_as=same_as)
        if not stat.S_ISDIR(info.st_mode):
            return _rejected(path, "not_a_file", "A link to a FIFO, a socket or a device")
        if _under(os.path.dirname(link), target):
            return _rejected(path, "link_loop", "A link to a folder that holds the link")
        found = "A link to a folder of the input, whose files are listed under that folder"
        return _rejected(path, "not_a_file", found)

    def _holds(self, real_path: bytes) -> bool:
        return _under(real_path, self._real_root)


def _number(info: os.stat_result) -> bytes:
    """Returns what all names of a file have in common, and no other file has."""
    return b"/%d:%d" % (info.st_dev, info.st_ino)


def _under(path: bytes, folder: bytes) -> bool:
    """Returns whether a real path is a folder or lies under it."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def _rejected(path: bytes, code: str, found: str) -> Found:
    return Found(path, None, None, code, rejection(code, found).message)


def _failed(path: bytes, error: OSError | ValueError) -> Found:
    """Returns the item for a path that the system would not look at."""
    number = error.errno if isinstance(error, OSError) else errno.ENOENT
    if number == errno.ELOOP:
        return _rejected(path, "link_loop", "A link that leads back to itself")
    if number in (errno.ENOENT, errno.ENOTDIR):
        return _rejected(path, "missing_file", "There is no such file")
    return _rejected(path, "unreadable", f"The system would not look at it ({_reason(error)})")


def _reason(error: OSError | ValueError) -> str:
    """Returns the system's words for an error, without the path in it."""
    return (error.strerror if isinstance(error, OSError) else None) or "unknown error"
