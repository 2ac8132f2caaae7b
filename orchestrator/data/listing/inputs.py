"""Lists the inputs of a run: folders, files or one table of paths -> rows of the manifest.

Folders are walked in `listing.py`, tables read in `tables.py`, rows are described in `described.py`
and sorted in `listed_rows.py`; the manifest they become is `manifest.py`'s.

Over 300 lines: every kind of input, told apart in one place.
"""

# pathlib has no paths of bytes
# ruff: noqa: PTH100, PTH110, PTH112, PTH118, PTH120
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path

from orchestrator.config.addresses import is_address, is_archive
from orchestrator.data.listing.addresses import check_address, open_images
from orchestrator.data.listing.described import describe, folder_reader
from orchestrator.data.listing.ignored import OTHER_NAMES, Ignoring
from orchestrator.data.listing.listed_rows import (
    ListedFile,
    add_rows,
    check_unique,
    drop_other_names,
    find_link_targets,
    merge_rows,
    read_rows,
    store_rows,
)
from orchestrator.data.listing.listing import Found, Known, Listing
from orchestrator.data.listing.notes import Notes
from orchestrator.data.listing.options import ListingOptions
from orchestrator.data.listing.remote_tables import (
    RemoteListing,
    fetch_table,
    folder_of,
    is_remote_table,
)
from orchestrator.data.listing.survey import Survey
from orchestrator.data.listing.table_files import TableFiles
from orchestrator.data.listing.tables import InputTable, is_table
from orchestrator.data.roots import STORAGE_CODES, Roots
from orchestrator.data.schema import escape_path
from orchestrator.errors import DataError, SpecError

# Present in the metadata of a manifest whose splits were written by hand in a table's column.
SPLIT_COLUMN_KEY = b"orchestrator.split_column"

_SYSTEM_ROOT = b"/"
_EXPECTED = (
    "expected chest X-rays: check the path, and that its share is mounted (`orchestrator score "
    "--allow-empty` accepts an empty input)"
)
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")

Row = tuple[ListedFile, bytes | None]  # with `Found.same_as`


@dataclass(frozen=True)
class Inputs:
    """Every file found, sorted, on disk.

    Attributes:
        roots: absolute paths or addresses; `ListedFile.root` indexes them. Paths that a table
            gave as absolute and that lie outside its folder are relative to the root `/`.
        metadata: of the manifest's schema; `SPLIT_COLUMN_KEY` where a table has that column, the
            options and the notes.
        num_rows: files found but for those left out as known; 0 only where all are, or the options
            allow that.
        notes: what was left out or not understood.
    """

    roots: tuple[bytes, ...]
    metadata: dict[bytes, bytes]
    num_rows: int
    _database: sqlite3.Connection
    notes: Notes = field(default_factory=Notes)

    def rows(self) -> Iterator[ListedFile]:
        """Yields the files in the order of (root, path bytes)."""
        yield from read_rows(self._database)


