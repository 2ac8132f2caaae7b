"""Writes the rows of a query to a file, or gives them as JSON has them, batch by batch."""

import json
import math
from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from orchestrator.data.parquet import open_writer
from orchestrator.data.sql.database import Rows
from orchestrator.errors import SpecError
from orchestrator.runs.atomic import atomic_path

SUFFIXES = (".csv", ".parquet", ".json")
# A spreadsheet runs a cell that begins so as a formula, and takes one after ' as text.
_FORMULA = r"^([=+\-@\t\r\n])"


def check_target(path: Path) -> None:
    """Raises `SpecError` where the name of a file says no form that rows are written in."""
    if path.suffix.lower() not in SUFFIXES:
        raise SpecError(
            f"--out {path} ends in {path.suffix or 'no suffix'}; expected {', '.join(SUFFIXES)}"
        )


def write_rows(rows: Rows, path: Path) -> int:
    """Writes the rows of a query, whole or not at all, and returns how many there were.

    Args:
        rows: of the query.
        path: of the file, by whose suffix its form goes. In CSV a text that a spreadsheet would run
            as a formula begins with a quote mark.

    Raises:
        SpecError: columns of one name, or in CSV a column that it cannot hold.
        ClusterError: the file system refused the write.
    """
    check_target(path)
    check_names(rows.schema)
    form, written = path.suffix.lower(), 0
    if form == ".parquet":
        with open_writer(path, rows.schema) as writer:
            for batch in rows:
                writer.write_batch(batch)
                written += batch.num_rows
        return written
    with atomic_path(path) as temporary:
        if form == ".json":
            with temporary.open("w", encoding="utf-8") as file:
                for row in iter_rows(rows):
                    file.write(",\n" if written else "[\n")
                    file.write(json.dumps(row, ensure_ascii=False, allow_nan=False))
                    written += 1
                file.write("\n]\n" if written else "[]\n")
            return written
        nested = [field.name for field in rows.schema if pa.types.is_nested(field.type)]
        if nested:
            raise SpecError(f"CSV cannot hold the column {nested[0]}; write .parquet or .json")
        heads = [_as_text(pa.array([name])).to_pylist()[0] for name in rows.schema.names]
        schema = pa.schema(
            [pa.field(n, _csv_type(f.type)) for n, f in zip(heads, rows.schema, strict=True)]
        )
        with pyarrow.csv.CSVWriter(temporary, schema) as writer:
            for batch in rows:
                columns = [
                    _as_text(column) if pa.types.is_string(kind) else column
                    for column, kind in zip(batch.columns, schema.types, strict=True)
                ]
                writer.write_batch(pa.record_batch(columns, schema=schema))
                written += batch.num_rows
    return written


def iter_rows(rows: Rows) -> Iterator[dict[str, Any]]:
    """Yields the rows of a query, JSON-able: what is no number of JSON's, such as NaN, as null."""
    for batch in rows:
        for row in batch.to_pylist():
            yield {name: _as_json(value) for name, value in row.items()}


def check_names(schema: pa.Schema) -> None:
    """Raises `SpecError` where two columns have one name."""
    double = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if double is not None:
        raise SpecError(f"two columns are named {double}; give one another name with AS")


def _csv_type(kind: pa.DataType) -> pa.DataType:
    dictionary = pa.types.is_dictionary(kind) or pa.types.is_large_string(kind)
    return pa.string() if dictionary else kind


def _as_text(column: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(column.cast(pa.string()), _FORMULA, r"'\1")


def _as_json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(name): _as_json(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_as_json(inner) for inner in value]
    return value if isinstance(value, str | int | None) else str(value)
