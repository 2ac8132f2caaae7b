"""Folders behind an address, such as `s3://bucket/xrays`: listing and reading, all by Arrow.

S3, Google, Azure and HDFS go through Arrow's own file systems, which read credentials from the
places their vendors define; every other scheme goes through fsspec. What an address names is
compared by its text, and nothing behind it is a link. Only decoding and listing know of addresses:
to the tables they are roots like any folder.
"""

import contextlib
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Protocol

import pyarrow as pa
from pyarrow import fs

from orchestrator.data.limits import Limits, rejection
from orchestrator.data.listing.ignored import Ignoring
from orchestrator.data.listing.listing import Found
from orchestrator.errors import ClusterError, DataError, SpecError
from orchestrator.runs.outputs import MOST_ENTRIES

_ARROW_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
# Answers of object stores about one object, as Arrow's text has them: the object is at fault.
_REFUSALS = ("ACCESS_DENIED", "AccessDenied", "InvalidObjectState", "HTTP status 403")
_ATTEMPTS = 3
_PAUSE_S = 2.0


class Store(Protocol):
    """What is needed of a file system; errors are as its library raises them."""

    def list_folder(self, folder: str) -> list[tuple[str, bool, int | None, int | None]]:
        """Returns path, whether it is a folder, size in bytes and mtime in ns of each entry."""

    def read(self, path: str, limits: Limits) -> bytes:
        """Returns a file's bytes once its size is within the limits."""

    def write(self, path: str, data: bytes) -> None:
        """Writes a file, and the folders above it where the store has such."""

    def remove(self, path: str) -> None:
        """Removes a file; one that is not there is no error."""


class _ArrowStore:
    """One of Arrow's own file systems."""

    def __init__(self, filesystem: fs.FileSystem) -> None:
        self._filesystem = filesystem

    def list_folder(self, folder: str) -> list[tuple[str, bool, int | None, int | None]]:
        entries = self._filesystem.get_file_info(fs.FileSelector(folder))
        return [
            (entry.path, entry.type == fs.FileType.Directory, entry.size, entry.mtime_ns)
            for entry in entries
        ]

    def read(self, path: str, limits: Limits) -> bytes:
        with self._filesystem.open_input_file(path) as file:
            limits.check_bytes(file.size())
            data: bytes = file.read()
        return data

    def write(self, path: str, data: bytes) -> None:
        if not isinstance(self._filesystem, fs.S3FileSystem):  # there it would make empty objects
            self._filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        with self._filesystem.open_output_stream(path) as file:
            file.write(data)

    def remove(self, path: str) -> None:
        if self._filesystem.get_file_info(path).type == fs.FileType.File:
            self._filesystem.delete_file(path)


class _FsspecStore:
    """One of fsspec's; Arrow's adapter would take a failing network for a missing file."""

    def __init__(self, filesystem: Any) -> None:
        self._filesystem = filesystem

    def list_folder(self, folder: str) -> list[tuple[str, bool, int | None, int | None]]:
        entries = self._filesystem.ls(folder, detail=True)
        # Times are told in many ways and by few; without one a file is known by its content.
        return [(e["name"], e["type"] == "directory", e["size"], None) for e in entries]

    def read(self, path: str, limits: Limits) -> bytes:
        limits.check_bytes(self._filesystem.info(path)["size"] or 0)
        data: bytes = self._filesystem.cat_file(path)
        return data

    def write(self, path: str, data: bytes) -> None:
        self._filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._filesystem.pipe_file(path, data)

    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._filesystem.rm_file(path)


