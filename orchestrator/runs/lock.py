"""One process at a time works in a folder.

The lock of a folder is a chain of numbered files in it, `_lock/000001.json` and so on: the highest
number holds it. A new owner links its whole record to the next number, which one process alone can
do, also on NFS and also where several take over from an owner that is gone. An owner is gone where
it ran on this machine and its process has ended; of another machine nobody can tell from here, so
a person removes the file of one that will not come back.

What this process holds is checked before each of its files appears there (`atomic.py`): a writer
that lost its folder, say after a pause of its machine, writes nothing more.
"""

import contextlib
import errno
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.errors import ClusterError, LockedError
from orchestrator.runs.folders import make_folder
from orchestrator.runs.machine import Machine, Process, this_process
from orchestrator.runs.wait import Wait

LOCK_NAME = "_lock"
_LOOK_S = 1.0
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)

_tokens: set[str] = set()  # of this process's holdings, from before each until after it
_held: dict[Path, str] = {}  # folders that this process holds, with the token of each


@dataclass(frozen=True)
class Owner:
    """Who holds a folder.

    Args:
        process: that works in it.
        token: of this one holding, random.
        since: ISO 8601, UTC.
    """

    process: Process
    token: str
    since: str

    def is_gone(self) -> bool:
        """Returns whether nobody holds the folder any more, for certain."""
        if self.process == this_process():  # it could not remove its file when it let go
            return self.token not in _tokens
        return self.process.is_gone()

    def __str__(self) -> str:
        return f"process {self.process.pid} on {self.process.machine.host}, since {self.since}"


@contextlib.contextmanager
def hold(folder: Path, wait: Wait | None = None) -> Iterator[None]:
    """Holds a folder for the length of the block.

    Args:
        folder: absolute; it is made.
        wait: for another process that holds it; None to refuse at once.

    Raises:
        LockedError: another process holds the folder.
        ClusterError: the wait was too long, or the file system refused a write.
    """
    token = secrets.token_hex(8)
    _tokens.add(token)
    try:
        _take(folder, token, wait)
        _held[folder] = token
        try:
            yield
        finally:
            del _held[folder]
    finally:
        try:
            _release(folder, token)
        finally:  # not before: a thread that takes over meanwhile would lose its file to this one
            _tokens.discard(token)


def _take(folder: Path, token: str, wait: Wait | None) -> None:
    """Takes a folder, at once or after a wait."""
    while True:
        try:
            taken = _claim(folder, token)
        except OSError as error:
            raise ClusterError(
                f"cannot lock {folder}: {error.strerror or error}; free space or choose another "
                "output folder, then run the same command again"
            ) from error
        if taken is None:
            break
        if wait is None:
            raise _refusal(folder, *taken)
        wait.go_on(f"{folder}, which is held by {taken[1] or 'an unknown process'}")
        time.sleep(_LOOK_S)


def check_held(path: Path) -> None:
    """Makes sure that this process still holds what it held of a path and the folders above it.

    Raises:
        LockedError: another process has taken one over.
    """
    if not _held:
        return
    for folder in (path.absolute(), *path.absolute().parents):
        token = _held.get(folder)
        if token is None:
            continue
        number = max(_numbers(folder), default=0)
        owner = _load(folder, number)
        if owner is None or owner.token != token:
            raise LockedError(
                f"{folder} is no longer held by this command (but by {owner or 'nobody'}), so it "
                "has stopped writing there"
            )


def find_owner(folder: Path) -> Owner | None:
    """Returns who works in a folder, None where nobody does or it cannot be told who."""
    number = max(_numbers(folder), default=0)
    owner = _load(folder, number)
    return None if owner is None or owner.is_gone() else owner


def _claim(folder: Path, token: str) -> tuple[Path, Owner | None] | None:
    """Takes a folder; returns the file and the record of who holds it where somebody does."""
    while True:
        try:
            make_folder(folder / LOCK_NAME)
        except FileExistsError:
            if (folder / LOCK_NAME).is_file():
                raise
            continue  # another one, that has just let go, has removed it since
        seen = _numbers(folder)
        last, owner = max(seen, default=0), None
        if last:
            owner = _load(folder, last)
            if not _file(folder, last).exists():
                continue  # it has just let go
            if owner is None or not owner.is_gone():
                return _file(folder, last), owner
        own = _file(folder, last + 1)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        record = json.dumps(asdict(Owner(this_process(), token, since)))
        try:
            if not _link(own, record, token):
                continue
        except FileNotFoundError:  # the last owner has just removed the chain
            continue
        # The numbers begin anew where one lets go: the last one may be of another by now.
        if _numbers(folder) - {last + 1} <= seen and _load(folder, last) in (owner, None):
            return None
        own.unlink(missing_ok=True)  # others have come and gone since the first look


def _link(own: Path, record: str, token: str) -> bool:
    """Makes a file of the chain, whole; returns False where it is there already."""
    temporary = own.with_name(f".tmp-{token}")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            handle.write(record)
            handle.flush()
            os.fsync(handle.fileno())  # a record without content would hold the folder for good
        os.link(temporary, own)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            os.close(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            return False
        temporary.replace(own)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _release(folder: Path, token: str) -> None:
    """Removes the chain, this process's file last; another's is left alone."""
    with contextlib.suppress(OSError):  # the next owner finds that this process let go, or ended
        numbers = sorted(_numbers(folder))
        owner = _load(folder, numbers[-1]) if numbers else None
        if owner is not None and owner.token == token:
            for number in numbers:
                _file(folder, number).unlink(missing_ok=True)
            # Of claimers that were killed; one that is at work finds its own gone and begins anew.
            for temporary in (folder / LOCK_NAME).glob(".tmp-*"):
                temporary.unlink(missing_ok=True)
            (folder / LOCK_NAME).rmdir()


def _file(folder: Path, number: int) -> Path:
    return folder / LOCK_NAME / f"{number:06d}.json"


def _numbers(folder: Path) -> set[int]:
    """The numbers of the chain."""
    try:
        names = os.listdir(folder / LOCK_NAME)  # noqa: PTH208 - names alone
    except (FileNotFoundError, NotADirectoryError):
        return set()
    stems = (name.removesuffix(".json") for name in names)
    return {int(stem) for stem in stems if stem.isdecimal()}


def _load(folder: Path, number: int) -> Owner | None:
    """The record of a file of the chain; None where it is gone or holds none."""
    try:
        stored = json.loads(_file(folder, number).read_text(encoding="utf-8"))
        process = stored["process"]
        machine = Machine(**process.pop("machine"))
        return Owner(Process(machine, **process), stored["token"], stored["since"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _refusal(folder: Path, file: Path, owner: Owner | None) -> LockedError:
    here = owner is not None and owner.process.machine == this_process().machine
    lost = "" if here else f", or remove {file} if that process is gone for good"
    return LockedError(
        f"{folder} is held by {owner or 'an unknown process'}; wait until it has ended, or add "
        f"--wait-for-lock{lost}"
    )