def list_inputs(
    sources: Sequence[str | Path],
    options: ListingOptions | None = None,
    known: Known | None = None,
) -> Inputs:
    """Finds every file of some folders, some files, or every file of one table of paths.

    A folder gives one row per file found below it, whatever the file is, but for what
    `ignored.py` leaves out; what cannot be read gets a code. Labels and splits come from class
    folders (NORMAL, PNEUMONIA) and split folders (train, val, test and what `split_of_name` takes
    for these) in any case, at any depth below the root (see `read_folders`); a file under none of
    these has no label. A file of several names has one row. A table gives one row per row; a
    column it lacks is filled from the path in the same way, an empty cell stays empty.

    Args:
        sources: folders, addresses of folders and files that do not hold one another, or one
            table, which an address may name, with columns `path[,label][,patient_id][,split]` or a
            public data set's.
        options: what else the user says of them.
        known: leaves files of folders out before they take room on disk; those of a table, those
            that the user names and those of several names stay.

    Raises:
        SpecError: an address that cannot be used, or a kind of table where there is none.
        DataError: no such path, nothing in one of them, a folder within another, a bad value in the
            table (named by line), a path that the table lists twice, or none of its files is there.
        ClusterError: the temporary folder is full, or a store or a share does not answer.
    """
    options = options or ListingOptions()
    check_inputs(sources)
    if len(sources) == 1 and is_remote_table(str(sources[0])):
        return _list_remote_table(str(sources[0]), options)
    if len(sources) == 1 and not _is_folder(sources[0]) and is_table(sources[0]):
        table = InputTable(Path(sources[0]), options)
        folder = os.path.dirname(os.path.abspath(os.fsencode(sources[0])))
        return _list_table(table, folder, _files_of(table, folder), options)
    if options.table is not None:
        raise SpecError(
            f"table {options.table} says whose columns a table has, and {_shown(sources[0])} is no "
            "table; name the file, such as labels.csv"
        )
    folders = [source for source in sources if _is_folder(source)]
    files = [os.path.abspath(os.fsencode(source)) for source in sources if not _is_folder(source)]
    roots = tuple(map(_root, folders))
    if files:
        roots += (os.path.commonpath([os.path.dirname(file) for file in files]), _SYSTEM_ROOT)
    seen = Roots(roots)
    notes, ignoring = Notes(), Ignoring(include_hidden=options.include_hidden)
    # Patients are told apart by file names within one root only: two archives number alike.
    scoped = len(folders) + bool(files) > 1

    surveys = [Survey(options.labels) for _ in folders]

    def rows() -> Iterator[Row]:
        for index, survey in enumerate(surveys):
            scope = f"input{index}/" if scoped else ""
            yield from _list_folder(roots[index], index, scope, options, ignoring, survey, known)
        scope = f"input{len(folders)}/" if scoped else ""
        yield from _list_files(files, roots, len(folders), scope, options)

    def forget(index: int, raw: bytes, size_bytes: int | None) -> None:
        ignoring.counts[OTHER_NAMES] += 1
        surveys[index].folder(os.path.dirname(raw)).remove(size_bytes)

    database = store_rows(rows())
    _check_storage(database, seen)
    empty = [folders[index] for index, survey in enumerate(surveys) if survey.is_empty]
    if known is not None:
        add_rows(database, list(_known_targets(database, roots, ignoring, known, scoped, options)))
    drop_other_names(database, forget)
    for survey in surveys:
        survey.note(notes)
    notes.ignored = dict(sorted(ignoring.counts.items(), key=lambda item: (-item[1], item[0])))
    num_rows = _count(database)
    if empty and not options.allow_empty:
        shown = ", ".join(map(_shown, empty))
        but = f" ({'; '.join(notes.lines())})" if notes.ignored and not num_rows else ""
        if all(map(is_archive, map(str, empty))):
            raise DataError(
                f"the archive finds no image for {shown}{but}; check the filters (`orchestrator "
                "score --allow-empty` accepts an empty input)"
            )
        raise DataError(f"the folder {shown} holds no files{but}; {_EXPECTED}")
    last = database.execute("SELECT coalesce(max(root), 0) FROM listed").fetchone()[0]
    metadata = options.metadata() | notes.metadata()
    return Inputs(roots[: max(last + 1, len(folders))], metadata, num_rows, database, notes)


def check_inputs(sources: Sequence[str | Path]) -> None:
    """Raises where inputs are not there, cannot be used or would give one file twice.

    Raises:
        SpecError: an address that cannot be used; its server is not asked.
        DataError: no such path, several inputs with a table among them, or one within another.
    """
    for source in sources:
        if is_address(str(source)):
            if is_remote_table(str(source)) and len(sources) > 1:
                raise DataError(f"{source} is not a folder; expected one table, or folders")
            check_address(str(source), is_input=True)
            continue
        path = os.fsencode(source)
        if not os.path.exists(path):
            raise DataError(
                f"{_shown(source)} does not exist; name a folder of X-rays, a CSV or Parquet table "
                "with a `path` column, or an ingested data set"
            )
        if len(sources) > 1 and is_table(source) and not os.path.isdir(path):
            raise DataError(f"{_shown(source)} is not a folder; expected one table, or folders")
        if str(source).lower().endswith(_ARCHIVES) and not os.path.isdir(path):
            raise DataError(f"{_shown(source)} is an archive; unpack it and name its folder")
    # Every path under /a/ sorts between /a/ and the next folder that is not under it.
    real = sorted((_real(source), _shown(source)) for source in sources)
    for (outer, outer_shown), (inner, inner_shown) in pairwise(real):
        if inner == outer or (outer.endswith(b"/") and inner.startswith(outer)):
            raise DataError(
                f"the input {inner_shown} lies in the input {outer_shown}, so its files would be "
                "found twice; leave one of them out"
            )


def _list_folder(
    root: bytes,
    index: int,
    scope: str,
    options: ListingOptions,
    ignoring: Ignoring,
    survey: Survey,
    known: Known | None,
) -> Iterator[Row]:
    """Yields the rows of a folder."""
    address = os.fsdecode(root)
    listing = open_images(address) if is_address(address) else Listing(root)
    files = survey.tally(listing.walk(ignoring))
    if known is not None:
        files = known.leave_out_found(index, root, files)
    read_folder = folder_reader(options)
    for found in files:
        folder, name = os.path.split(found.path)
        yield describe(index, found, name, read_folder(folder), {}, None, scope), found.same_as


def _known_targets(
    database: sqlite3.Connection,
    roots: Sequence[bytes],
    ignoring: Ignoring,
    known: Known,
    scoped: bool,
    options: ListingOptions,
) -> Iterator[Row]:
    """Yields rows of files that were left out though links of the listing lead to them.

    Which of a file's names stays is decided among all of them.
    """
    read_folder = folder_reader(options)
    for index, targets in groupby(find_link_targets(database), lambda target: target[0]):
        found = (Found(*target[1:]) for target in targets if ignoring.is_input(target[1]))
        scope = f"input{index}/" if scoped else ""
        for file in known.take_back(index, roots[index], found):
            folder, name = os.path.split(file.path)
            yield describe(index, file, name, read_folder(folder), {}, None, scope), None


