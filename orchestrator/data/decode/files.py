"""Opens one input file without being led out of its root, and reads its bytes.

Nothing here opens a FIFO, a device or a link that leaves the root; what the bytes mean is
`images`'s business.
"""

import errno
import os
import stat
from collections import deque
from contextlib import ExitStack

from orchestrator.data.limits import Limits, rejection
from orchestrator.errors import ImageError

_MAX_LINKS = 40  # what Linux itself allows in one path
# O_PATH, where the system has it, needs no permission to list the folder.
_FOLDER_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CODE_OF_ERRNO = {
    errno.ENOENT: ("missing_file", "There is no such file"),
    errno.ENOTDIR: ("missing_file", "A part of the path is not a folder"),
    errno.EACCES: ("unreadable", "Permission denied"),
    errno.EPERM: ("unreadable", "Permission denied"),
    # O_NOFOLLOW met a link, or O_NONBLOCK a socket, that was a file a moment before
    errno.ELOOP: ("link_loop", "The path changed into a link while it was opened"),
    errno.ENXIO: ("not_a_file", "The path changed into a socket or a device while it was opened"),
}


def read_file(root: bytes, path: bytes, limits: Limits) -> bytes:
    """Returns the bytes of a regular file under `root`.

    Each part of the path is opened relative to the one before it without following links; a link
    is read and resolved here, and followed only while it stays under `root`. So neither a link
    nor a rename during the run leads elsewhere.

    Args:
        root: the input folder, absolute; it may itself be reached by a link.
        path: the file, relative to `root`.
        limits: `max_bytes` is checked before reading.

    Returns:
        The whole file, at least one byte.

    Raises:
        ImageError: the path leaves the root, is no regular file, cannot be read, is empty or too
            large.
    """
    error = None
    try:
        with ExitStack() as stack:
            return _read_regular(_open_under(stack, root, path), limits)
    except ImageError as caught:
        error = caught
    except OSError as caught:
        fallback = ("unreadable", f"The system could not read it ({_errno_name(caught)})")
        error = rejection(*_CODE_OF_ERRNO.get(caught.errno or 0, fallback))
    # Raised here, outside the handler, so that no system error hangs on it as context.
    raise error


def _errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "unknown error")


def _open_under(stack: ExitStack, root: bytes, path: bytes) -> int:
    """Returns a descriptor of the file at `path`, resolved part by part under `root`."""

    def opened(descriptor: int) -> int:
        stack.callback(os.close, descriptor)
        return descriptor

    if path.startswith(b"/") or b"\0" in path:
        raise rejection("link_outside_root", "The path is not relative to the input folder")
    roots = (root, os.path.realpath(root))
    folders = [opened(os.open(root, _FOLDER_FLAGS))]
    parts = deque(path.split(b"/"))
    num_links = 0
    while parts:
        part = parts.popleft()
        if part in (b"", b"."):
            continue
        if part == b"..":
            folders.pop()
            if not folders:
                raise rejection("link_outside_root", "The path leads out of the input folder")
            continue
        mode = os.stat(part, dir_fd=folders[-1], follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            num_links += 1
            if num_links > _MAX_LINKS:
                raise rejection("link_loop", f"More than {_MAX_LINKS} links in one path")
            target = os.readlink(part, dir_fd=folders[-1])
            if target.startswith(b"/"):
                target = _relative_to(roots, target)
                del folders[1:]
            parts.extendleft(reversed(target.split(b"/")))
        elif stat.S_ISDIR(mode):
            flags = _FOLDER_FLAGS | os.O_NOFOLLOW
            folders.append(opened(os.open(part, flags, dir_fd=folders[-1])))
        else:
            return opened(_open_regular(part, mode, folders[-1], is_last=not any(parts)))
    raise rejection("not_a_file", "A folder")


def _open_regular(name: bytes, mode: int, folder: int, *, is_last: bool) -> int:
    """Returns a descriptor of what is neither a link nor a folder, if it is a regular file."""
    if not stat.S_ISREG(mode):
        raise rejection("not_a_file", "A FIFO, a socket or a device")
    if not is_last:
        raise rejection("missing_file", "A part of the path is not a folder")
    return os.open(name, _FILE_FLAGS, dir_fd=folder)


def _relative_to(roots: tuple[bytes, ...], target: bytes) -> bytes:
    """Returns an absolute link target as a path relative to the root it must lie under."""
    for root in roots:
        prefix = root.rstrip(b"/") + b"/"
        if (target.rstrip(b"/") + b"/").startswith(prefix):
            return target[len(prefix) :]
    raise rejection("link_outside_root", "A link leads out of the input folder")


def _read_regular(descriptor: int, limits: Limits) -> bytes:
    """Returns what an open file holds, after checking what was really opened and its size."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise rejection("not_a_file", "A FIFO, a socket or a device")
    limits.check_bytes(found.st_size)
    blocks: list[bytes] = []
    num_bytes = 0
    # A file may grow while it is read: never hold more than one byte over the limit.
    while block := os.read(descriptor, min(found.st_size, limits.max_bytes - num_bytes) + 1):
        blocks.append(block)
        num_bytes += len(block)
        limits.check_bytes(num_bytes)
    if not blocks:
        raise rejection("empty_file", "The file holds no bytes")
    return b"".join(blocks)