class RemoteFolder:
    """A folder behind an address.

    Args:
        store: where it is.
        base: path of the folder there.
        address: as the user wrote it, for messages.
    """

    def __init__(self, store: Store, base: str, address: str) -> None:
        self._store = store
        self._base = base.rstrip("/")
        self._address = address

    def below(self, path: str) -> "RemoteFolder":
        """Returns a folder below this one; nothing is asked of the server yet."""
        return RemoteFolder(self._store, f"{self._base}/{path}", self._address)

    def walk(self, ignoring: Ignoring | None = None) -> Iterator[Found]:
        """Yields every file below the folder, one call to the store per folder, in no order.

        Args:
            ignoring: what to leave out; nothing where not given.

        Raises:
            DataError: the folder itself is not there.
            ClusterError: the store does not answer.
        """
        folders = [self._base]
        while folders:
            folder = folders.pop()
            relative = folder.removeprefix(self._base).lstrip("/").encode()
            try:
                entries = self._store.list_folder(folder)
            except (FileNotFoundError, NotADirectoryError) as error:
                if not relative:
                    raise DataError(
                        f"{self._address} does not exist or is not a folder; name a folder of "
                        "X-rays"
                    ) from error
                found = rejection("unlistable_folder", "The folder was gone when it was listed")
                yield Found(relative, None, None, found.code, found.message)
                continue
            except (OSError, pa.ArrowException) as error:
                raise ClusterError(
                    f"cannot list {self._address}: {_reason(error)}; check the address, the "
                    "credentials and the network, then run the same command again"
                ) from error
            if ignoring is not None and len(entries) <= MOST_ENTRIES:
                names = [_base_name(path) for path, *_ in entries]
                if ignoring.leaves_out_folder(names):
                    continue
            for path, is_folder, size_bytes, mtime_ns in entries:
                if ignoring is not None and ignoring.leaves_out(_base_name(path), is_folder):
                    continue
                if is_folder:
                    folders.append(path.rstrip("/"))
                else:
                    name = path.removeprefix(self._base).lstrip("/").encode()
                    yield Found(name, size_bytes, mtime_ns)

    def write(self, path: bytes, data: bytes) -> None:
        """Writes a file; errors are as the store's library raises them.

        Args:
            path: relative to the folder.
            data: the whole file.
        """
        self._store.write(f"{self._base}/{path.decode()}", data)

    def remove(self, path: bytes) -> None:
        """Removes a file if it is there; errors are as the store's library raises them."""
        self._store.remove(f"{self._base}/{path.decode()}")

    def read(self, path: bytes, limits: Limits) -> bytes:
        """Returns the bytes of a file.

        Args:
            path: relative to the folder.
            limits: `max_bytes` is checked before reading.

        Raises:
            ImageError: this file is missing, refused, empty or too large.
            ClusterError: the store failed several times; the file may be good.
        """
        for attempt in range(_ATTEMPTS):
            try:
                data = self._store.read(f"{self._base}/{path.decode()}", limits)
            except FileNotFoundError:
                raise rejection("missing_file", "There is no such file") from None
            except (OSError, pa.ArrowException) as error:
                reason = _reason(error)
                if isinstance(error, PermissionError) or any(r in reason for r in _REFUSALS):
                    raise rejection("unreadable", "The store refused access to it") from None
            else:
                limits.check_bytes(len(data))
                if not data:
                    raise rejection("empty_file", "The file holds no bytes")
                return data
            if attempt + 1 < _ATTEMPTS:
                time.sleep(_PAUSE_S)
        raise ClusterError(
            f"{self._address} does not give its files: {reason}; check the network and run the "
            "same command again to continue"
        )


@lru_cache(maxsize=64)
def open_folder(address: str) -> RemoteFolder:
    """Returns the folder behind an address; nothing is asked of its server yet.

    Raises:
        SpecError: a scheme that nothing here can open, or a malformed address.
    """
    try:
        filesystem, base = _find_filesystem(address)
        if not base.strip("/"):
            raise ValueError("it names no folder")
    except ImportError as error:
        raise SpecError(f"{address}: {error}") from error
    except (ValueError, OSError, pa.ArrowException) as error:
        raise SpecError(
            f"cannot open {address}: {_reason(error)}; expected an address such as "
            "s3://bucket/folder"
        ) from error
    if isinstance(filesystem, fs.FileSystem):
        return RemoteFolder(_ArrowStore(filesystem), base, address)
    return RemoteFolder(_FsspecStore(filesystem), base, address)


def open_filesystem(address: str) -> tuple[fs.FileSystem, str]:
    """Returns an address as Arrow's readers of tables take it: a file system, and a path there.

    Raises:
        SpecError: as `open_folder`.
    """
    open_folder(address)
    filesystem, base = _find_filesystem(address)
    if not isinstance(filesystem, fs.FileSystem):
        filesystem = fs.PyFileSystem(fs.FSSpecHandler(filesystem))
    return filesystem, base.rstrip("/")


def _find_filesystem(address: str) -> tuple[Any, str]:
    """Returns the library's own file system behind an address, and the path there."""
    if address.partition("://")[0].lower() in _ARROW_SCHEMES:
        found: tuple[Any, str] = fs.FileSystem.from_uri(address)
        return found
    import fsspec

    filesystem, base = fsspec.core.url_to_fs(address)
    return filesystem, base


def _base_name(path: str) -> bytes:
    """Returns the last part of a path of a store."""
    return path.rstrip("/").rpartition("/")[2].encode()


def _reason(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
