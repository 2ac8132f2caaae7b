"""Finds the scoring runs in a folder or at an address, with what one table over them needs."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from orchestrator.config.addresses import is_address
from orchestrator.data.listing.addresses import check_address
from orchestrator.data.schema import ROOTS_KEY, escape_path
from orchestrator.errors import ClusterError, DataError, NewerRunError, describe_newer
from orchestrator.runs.run_dir import SCHEMA_VERSION, RunDir

Entries = dict[str, fs.FileInfo]  # of a folder, by name


@dataclass(frozen=True)
class FoundRun:
    """A finished scoring run.

    Attributes:
        name: of its folder.
        ended: when it ended, UTC.
        filesystem: that its files are on.
        roots: its inputs as text; its tables name them by number.
        report: its report.json.
        predictions: paths of its predictions, one file a shard.
        rejected: path of its rejected rows; None where it has none.
        known: path of what it knew from other names and states; None where it has none.
    """

    name: str
    ended: datetime
    filesystem: fs.FileSystem
    roots: list[str]
    report: dict[str, Any]
    predictions: list[str]
    rejected: str | None
    known: str | None

    def schema_of(self, path: str) -> pa.Schema:
        """Returns the columns of one of its tables; raises DataError where it is damaged."""
        try:
            with self.filesystem.open_input_file(path) as file:
                return pq.read_schema(file).remove_metadata()
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, error) from error

    def load(self, path: str, columns: list[str]) -> pa.Table:
        """Returns columns of one of its small tables; raises DataError where it is damaged."""
        try:
            with self.filesystem.open_input_file(path) as file:
                return pq.read_table(file, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, error) from error


def find_runs_at(place: str) -> tuple[list[FoundRun], list[str]]:
    """Returns the finished scoring runs of a folder of runs, or that folder as the one run.

    Args:
        place: a folder, or an address such as `s3://bucket/predictions`.

    Returns:
        The finished ones, oldest first, and the names of the unfinished ones.

    Raises:
        SpecError: an address that cannot be used.
        NewerRunError: a newer version of the program has made one.
        DataError: no finished scoring run there, or one that cannot be read.
        ClusterError: the store does not answer.
    """
    filesystem, base = _open(place)
    entries = _list(filesystem, base, place)
    name = base.rpartition("/")[2]
    folders = {name: (base, entries)}
    if not _is_scoring(entries):
        below = [e for e in entries.values() if e.type == fs.FileType.Directory]
        inside = [e for e in below if not e.base_name.startswith((".", "_"))]
        folders = {e.base_name: (e.path, _list(filesystem, e.path, place)) for e in inside}
    scoring = {n: found for n, found in folders.items() if _is_scoring(found[1])}
    marked = RunDir(Path()).success.name
    unfinished = sorted(n for n, (_, found) in scoring.items() if marked not in found)
    runs = [
        _load(filesystem, path, n, found, place)
        for n, (path, found) in scoring.items()
        if marked in found
    ]
    if not runs:
        also = f", {len(unfinished)} unfinished" if unfinished else ""
        raise DataError(
            f"{place} holds no finished scoring run{also}; name the folder of one, as "
            "`orchestrator score` prints it, or a folder of such folders"
        )
    return sorted(runs, key=lambda run: (run.ended, run.name)), unfinished


def _open(place: str) -> tuple[fs.FileSystem, str]:
    if is_address(place):
        check_address(place)
        from orchestrator.data.listing.remote import open_filesystem

        return open_filesystem(place)
    folder = os.path.realpath(place)
    if not os.path.isdir(folder):  # noqa: PTH112
        raise DataError(f"{place} is not a folder; name a scoring run or a folder of runs")
    if not folder.isprintable():
        shown = escape_path(os.fsencode(folder))
        raise DataError(f"{shown} is not UTF-8, and SQL cannot open it; rename the folder")
    return fs.LocalFileSystem(), folder


def _list(filesystem: fs.FileSystem, folder: str, place: str) -> Entries:
    try:
        return {e.base_name: e for e in filesystem.get_file_info(fs.FileSelector(folder))}
    except FileNotFoundError:
        raise DataError(f"{place} is not a folder; name a folder of scoring runs") from None
    except (OSError, pa.ArrowException) as error:
        raise ClusterError(
            f"cannot list {place}: {str(error).strip().splitlines()[0]}; check the address, the "
            "credentials and the network, then run the same command again"
        ) from error


def _is_scoring(entries: Entries) -> bool:
    """Whether a folder's entries are those of a scoring run, finished or at work."""
    names = RunDir(Path())
    return any(path.name in entries for path in (names.predictions, names.shards, names.listing))


def _load(
    filesystem: fs.FileSystem, folder: str, name: str, entries: Entries, place: str
) -> FoundRun:
    """Returns a finished run with its small files read."""
    names = RunDir(Path())
    status = _load_json(filesystem, entries.get(names.status.name)) or {}
    version = status.get("schema_version", 1)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NewerRunError(describe_newer(folder, version, SCHEMA_VERSION))
    report = _load_json(filesystem, entries.get(names.report_json.name)) or {}
    parts = _list(filesystem, f"{folder}/{names.predictions.name}", place)

    def path_of(table: Path) -> str | None:
        return f"{folder}/{table.name}" if table.name in entries else None

    manifest = f"{folder}/{names.manifest.name}"
    try:
        with filesystem.open_input_file(manifest) as file:
            roots = json.loads(pq.read_schema(file).metadata[ROOTS_KEY])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise _unreadable(manifest, error) from error
    # A run at an address has no status; it ended as its mark of success appeared there.
    told = status.get("succeeded_at") or entries[names.success.name].mtime
    told = told or report.get("run", {}).get("started_at") or 0
    return FoundRun(
        name,
        _as_utc(told),
        filesystem,
        roots,
        report,
        sorted(e.path for n, e in parts.items() if n.endswith(".parquet") and n[0] not in "._"),
        path_of(names.rejected),
        path_of(names.known),
    )


def _load_json(filesystem: fs.FileSystem, entry: fs.FileInfo | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    try:
        with filesystem.open_input_file(entry.path) as file:
            found = json.loads(file.read())
    except (OSError, pa.ArrowException, ValueError) as error:
        raise _unreadable(entry.path, error) from error
    return found if isinstance(found, dict) else None


def _as_utc(told: Any) -> datetime:
    if isinstance(told, str):
        told = datetime.fromisoformat(told)
    elif not isinstance(told, datetime):
        told = datetime.fromtimestamp(told, UTC)
    found: datetime = told.astimezone(UTC)
    return found


def _unreadable(path: str, error: Exception) -> DataError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return DataError(
        f"{path} cannot be read ({reason}); move its run out of the folder, or score its images "
        "again"
    )
