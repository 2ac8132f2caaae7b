"""Power cuts: records what a block writes in a folder, and gives every state a cut could leave.

The model is harsher than any file system. What a file holds is lost unless the file was synced, and
so is every change of a folder's names, in any order, unless the folder was synced since. Writes are
seen when the next change is: where Arrow or SQLite writes, what the file holds at its sync counts.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# A folder's names, or what a file holds, for each path below the root; folders are None.
Tree = dict[str, bytes | None]


@dataclass
class _File:
    """A file: what it holds now, and what of that is on the disk; None for nothing."""

    now: bytes
    synced: bytes | None = None


@dataclass
class _Folder:
    """A folder: the names that are on the disk. What is in it now is in its operations."""

    names: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Change:
    """One change of names that a cut keeps whole or loses: (folder, name, what it is now)."""

    entries: tuple[tuple[_Folder, str, "_File | _Folder | None"], ...]
    shown: str


@dataclass(frozen=True)
class Moment:
    """A moment at which the power may fail.

    Args:
        last: the operation before it.
        trees: what the disk may hold then, each once.
    """

    last: str
    trees: list[Tree]


class Recording:
    """What was written, and what was synced of it.

    Args:
        root: the folder that is watched; what it holds now is on the disk.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.moments: list[Moment] = []
        self._disk = _Folder()
        self._pending: list[_Change] = []
        self._files: list[_File] = []
        self._seen: set[bytes] = set()
        self._scan()
        for file in self._files:
            file.synced = file.now
        self._commit(lambda change: True)

    # --- the model ------------------------------------------------------------------------------

    def _now(self) -> dict[int, dict[str, Any]]:
        """Names of each folder as they are now."""
        return _apply(self._pending)

    def _find(self, path: Path) -> Any:
        """The file or folder of a path, None where it is not there."""
        found: Any = self._disk
        changed = self._now()
        for part in path.relative_to(self.root).parts:
            found = _names(found, changed).get(part)
            if not isinstance(found, _Folder):
                break
        return found

    def _set(self, shown: str, *entries: tuple[Path, Any]) -> None:
        """Changes names; each has its folder."""
        self._pending.append(
            _Change(
                tuple((self._find(path.parent), path.name, what) for path, what in entries), shown
            )
        )

    def _commit(self, chosen: Callable[[_Change], bool]) -> None:
        for change in [change for change in self._pending if chosen(change)]:
            for folder, name, what in change.entries:
                _put(folder.names, name, what)
            self._pending.remove(change)

    def _scan(self) -> None:
        """Takes in what was written since, by whatever way."""
        for name, _, names in os.walk(self.root):
            folder = Path(name)
            if self._find(folder) is None:
                self._set(f"mkdir {folder.name}", (folder, _Folder()))
            for each in names:
                path = folder / each
                content, known = path.read_bytes(), self._find(path)
                if known is None:
                    known = _File(content)
                    self._files.append(known)
                    self._set(f"create {each}", (path, known))
                known.now = content

    def _watches(self, path: Path) -> bool:
        return path.is_relative_to(self.root)

    # --- what the product does ------------------------------------------------------------------

    def before(self) -> None:
        """Takes in what was written since the last operation."""
        self._scan()

    def moved(self, source: Path, target: Path) -> None:
        if self._watches(target):
            self._set(f"rename {target.name}", (source, None), (target, self._find(source)))

    def linked(self, source: Path, target: Path) -> None:
        if self._watches(target):
            self._set(f"link {target.name}", (target, self._find(source)))

    def made(self, path: Path) -> None:
        if self._watches(path) and self._find(path) is None:
            self._set(f"mkdir {path.name}", (path, _Folder()))

    def removed(self, path: Path) -> None:
        if self._watches(path):
            self._set(f"remove {path.name}", (path, None))

    def synced(self, path: Path) -> None:
        if not self._watches(path):
            return
        found = self._find(path)
        if isinstance(found, _Folder):
            self._commit(lambda change: any(folder is found for folder, *_ in change.entries))
        elif found is not None:
            found.synced = found.now

    # --- what a cut leaves ----------------------------------------------------------------------

    def cut(self, last: str) -> None:
        """Keeps the states that a cut at this moment may leave, those that are new."""
        count = len(self._pending)
        everything = frozenset(range(count))
        chosen = {frozenset(), everything}
        chosen |= {everything - {number} for number in range(count)}
        chosen |= {frozenset({number}) for number in range(count)}
        trees = []
        for kept in sorted(chosen, key=sorted):
            changed = _apply([self._pending[number] for number in sorted(kept)])
            for lost in (False, True):
                tree: Tree = {}
                _write_out(self._disk, "", changed, tree, lost=lost)
                known = hashlib.sha256(repr(sorted(tree.items())).encode()).digest()
                if known not in self._seen:
                    self._seen.add(known)
                    trees.append(tree)
        self.moments.append(Moment(last, trees))


