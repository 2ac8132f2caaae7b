import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.listing.tables import InputTable, TableRow
from orchestrator.errors import DataError


def read(path, content=None):
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content, encoding="utf-8")
    return list(InputTable(path).rows())


def test_csv_columns_in_any_case_and_order_others_ignored(tmp_path):
    text = (
        "Notes,LABEL, path ,Split,Patient_ID\n"
        'x,NORMAL,a.jpg,train,p1\n"a, b\nc",1,b/c.jpg,Validation,\ny,,d.jpg,,p2\n'
    )
    table = tmp_path / "t.csv"
    assert read(table, text) == [
        TableRow(2, b"a.jpg", 0, "p1", "train"),
        TableRow(3, b"b/c.jpg", 1, None, "val"),
        TableRow(5, b"d.jpg", None, "p2", None),
    ]
    assert InputTable(table).columns == {"path", "label", "patient_id", "split"}


@pytest.mark.parametrize(
    ("text", "label"),
    [("0", 0), ("1", 1), ("1.0", 1), ("normal", 0), (" PneuMonia ", 1), ("", None)],
)
def test_labels(tmp_path, text, label):
    assert read(tmp_path / "t.csv", f"path,label\na,{text}\n")[0].label == label


def test_csv_from_a_spreadsheet_with_a_byte_order_mark_and_crlf(tmp_path):
    rows = read(tmp_path / "t.CSV", b"\xef\xbb\xbfpath,label\r\na.jpg,1\r\n\r\nb.jpg,0\r\n")
    assert [(row.line, row.path, row.label) for row in rows] == [(2, b"a.jpg", 1), (4, b"b.jpg", 0)]


def test_paths_are_bytes(tmp_path):
    rows = read(
        tmp_path / "t.csv", b'path\ncaf\xe9.jpg\n"new\nline.jpg"\n=1+1.jpg\n./x//y/../z.jpg\n'
    )
    assert [row.path for row in rows] == [b"caf\xe9.jpg", b"new\nline.jpg", b"=1+1.jpg", b"x/z.jpg"]


def test_absolute_paths_are_kept_and_made_relative_inside_the_table_folder(tmp_path):
    inside = tmp_path / "images" / "a.jpg"
    rows = read(tmp_path / "t.csv", f"path\n{inside}\n/elsewhere/b.jpg\n//elsewhere/../c.jpg\n")
    assert [row.path for row in rows] == [b"images/a.jpg", b"/elsewhere/b.jpg", b"/c.jpg"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("path,label\na,0\nb,2\n", r"t\.csv, line 3: unknown label '2'; expected 0, 1, NORMAL"),
        ("path,label\na,True\n", r"line 2: unknown label 'True'"),
        ('path,label\n"a\nb",0\nc,sick\n', r"line 4: unknown label 'sick'"),
        ("path,split\na,holdout\n", r"line 2: unknown split 'holdout'; expected train, val"),
        ("path\n../a\n", r"line 2: the path leads out of the table's folder; move the table"),
        ("path\na/../../b\n", r"line 2: the path leads out"),
        ("path,label\n,0\n", r"line 2: the path is empty"),
        ("path\na\0b\n", r"line 2: the path holds a NUL"),
        ("path,label\na,0,extra\n", r"line 2: 3 values, but the header has 2; put quotes"),
        ("path,label\na\n", r"line 2: 1 values, but the header has 2"),
        ("file,label\na,0\n", r"has no column 'path' \(columns found: 'file', 'label'\)"),
        (
            "file;label\na;0\n",
            r"no column 'path' \(columns found: 'file', 'label', sep.*by semicol",
        ),
        ("", r"no column 'path' \(columns found: none\)"),
        ("path,Path\na,b\n", r"two columns named 'path'"),
        ('path\n"a"b"\n', r"line 2: not valid CSV"),
        ('path\nx\n"never closed\n', r"line 3: not valid CSV"),
        (f"path\n{'x' * 200_000}\n", r"line 2: not valid CSV"),
        (b"path,patient_id\na,Jos\xe9\n", r"line 2: the patient id is not UTF-8"),
    ],
)
def test_bad_csv_is_one_line_naming_the_line(tmp_path, body, message):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / "t.csv", body)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_parquet_of_several_types(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(
        pa.table(
            {
                "path": pa.array([b"caf\xe9.jpg", b"b", b"c"], pa.binary()),
                "label": pa.array([1.0, float("nan"), None]),
                "patient_id": pa.array([7, None, 9]),
                "split": pa.array(["test", None, "TRAIN"]).dictionary_encode(),
                "nested": pa.array([[1], [], None]),
            }
        ),
        path,
    )
    assert read(path) == [
        TableRow(1, b"caf\xe9.jpg", 1, "7", "test"),
        TableRow(2, b"b", None, None, None),
        TableRow(3, b"c", None, "9", "train"),
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a"], "label": [2]}, r"t\.parquet, row 1: unknown label '2'"),
        ({"path": ["a"], "label": [[1]]}, r"column 'label' has the type list.*integers 0 and 1"),
        ({"path": [1]}, r"column 'path' has the type int64; expected strings"),
        ({"path": ["a"], "patient_id": [b"x"]}, r"column 'patient_id' has the type binary"),
        ({"name": ["a"]}, r"no column 'path'"),
        ({"path": [None]}, r"column 'path' has the type null"),
        ({"path": ["a", None]}, r"row 2: the path is empty"),
    ],
)
def test_bad_parquet(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "t.parquet")


def test_damaged_parquet_is_a_data_error(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"path": [f"image_{n}" for n in range(5000)]}), path)
    whole = path.read_bytes()
    for damaged in (b"", b"path,label\n", whole[:-40], b"PAR1" + b"\0" * 500 + whole[504:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"t\.parquet"):
            read(path)


def test_other_kinds_of_file(tmp_path):
    path = tmp_path / "t.xlsx"
    path.touch()
    with pytest.raises(DataError, match=r"t\.xlsx is neither a folder nor a table; expected"):
        InputTable(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_unreadable_table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("path\na\n")
    path.chmod(0)
    with pytest.raises(DataError, match=r"cannot read t\.csv"):
        InputTable(path)