def _list_files(
    files: Sequence[bytes],
    roots: Sequence[bytes],
    index: int,
    scope: str,
    options: ListingOptions,
) -> Iterator[Row]:
    """Yields the rows of files that the user named, under the root `index` and, after it, `/`."""
    if not files:
        return
    listing, everywhere = Listing(roots[index]), Listing(_SYSTEM_ROOT)
    read_folder = folder_reader(options)
    for file in files:
        root = index
        found = listing.look_up(os.path.relpath(file, roots[index]))
        if found.code == "link_outside_root":  # the user named this very link
            root, found = index + 1, everywhere.look_up(file[1:])
        folder, name = os.path.split(os.path.relpath(file, roots[index]))
        yield describe(root, found, name, read_folder(folder), {}, None, scope), None


def _list_remote_table(address: str, options: ListingOptions) -> Inputs:
    folder = folder_of(address)[0]
    own = os.path.normpath(os.fsencode(folder.partition("?")[0]))  # as paths are normalised
    with fetch_table(address) as path:
        table = InputTable(path, options, own)
        files = _files_of(table, own, RemoteListing(folder))
        return _list_table(table, os.fsencode(folder), files, options)


def _files_of(table: InputTable, folder: bytes, remote: RemoteListing | None = None) -> TableFiles:
    return TableFiles(
        folder,
        by_name=table.public is not None and table.public.by_name,
        of_folders=table.public is not None and table.public.of_folders,
        remote=remote,
    )


def _list_table(
    table: InputTable, folder: bytes, files: TableFiles, options: ListingOptions
) -> Inputs:
    read_folder = folder_reader(options)
    seen = Roots([folder, _SYSTEM_ROOT])

    def rows() -> Iterator[Row]:
        for row in table.rows():
            given = {name: getattr(row, name) for name in table.columns - {"path"}}
            for root, found in files.find(row.path):
                directory, name = os.path.split(found.path)
                facts = read_folder(directory)
                yield describe(root, found, name, facts, given, row.line, ""), None

    database = store_rows(rows())
    _check_storage(database, seen)
    notes = Notes(table=table.title, num_uncertain=table.num_uncertain, num_others=table.num_others)
    if table.public is not None and table.public.is_merged:
        notes.num_merged = merge_rows(database)
    check_unique(database, f"{table.name}, {table.unit}")
    num_rows = _count(database)
    if num_rows:
        _check_any_there(database, table, files, num_rows)
    elif not options.allow_empty:
        raise DataError(f"the table {table.name} has no rows; {_EXPECTED}")
    metadata = {SPLIT_COLUMN_KEY: b"1"} if "split" in table.columns else {}
    outside = database.execute("SELECT max(root) FROM listed").fetchone()[0]
    roots = (folder, _SYSTEM_ROOT) if outside else (folder,)
    metadata |= options.metadata() | notes.metadata()
    return Inputs(roots, metadata, num_rows, database, notes)


def _check_storage(database: sqlite3.Connection, seen: Roots) -> None:
    """Raises `ClusterError` where files are missing since their storage vanished meanwhile."""
    codes = ", ".join(f"'{code}'" for code in sorted(STORAGE_CODES))
    for root, first, last in database.execute(
        f"SELECT root, min(raw), max(raw) FROM listed WHERE code IN ({codes}) GROUP BY root"
    ):
        seen.check(root, first)
        seen.check(root, last)


def _check_any_there(
    database: sqlite3.Connection, table: InputTable, files: TableFiles, num_rows: int
) -> None:
    """Raises `DataError` where none of a table's files is there: its paths are of elsewhere."""
    missing, line = database.execute(
        "SELECT count(*), min(line) FROM listed WHERE code = 'missing_file'"
    ).fetchone()
    if missing < num_rows:
        return
    raw, root = database.execute("SELECT raw, root FROM listed WHERE line = ?", (line,)).fetchone()
    path = b"/" + raw if root else raw
    raise DataError(
        f"{table.name}: none of the {num_rows:,} files that it names is there; {table.unit} {line} "
        f"names {escape_path(path)}; {files.explain(path)}"
    )


def _count(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT count(*) FROM listed").fetchone()[0])


def _is_folder(source: str | Path) -> bool:
    return is_address(str(source)) or os.path.isdir(os.fsencode(source))


def _root(source: str | Path) -> bytes:
    raw = os.fsencode(source)
    return raw if is_address(str(source)) else os.path.abspath(raw)


def _real(source: str | Path) -> bytes:
    """Returns a name by which inputs within one another are told; a folder's ends with a slash."""
    raw = os.fsencode(source)
    if not _is_folder(source):  # by its own name: several links may lead to one file
        folder, name = os.path.split(os.path.abspath(raw))
        return os.path.join(os.path.realpath(folder), name)
    real = raw.partition(b"?")[0] if is_address(str(source)) else os.path.realpath(raw)
    return real.rstrip(b"/") + b"/"


def _shown(source: str | Path) -> str:
    return escape_path(os.fsencode(source))
