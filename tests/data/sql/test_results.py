import csv
import json
import math
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.sql.database import Rows
from orchestrator.data.sql.results import write_rows
from orchestrator.errors import SpecError

TABLE = pa.table(
    {
        "path": ["=cmd|' /C calc'!A0", 'a,b"c', "+1", "-x", "@y", "\tz", None, "plain=1"],
        "p": [-0.5, 1.0, math.nan, math.inf, 0.25, None, 0.0, 1e-9],
        "at": [datetime(2026, 3, 1, 2)] * 8,
        "=n": list(range(-1, 7)),
    }
)


def rows(table: pa.Table = TABLE) -> Rows:
    return Rows(pa.RecordBatchReader.from_batches(table.schema, table.to_batches(3)))


def test_csv_holds_no_formula_and_every_row(tmp_path: Path) -> None:
    assert write_rows(rows(), tmp_path / "out.csv") == 8
    with (tmp_path / "out.csv").open(newline="") as file:
        heads, *found = csv.reader(file)
    assert heads == ["path", "p", "at", "'=n"]
    assert [row[0] for row in found] == [
        *("'=cmd|' /C calc'!A0", 'a,b"c', "'+1", "'-x", "'@y", "'\tz", "", "plain=1"),
    ]
    assert [row[1] for row in found][:2] == ["-0.5", "1"]  # a number is none
    assert [row[3] for row in found][:2] == ["-1", "0"]


def test_parquet_and_json_hold_the_rows_as_they_are(tmp_path: Path) -> None:
    assert write_rows(rows(), tmp_path / "out.parquet") == 8
    assert pq.read_table(tmp_path / "out.parquet").drop_columns("p").equals(TABLE.drop_columns("p"))
    assert write_rows(rows(), tmp_path / "out.json") == 8
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["p"] for row in found] == [-0.5, 1.0, None, None, 0.25, None, 0.0, 1e-9]
    assert found[0]["path"] == TABLE["path"][0].as_py()
    assert found[0]["at"] == "2026-03-01T02:00:00"
    assert write_rows(rows(TABLE.slice(0, 0)), tmp_path / "none.json") == 0
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_what_a_form_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    nested = pa.table({"list": [[1]]})
    with pytest.raises(SpecError, match=r"CSV cannot hold the column list"):
        write_rows(rows(nested), tmp_path / "out.csv")
    double = pa.Table.from_arrays([pa.array([1])] * 2, ["a", "a"])
    with pytest.raises(SpecError, match="two columns are named a"):
        write_rows(rows(double), tmp_path / "out.parquet")
    with pytest.raises(SpecError, match=r"expected \.csv, \.parquet, \.json"):
        write_rows(rows(), tmp_path / "out.xlsx")
    assert not list(tmp_path.iterdir())
