"""Reads the CSV or Parquet table a user gives as input: `path[,label][,patient_id][,split]`.

The table is untrusted: only these columns are read, every value is checked, and an error names
the line and what was expected. Whether the files exist is `listing.py`'s business.

Paths are taken as written, byte for byte. A relative path starts at the table's own folder and
may not lead out of it by `..`; an absolute path is accepted as it stands, because whoever wrote
the table named that very file. Column names are compared without case; other columns are ignored.
"""

# pathlib has no paths of bytes
# ruff: noqa: PTH100, PTH117
import csv
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.listing.names import LABEL_OF_NAME, SPLIT_OF_NAME
from orchestrator.data.schema import escape_path
from orchestrator.errors import DataError

COLUMNS = ("path", "label", "patient_id", "split")
CSV_SUFFIXES = (".csv",)
PARQUET_SUFFIXES = (".parquet", ".pq")

_LABEL_OF_TEXT = LABEL_OF_NAME | {"0": 0, "1": 1, "0.0": 0, "1.0": 1}  # pandas writes 1.0 near gaps
_BATCH_ROWS = 65_536


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

    Args:
        source: a .csv, .parquet or .pq file, in any case of the suffix.

    Raises:
        DataError: another kind of file, unreadable, or without a `path` column.
    """

    def __init__(self, source: Path) -> None:
        self.name = _shown(source)
        self._folder = os.path.abspath(os.fsencode(source.parent))
        suffix = source.suffix.lower()
        if not source.is_file():  # a FIFO would hang
            raise DataError(f"{self.name} is not a regular file; expected a folder or a table")
        if suffix in CSV_SUFFIXES:
            self.unit = "line"
            self.columns, self._records = _open_csv(source)
        elif suffix in PARQUET_SUFFIXES:
            self.unit = "row"
            self.columns, self._records = _open_parquet(source)
        else:
            raise DataError(
                f"{self.name} is neither a folder nor a table; expected a folder of X-rays, "
                "or a .csv or .parquet table with a `path` column"
            )

    def rows(self) -> Iterator[TableRow]:
        """Yields the rows in the table's order.

        Raises:
            DataError: a value that is not accepted, naming its line.
        """
        for line, record in self._records:
            try:
                yield TableRow(
                    line,
                    _clean_path(record.get("path"), self._folder),
                    _clean_label(record.get("label")),
                    _clean_patient(record.get("patient_id")),
                    _clean_split(record.get("split")),
                )
            except ValueError as error:
                raise DataError(f"{self.name}, {self.unit} {line}: {error}") from None


Record = dict[str, Any]  # of `COLUMNS`, as read


def _open_csv(source: Path) -> tuple[frozenset[str], Iterator[tuple[int, Record]]]:
    """Returns the known columns of a CSV file and an iterator of (line, record)."""
    records = _read_csv(source)
    _, header = next(records, (1, []))
    columns = _known_columns(source, header)
    return frozenset(columns), _named(source, records, columns, len(header))


def _read_csv(source: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (line, fields) of a CSV file, blank lines left out.

    Bytes that are not UTF-8 come as surrogates, so that a path of any bytes survives.
    """
    try:
        with source.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            line = 1
            try:
                for fields in reader:
                    if fields:
                        yield line, fields
                    line = reader.line_num + 1
            except csv.Error as error:
                raise DataError(
                    f"{_shown(source)}, line {line}: not valid CSV ({error}); expected values "
                    "separated by commas, with quotes doubled inside quoted ones"
                ) from None
    except OSError as error:
        raise _unreadable(source, error) from error


def _named(
    source: Path,
    records: Iterable[tuple[int, list[str]]],
    columns: dict[str, int],
    num_fields: int,
) -> Iterator[tuple[int, Record]]:
    for line, fields in records:
        if len(fields) != num_fields:
            raise DataError(
                f"{_shown(source)}, line {line}: {len(fields)} values, but the header has "
                f"{num_fields}; put quotes around values that hold commas"
            )
        yield line, {name: fields[index] for name, index in columns.items()}