def _apply(changes: list[_Change]) -> dict[int, dict[str, Any]]:
    """Names of each changed folder after some changes, by the folder's id."""
    changed: dict[int, dict[str, Any]] = {}
    for change in changes:
        for folder, name, what in change.entries:
            _put(changed.setdefault(id(folder), dict(folder.names)), name, what)
    return changed


def _names(folder: _Folder, changed: dict[int, dict[str, Any]]) -> dict[str, Any]:
    return changed.get(id(folder), folder.names)


def _put(names: dict[str, Any], name: str, what: Any) -> None:
    if what is None:
        names.pop(name, None)
    else:
        names[name] = what


def _write_out(
    folder: _Folder, where: str, changed: dict[int, dict[str, Any]], tree: Tree, *, lost: bool
) -> None:
    for name, what in _names(folder, changed).items():
        path = f"{where}{name}"
        if isinstance(what, _Folder):
            tree[path] = None
            _write_out(what, path + "/", changed, tree, lost=lost)
        else:
            # Of content that was not synced, nothing or all may be there.
            tree[path] = (what.synced or b"") if lost else what.now


def put(tree: Tree, root: Path) -> None:
    """Makes a folder hold what the disk held after a cut, and nothing else."""
    for path in root.iterdir():  # the folder itself may be somebody's working directory
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, content in tree.items():
        path = root / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@contextmanager
def recorded(root: Path) -> Iterator[Recording]:
    """Yields the recording of what a block does in a folder."""
    recording = Recording(root)

    def full(path: Any, folder: int | None) -> Path:
        path = Path(os.fsdecode(path))
        if folder is not None:
            path = Path(f"/proc/self/fd/{folder}").readlink() / path
        return Path(os.path.abspath(path))  # noqa: PTH100 - a link itself is renamed or removed

    def watched(name: str, told: Callable[..., None], paths: int) -> Callable[..., Any]:
        own = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            folders = [kwargs.get("dir_fd"), None] if paths == 1 else [None, None]
            given = [full(args[n], folders[n]) for n in range(paths)]
            recording.before()
            result = own(*args, **kwargs)
            told(*given)
            recording.cut(f"{name} {given[-1].name}")
            return result

        return call

    def fsync(handle: int) -> None:
        recording.before()
        path = Path(f"/proc/self/fd/{handle}").readlink()
        recording.synced(path)
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        recording.cut(f"sync {kind} {path.name}")

    with pytest.MonkeyPatch.context() as patch:
        for name, told, paths in (
            ("replace", recording.moved, 2),
            ("rename", recording.moved, 2),
            ("link", recording.linked, 2),
            ("mkdir", recording.made, 1),
            ("unlink", recording.removed, 1),
            ("remove", recording.removed, 1),
            ("rmdir", recording.removed, 1),
        ):
            patch.setattr(os, name, watched(name, told, paths))
        patch.setattr(os, "fsync", fsync)
        yield recording
        recording.before()
        recording.cut("the end")
