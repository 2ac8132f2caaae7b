"""Reads the table a user gives as input: `path[,label][,patient_id][,split]`, CSV or Parquet.

The table is untrusted: only these columns are read, every value is checked, and an error names
the line and what was expected. Where the files are is `table_files.py`'s business; the columns of
public data sets are `public_tables.py`'s.

Paths are taken as written, byte for byte. A relative path starts at the table's own folder and
may not lead out of it by `..`; an absolute path is accepted as it stands, because whoever wrote
the table named that very file. Column names are compared without case; other columns are ignored.
"""

# pathlib has no paths of bytes
# ruff: noqa: PTH100
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.listing.csv_text import (
    CSV_SUFFIXES,
    EXCEL_SUFFIXES,
    describe_header,
    open_text_table,
    refuse_workbook,
    shown_name,
    unreadable,
)
from orchestrator.data.listing.options import ListingOptions
from orchestrator.data.listing.public_tables import PUBLIC_TABLES, READ_COLUMNS, PublicTable
from orchestrator.data.listing.table_values import (
    UnknownLabelError,
    clean_label,
    clean_path,
    clean_patient,
    clean_split,
)
from orchestrator.data.parquet import open_parquet
from orchestrator.errors import DataError

COLUMNS = ("path", "label", "patient_id", "split")
PARQUET_SUFFIXES = (".parquet", ".pq")
TABLE_SUFFIXES = (*CSV_SUFFIXES, *PARQUET_SUFFIXES, *EXCEL_SUFFIXES)

_BATCH_ROWS = 65_536
_MOST_UNKNOWN = 5  # labels named in one error


class TableRow(NamedTuple):
    """One row of the table, checked.

    Attributes:
        line: where the row begins: line of a CSV file (the header is line 1), row number from 1 in
            Parquet.
        path: normalised, relative to the table's folder, or absolute when it lies elsewhere.
        label: 0 NORMAL, 1 PNEUMONIA or None.
        patient_id: as written, or None.
        split: "train", "val", "test" or None.
    """

    line: int
    path: bytes
    label: int | None
    patient_id: str | None
    split: str | None


class InputTable:
    """A table of inputs, opened.

    Attributes:
        name: the file's name, printable.
        unit: what `TableRow.line` counts: "line" or "row".
        columns: which of `COLUMNS` the table has.
        public: the public data set whose table it is, or None.
        title: how it is read, where not as a plain table by commas; None otherwise.
        num_uncertain: rows read so far whose label says that it is uncertain.
        num_others: rows read so far that name other findings alone.

    Args:
        source: a file of one of `TABLE_SUFFIXES`, in any case.
        options: the meaning of labels, and the kind of table where it is named.
        folder: where relative paths start, absolute; the file's own where not given.

    Raises:
        DataError: another kind of file, unreadable, or without a `path` column.
    """

    def __init__(
        self, source: Path, options: ListingOptions | None = None, folder: bytes | None = None
    ) -> None:
        options = options or ListingOptions()
        self.name = shown_name(source)
        self._folder = folder or os.path.abspath(os.fsencode(source.parent))
        self._labels = options.labels
        self._kind = options.table
        self.num_uncertain = self.num_others = 0
        if not source.is_file():  # a FIFO would hang
            raise DataError(f"{self.name} is not a regular file; expected a folder or a table")
        refuse_workbook(source)
        self.title: str | None = None
        if is_table(source, PARQUET_SUFFIXES):
            self.unit = "row"
            file, names = _open_parquet(source)
            self._find_columns(names, "columns")
            _check_types(source, file, self._positions, plain=self.public is None)
            self._records = _read_parquet(source, file, self._positions)
        elif is_table(source, CSV_SUFFIXES):
            self.unit = "line"
            separated_by, header, records = open_text_table(source, self._understands)
            self._find_columns(header, separated_by)
            self._records = _named(source, records, self._positions, len(header))
            if separated_by != "commas":
                self.title = f"a table separated by {separated_by}"
        else:
            raise DataError(
                f"{self.name} is neither a folder nor a table; expected a folder of X-rays, "
                "or a .csv or .parquet table with a `path` column"
            )
        if self.public is not None:
            self.title = self.public.title

    def rows(self) -> Iterator[TableRow]:
        """Yields the rows in the table's order.

        Raises:
            DataError: a value that is not accepted, naming its line.
        """
        for line, read in self._records:
            record = read if self.public is None else self.public.read(read)
            try:
                yield TableRow(
                    line,
                    clean_path(record.get("path"), self._folder),
                    self._read_label(record.get("label")),
                    clean_patient(record.get("patient_id")),
                    clean_split(record.get("split")),
                )
            except UnknownLabelError as error:
                raise self._unknown_label(line, str(error)) from None
            except ValueError as error:
                raise DataError(f"{self.name}, {self.unit} {line}: {error}") from None

    def _understands(self, header: Sequence[str]) -> bool:
        names = {name.strip().lower() for name in header}
        return "path" in names or self._public_of(names) is not None

    def _public_of(self, names: set[str]) -> PublicTable | None:
        """Returns the public data set whose table has these columns, or the one that is named."""
        if self._kind is not None:
            named = PUBLIC_TABLES[self._kind]
            return named if named.is_table(names) else None
        if {"path", "label"} <= names:
            return None
        return next((table for table in PUBLIC_TABLES.values() if table.is_table(names)), None)

    def _find_columns(self, header: Sequence[str], separated_by: str) -> None:
        """Finds the columns to read; raises `DataError` where there is no path among them."""
        names = [name.strip().lower() for name in header]
        self.public = self._public_of(set(names))
        wanted: Iterable[str] = COLUMNS
        if self.public is not None:
            wanted = READ_COLUMNS
            self.columns = self.public.given_by(names)
        self._positions: dict[str, int] = {}
        for index, name in enumerate(names):
            if name in self._positions and self.public is None:
                raise DataError(f"{self.name} has two columns named {name!r}; keep one of them")
            if name and name in wanted:
                self._positions.setdefault(name, index)
        if self.public is None:
            self.columns = frozenset(self._positions)
            if self._kind is not None or "path" not in self.columns:
                raise self._no_path(header, separated_by)

    def _no_path(self, header: Sequence[str], separated_by: str) -> DataError:
        described = describe_header(list(header), separated_by)
        if self._kind is not None:
            table = PUBLIC_TABLES[self._kind]
            wanted = " or ".join(", ".join(sorted(names)) for names in table.columns)
            return DataError(
                f"{self.name} is not {table.title} ({described}); expected the columns {wanted}"
            )
        return DataError(
            f"{self.name} has no column 'path' ({described}); expected "
            "path[,label][,patient_id][,split], separated by commas"
        )

    def _read_label(self, value: object) -> int | None:
        label = clean_label(value, self._labels)
        if isinstance(label, str):
            self.num_uncertain += label == "uncertain"
            self.num_others += label == "others"
            return None
        return label

    def _unknown_label(self, line: int, text: str) -> DataError:
        """Returns the error for a label, with the other unknown ones of the rows that follow."""
        unknown = [text]
        for _, read in self._records:
            record = read if self.public is None else self.public.read(read)
            try:
                clean_label(record.get("label"), self._labels)
            except UnknownLabelError as error:
                if str(error) not in unknown:
                    unknown.append(str(error))
            if len(unknown) > _MOST_UNKNOWN:
                break
        others = ", ".join(repr(label[:20]) for label in unknown[1:_MOST_UNKNOWN])
        more = f" (and {others}{', ...' if len(unknown) > _MOST_UNKNOWN else ''})" if others else ""
        return DataError(
            f"{self.name}, {self.unit} {line}: unknown label {text[:20]!r}; expected 0, 1, NORMAL, "
            f"PNEUMONIA or nothing{more}; say what it means, such as --class-map "
            f"'{text[:20]}=PNEUMONIA' (or =NORMAL, or =none)"
        )


