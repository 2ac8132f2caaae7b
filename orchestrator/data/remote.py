"""Folders behind an address, such as `s3://bucket/xrays`: listing and reading, all by Arrow.

S3, Google, Azure and HDFS go through Arrow's own file systems, which read credentials from the
places their vendors define; every other scheme goes through fsspec. What an address names is
compared by its text, and nothing behind it is a link. Only decoding and listing know of addresses:
to the tables they are roots like any folder.
"""

import time
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from orchestrator.data.limits import Limits, rejection
from orchestrator.data.listing import Found
from orchestrator.errors import ClusterError, DataError, SpecError

_ARROW_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
# Answers of object stores about one object, as Arrow's text has them: the object is at fault.
_REFUSALS = ("ACCESS_DENIED", "AccessDenied", "InvalidObjectState", "HTTP status 403")
_ATTEMPTS = 3
_PAUSE_S = 2.0


class RemoteFolder:
    """A folder behind an address.

    Args:
        filesystem: Arrow's.
        base: path of the folder in it.
        address: as the user wrote it, for messages.
    """

    def __init__(self, filesystem: fs.FileSystem, base: str, address: str) -> None:
        self.filesystem = filesystem
        self.base = base.rstrip("/")
        self._address = address

    def walk(self) -> Iterator[Found]:
        """Yields every file below the folder, one call to the store per folder, in no order.

        Raises:
            DataError: the folder itself is not there.
            ClusterError: the store does not answer.
        """
        folders = [self.base]
        while folders:
            folder = folders.pop()
            try:
                entries = self.filesystem.get_file_info(fs.FileSelector(folder))
            except FileNotFoundError as error:
                if folder != self.base:
                    continue  # removed meanwhile, with all its files
                raise DataError(
                    f"{self._address} does not exist; name a folder of X-rays"
                ) from error
            except (OSError, pa.ArrowException) as error:
                raise ClusterError(
                    f"cannot list {self._address}: {_reason(error)}; check the address, the "
                    "credentials and the network, then run the same command again"
                ) from error
            for entry in entries:
                if entry.type == fs.FileType.Directory:
                    folders.append(entry.path)
                elif entry.type == fs.FileType.File:
                    path = entry.path.removeprefix(self.base).lstrip("/").encode()
                    yield Found(path, entry.size, entry.mtime_ns)

    def read(self, path: bytes, limits: Limits) -> bytes:
        """Returns the bytes of a file.

        Args:
            path: relative to the folder.
            limits: `max_bytes` is checked before reading.

        Raises:
            ImageError: this file is missing, refused, empty or too large.
            ClusterError: the store failed several times; the file may be good.
        """
        full = f"{self.base}/{path.decode()}"
        for attempt in range(_ATTEMPTS):
            try:
                return self._read_once(full, limits)
            except FileNotFoundError:
                raise rejection("missing_file", "There is no such file") from None
            except (OSError, pa.ArrowException) as error:
                reason = _reason(error)
                if isinstance(error, PermissionError) or any(r in reason for r in _REFUSALS):
                    raise rejection("unreadable", "The store refused access to it") from None
            if attempt + 1 < _ATTEMPTS:
                time.sleep(_PAUSE_S)
        raise ClusterError(
            f"{self._address} does not give its files: {reason}; check the network and run the "
            "same command again to continue"
        )

    def _read_once(self, full: str, limits: Limits) -> bytes:
        with self.filesystem.open_input_file(full) as file:
            limits.check_bytes(file.size())
            data: bytes = file.read()
        limits.check_bytes(len(data))
        if not data:
            raise rejection("empty_file", "The file holds no bytes")
        return data


@lru_cache(maxsize=64)
def open_folder(address: str) -> RemoteFolder:
    """Returns the folder behind an address; nothing is asked of its server yet.

    Raises:
        SpecError: a scheme that nothing here can open, or a malformed address.
    """
    scheme = urlsplit(address).scheme
    try:
        if scheme in _ARROW_SCHEMES:
            filesystem, base = fs.FileSystem.from_uri(address)
        else:
            import fsspec

            theirs, base = fsspec.core.url_to_fs(address)
            filesystem = fs.PyFileSystem(fs.FSSpecHandler(theirs))
        if not base.strip("/"):
            raise ValueError("it names no folder")
    except ImportError as error:
        raise SpecError(f"{address}: {error}") from error
    except (ValueError, OSError, pa.ArrowException) as error:
        raise SpecError(
            f"cannot open {address}: {_reason(error)}; expected an address such as s3://bucket/folder"
        ) from error
    return RemoteFolder(filesystem, base, address)


def _reason(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
