"""Folders whose names are on the disk, so that no power cut takes back what was done in them."""

import errno
import os
from pathlib import Path

# Of file systems that cannot sync a folder, or of a folder that one may write to and not read.
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EACCES})


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Makes a folder with its parents; one that is there is left as it is.

    Args:
        folder: the folder.
        mode: its permissions; its parents get the user's default.

    Raises:
        OSError: the file system refused it.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(mode, parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the disk: what was made, replaced and removed there.

    Raises:
        OSError: the disk failed.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