def is_table(source: str | Path, suffixes: Sequence[str] = TABLE_SUFFIXES) -> bool:
    """Returns whether a name is that of a table, by its suffix."""
    return str(source).lower().endswith(tuple(suffixes))


Record = dict[str, Any]  # by column name


def _named(
    source: Path,
    records: Iterable[tuple[int, list[str]]],
    columns: dict[str, int],
    num_fields: int,
) -> Iterator[tuple[int, Record]]:
    for line, fields in records:
        if len(fields) != num_fields:
            raise DataError(
                f"{shown_name(source)}, line {line}: {len(fields)} values, but the header has "
                f"{num_fields}; put quotes around values that hold commas"
            )
        yield line, {name: fields[index] for name, index in columns.items()}


def _open_parquet(source: Path) -> tuple[pq.ParquetFile, list[str]]:
    """Returns a Parquet file, opened, and the names of its columns."""
    try:
        file = open_parquet(source)
        return file, file.schema_arrow.names
    except OSError as error:
        raise unreadable(source, error) from error
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{shown_name(source)} is not a Parquet file that can be read") from error


def _check_types(
    source: Path, file: pq.ParquetFile, positions: dict[str, int], *, plain: bool
) -> None:
    """Raises `DataError` where a column holds what its values cannot be read from."""
    for name, index in positions.items():
        kind = file.schema_arrow.field(index).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        numbers = pa.types.is_integer(kind) or pa.types.is_null(kind) or pa.types.is_floating(kind)
        if not plain:
            continue
        if not (
            _is_text(kind)
            or (name == "path" and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)))
            or (name in ("label", "patient_id") and numbers)
            or (name == "split" and pa.types.is_null(kind))
            or (name == "label" and pa.types.is_boolean(kind))
        ):
            raise DataError(
                f"{shown_name(source)}: column {name!r} has the type {kind}; expected strings"
                + (", or integers 0 and 1" if name == "label" else "")
            )


def _read_parquet(
    source: Path, file: pq.ParquetFile, columns: dict[str, int]
) -> Iterator[tuple[int, Record]]:
    names = file.schema_arrow.names
    wanted = {name: names[index] for name, index in columns.items()}
    row = 0
    try:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(wanted.values())):
            values = [batch.column(batch.schema.names.index(key)) for key in wanted.values()]
            for record in zip(*(column.to_pylist() for column in values), strict=True):
                row += 1
                yield row, dict(zip(wanted, record, strict=True))
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"{shown_name(source)} is damaged after row {row}; write the table again"
        ) from error


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )
