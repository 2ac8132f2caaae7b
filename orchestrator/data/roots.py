"""Tells a file that is gone from storage that is gone.

A share that is unmounted looks like any number of missing files. So each process that reads
remembers the input roots as it found them, and looks at them again when a file cannot be read.
"""

# pathlib has no paths of bytes
# ruff: noqa: PTH112, PTH116, PTH118, PTH120
import os
import re
from collections.abc import Sequence
from pathlib import Path

from orchestrator.config.addresses import is_address
from orchestrator.data.schema import escape_path
from orchestrator.errors import ClusterError

# Of a rejected file: it may be its storage that failed.
STORAGE_CODES = frozenset({"missing_file", "unreadable", "unlistable_folder"})

_MOUNTS = Path("/proc/self/mountinfo")  # of Linux; elsewhere the roots alone are looked at
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Roots:
    """The input roots as this process found them.

    Args:
        roots: absolute paths, or addresses, whose stores tell themselves when they fail.
        listed_ns: when their files were listed, ns since the epoch, where that is done.
    """

    def __init__(self, roots: Sequence[bytes], listed_ns: int | None = None) -> None:
        self._roots = roots
        self._listed_ns = listed_ns
        self._real = [os.path.realpath(root) for root in roots]
        # Looked at before the mounts, since a look may mount them.
        self._seen = [None if self.is_remote(n) else _look(root)[0] for n, root in enumerate(roots)]
        self._mounts = _load_mounts()

    def is_remote(self, root: int) -> bool:
        """Returns whether the root of this number is an address."""
        return is_address(os.fsdecode(self._roots[root]))

    def check(self, root: int, path: bytes) -> None:
        """Raises where it is not the file that is gone but the storage that holds it.

        Args:
            root: number of the root.
            path: the file, relative to the root.

        Raises:
            ClusterError: the root, or a file system that holds the file, is not there, is empty or
                is not the one that was there first or that was listed.
        """
        if self.is_remote(root):
            return
        identity, problem = _look(self._roots[root])
        if problem is None and self._seen[root] not in (None, identity):
            problem = "is another folder than before"
        if problem is not None:
            raise _vanished(self._roots[root], problem)
        file = os.path.join(self._real[root], path)
        mounts = _load_mounts()
        for point, device in sorted(self._mounts):
            if not file.startswith(point.rstrip(b"/") + b"/"):
                continue
            if (point, device) not in mounts:
                raise _vanished(point, "is not mounted any more")
            try:
                os.stat(point)
            except OSError as error:
                raise _vanished(point, f"does not answer ({error.strerror})") from None
        if self._listed_ns is not None:
            _check_folder(file, self._listed_ns)


def _look(root: bytes) -> tuple[tuple[int, int] | None, str | None]:
    """Returns device and inode of a folder, None where there is none, and what is wrong with it."""
    try:
        info = os.stat(root)
    except FileNotFoundError:
        return None, "is not there any more"
    except OSError as error:
        return None, f"does not answer ({error.strerror})"
    problem = None
    try:
        with os.scandir(root) as entries:
            if next(entries, None) is None:
                problem = "is empty now"
    except PermissionError:  # what may not be listed may be read
        pass
    except OSError as error:
        problem = f"does not answer ({error.strerror})"
    return (info.st_dev, info.st_ino), problem


def _check_folder(file: bytes, listed_ns: int) -> None:
    """Raises `ClusterError` where a share was gone already when this process began.

    What remains of it is an empty folder. One from which files were removed after they were listed
    has changed since.
    """
    folder = os.path.dirname(file)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    if os.stat(folder).st_mtime_ns < listed_ns and _look(folder)[1] is not None:
        raise _vanished(folder, "is empty")


def _load_mounts() -> frozenset[tuple[bytes, bytes]]:
    """Returns where file systems are mounted, and the device of each."""
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return frozenset()
    fields = (line.split(b" ") for line in lines)
    return frozenset(
        (_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), point), device)
        for _, _, device, _, point, *_ in fields
    )


def _vanished(place: bytes, problem: str) -> ClusterError:
    return ClusterError(
        f"the storage of the input is gone: {escape_path(place)} {problem}; what is done is kept: "
        "bring it back, then run the same command again to continue"
    )
