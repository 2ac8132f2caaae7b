"""Writes that are whole or absent, and digests.

A file appears under its final name by a rename of a finished, flushed temporary file in the same
folder, so a reader never sees half of one. Temporary names start with `.tmp-`: readers of Arrow
data sets pass over them. A folder appears whole in the same way. When a write returns, it is on the
disk, name and content, so that no power cut can lose it and keep what was written after it.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.errors import ClusterError
from orchestrator.runs.folders import make_folder, sync_folder
from orchestrator.runs.lock import check_held


@contextlib.contextmanager
def atomic_path(final: Path, mode: int | None = None, *, keep: bool = False) -> Iterator[Path]:
    """Yields a temporary path that becomes `final` when the block ends without an exception.

    Args:
        final: the name the file gets; its folder is made.
        mode: its permissions from the first byte on, such as 0o600; None for the user's default.
        keep: a file that has the name by then stays, and this one goes.

    Yields:
        A path in the same folder; write the whole file there.

    Raises:
        ClusterError: the file system refused the write (full, read-only, not permitted).
        LockedError: another process has taken over the folder that this one held.
    """
    temporary = final.with_name(f".tmp-{secrets.token_hex(4)}-{final.name}")
    try:
        make_folder(final.parent)
        if mode is not None:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        yield temporary
        _sync_file(temporary)
        check_held(final)
        if keep:
            with contextlib.suppress(FileExistsError):
                final.hardlink_to(temporary)
        else:
            temporary.replace(final)
        sync_folder(final.parent)
    except OSError as error:
        raise _refused(final, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yields a new folder that becomes `final` when the block ends without an exception.

    Args:
        final: the name the folder gets; absent or empty until then.

    Yields:
        An empty folder beside it; write all files there.

    Raises:
        ClusterError: the file system refused the write (full, read-only, not permitted).
        LockedError: another process has taken over the folder that this one held.
    """
    temporary = final.with_name(f".tmp-{secrets.token_hex(4)}-{final.name}")
    try:
        make_folder(final.parent)
        temporary.mkdir()
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            if path.is_dir():
                sync_folder(path)
            elif not path.is_symlink():
                _sync_file(path)
        check_held(final)
        temporary.replace(final)
        sync_folder(final.parent)
    except OSError as error:
        raise _refused(final, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync_file(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


@contextlib.contextmanager
def write_errors(final: Path) -> Iterator[None]:
    """Turns the refusal of a write into a ClusterError that names a file or folder."""
    try:
        yield
    except OSError as error:
        raise _refused(final, error) from error


def _refused(final: Path, error: OSError) -> ClusterError:
    return ClusterError(
        f"cannot write {final}: {error.strerror or error}; free space or choose another output "
        "folder, then run the same command again to continue"
    )


def write_text(final: Path, text: str, mode: int | None = None) -> None:
    """Writes a text file, whole or not at all; `mode` as for `atomic_path`."""
    with atomic_path(final, mode) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(final: Path, value: Any, mode: int | None = None) -> None:
    """Writes a JSON file, whole or not at all; NaN is an error, since JSON has none."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    # Python holds the odd bytes of a file name that is no UTF-8 as surrogates.
    text = re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)
    write_text(final, text + "\n", mode)


def sha256_file(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Returns a SHA-256 over a JSON-able value, equal for equal values whatever their key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