def _open_parquet(source: Path) -> tuple[frozenset[str], Iterator[tuple[int, Record]]]:
    """Returns the known columns of a Parquet file and an iterator of (row from 1, record)."""
    try:
        file = pq.ParquetFile(source)
        fields = file.schema_arrow
    except OSError as error:
        raise _unreadable(source, error) from error
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{_shown(source)} is not a Parquet file that can be read") from error
    columns = _known_columns(source, fields.names)
    for name, index in columns.items():
        kind = fields.field(index).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (
            _is_text(kind)
            or (name == "path" and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)))
            or (name != "path" and (pa.types.is_integer(kind) or pa.types.is_null(kind)))
            or (name == "label" and pa.types.is_floating(kind))
        ):
            raise DataError(
                f"{_shown(source)}: column {name!r} has the type {kind}; expected strings"
                + (", or integers 0 and 1" if name == "label" else "")
            )
    return frozenset(columns), _read_parquet(source, file, columns)


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
            f"{_shown(source)} is damaged after row {row}; write the table again"
        ) from error


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _known_columns(source: Path, names: list[str]) -> dict[str, int]:
    """Returns the position of each of `COLUMNS` that the header has."""
    found: dict[str, int] = {}
    for index, name in enumerate(names):
        key = name.strip().lower()
        if key in COLUMNS and key in found:
            raise DataError(f"{_shown(source)} has two columns named {key!r}; keep one of them")
        if key in COLUMNS:
            found[key] = index
    if "path" not in found:
        shown = ", ".join(repr(name[:40]) for name in names[:8]) or "none"
        raise DataError(
            f"{_shown(source)} has no column 'path' (columns found: {shown}); expected "
            "path[,label][,patient_id][,split], separated by commas"
        )
    return found


def _clean_path(value: str | bytes | None, folder: bytes) -> bytes:
    """Returns a path relative to the table's folder, or absolute when it lies elsewhere."""
    path = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    if not path:
        raise ValueError("the path is empty; expected the path of an image file")
    if b"\0" in path:
        raise ValueError("the path holds a NUL byte; expected the path of an image file")
    clean = os.path.normpath(path)
    if os.path.isabs(clean):
        clean = b"/" + clean.lstrip(b"/")  # POSIX lets a path begin with two slashes
        inside = folder.rstrip(b"/") + b"/"
        return clean.removeprefix(inside)
    if clean == b".." or clean.startswith(b"../"):
        raise ValueError(
            "the path leads out of the table's folder; move the table to a folder above the "
            "images, or write absolute paths"
        )
    return clean


def _clean_label(value: object) -> int | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip().lower()
    if not text:
        return None
    label = _LABEL_OF_TEXT.get(text)
    if label is None:
        raise ValueError(
            f"unknown label {str(value)[:20]!r}; expected 0, 1, NORMAL, PNEUMONIA or nothing"
        )
    return label


def _clean_patient(value: object) -> str | None:
    text = "" if value is None else str(value).strip()
    if any("\udc80" <= character <= "\udcff" for character in text):
        raise ValueError("the patient id is not UTF-8 text; save the table as UTF-8")
    return text or None


def _clean_split(value: object) -> str | None:
    text = "" if value is None else str(value).strip().lower()
    if not text:
        return None
    split = SPLIT_OF_NAME.get(text)
    if split is None:
        raise ValueError(
            f"unknown split {str(value)[:20]!r}; expected train, val, validation, test or nothing"
        )
    return split


def _shown(source: Path) -> str:
    """Returns the file's name, printable whatever its bytes."""
    return escape_path(os.fsencode(source.name))


def _unreadable(source: Path, error: OSError) -> DataError:
    reason = error.strerror or "not readable"
    return DataError(f"cannot read {_shown(source)} ({reason}); check the path and its permissions")
