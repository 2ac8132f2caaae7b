"""Tables of public data sets, row by row; whole layouts of them are in `tests/data/layouts/`."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.listing.inputs import list_inputs
from orchestrator.data.listing.options import ListingOptions
from orchestrator.data.listing.public_tables import PUBLIC_TABLES, READ_COLUMNS
from orchestrator.data.listing.tables import InputTable
from orchestrator.errors import DataError


def read(path: Path, text: str) -> InputTable:
    path.write_text(text)
    return InputTable(path)


def labels(table: InputTable) -> list[int | None]:
    return [row.label for row in table.rows()]


def test_findings_of_nih(tmp_path: Path) -> None:
    table = read(
        tmp_path / "t.csv",
        "Image Index,Finding Labels,Patient ID\n1.png,No Finding,12\n2.png,Pneumonia,12\n"
        "3.png,Mass|Pneumonia|Edema,13\n4.png,Pneumothorax,13\n5.png,Mass|No Finding,14\n",
    )
    assert labels(table) == [0, 1, 1, None, None]
    assert (table.num_others, table.num_uncertain) == (2, 0)


@pytest.mark.parametrize(
    ("nothing", "pneumonia", "label"),
    [
        ("", "1.0", 1),
        ("1.0", "", 0),
        ("", "0.0", 0),
        ("", "-1.0", None),
        ("", "", None),
        ("1", "-1", None),
        ("nan", "nan", None),
    ],
)
def test_columns_of_chexpert(
    nothing: str, pneumonia: str, label: int | None, tmp_path: Path
) -> None:
    table = read(tmp_path / "t.csv", f"Path,No Finding,Pneumonia\na.jpg,{nothing},{pneumonia}\n")
    assert labels(table) == [label]
    assert table.num_uncertain + table.num_others == (label is None)


def test_columns_of_ones_own_beside_chexperts_count(tmp_path: Path) -> None:
    table = read(
        tmp_path / "t.csv", "path,Pneumonia,patient_id,split\na.jpg,1,p1,valid\nb.jpg,0,,train\n"
    )
    assert [tuple(row)[2:] for row in table.rows()] == [(1, "p1", "val"), (0, None, "train")]
    assert table.columns == {"path", "label", "patient_id", "split"}


def test_a_table_that_names_its_files_and_labels_is_a_plain_one(tmp_path: Path) -> None:
    for header in ("path,label,subject_id,study_id", "path,subject_id,study_id,note"):
        table = read(tmp_path / "t.csv", f"{header}\na.jpg,1,10000032,5\n")
        assert table.public is None
        assert next(table.rows()).path == b"a.jpg"


def test_classes_of_rsna(tmp_path: Path) -> None:
    table = read(
        tmp_path / "t.csv",
        "patientId,class\na,Normal\nb,Lung Opacity\nc,No Lung Opacity / Not Normal\n",
    )
    assert labels(table) == [0, 1, None]


def test_mimic_by_image_with_its_split(tmp_path: Path) -> None:
    folder = tmp_path / "files" / "p10" / "p10000032" / "s50414267"
    folder.mkdir(parents=True)
    for name in ("02aa804e-bde0afdd.jpg", "174413ec-4ec4c1f7.jpg"):
        (folder / name).write_bytes(b"x")
    table = tmp_path / "mimic-cxr-2.0.0-split.csv"
    table.write_text(
        "dicom_id,study_id,subject_id,split\n02aa804e-bde0afdd,50414267,10000032,validate\n"
        "174413ec-4ec4c1f7,50414267,10000032,train\n"
    )
    rows = list(list_inputs([table]).rows())
    assert [(row.split, row.label, row.patient_id, row.code) for row in rows] == [
        ("val", None, "10000032", None),
        ("train", None, "10000032", None),
    ]


def test_a_study_without_images_is_rejected_and_the_others_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "files/p10/p10000001/s5"
    folder.mkdir(parents=True)
    for name in ("a.jpg", "index.html", ".hidden"):
        (folder / name).write_bytes(b"x")
    (tmp_path / "files/p10/p10000002/s6").mkdir(parents=True)
    table = tmp_path / "t.csv"
    table.write_text(
        "subject_id,study_id,Pneumonia\n10000001,5,1.0\n10000002,6,1.0\n10000003,7,1.0\n"
    )
    found = {row.path.rpartition("/")[2]: row.code for row in list_inputs([table]).rows()}
    assert found == {"a.jpg": None, "index.html": None, "s6": "not_a_file", "s7": "missing_file"}


def test_a_name_in_two_folders_is_an_error(tmp_path: Path) -> None:
    for folder in ("images", "images_224"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(b"x")
    table = tmp_path / "t.csv"
    table.write_text("Image Index,Finding Labels\n1.png,No Finding\n")
    expected = r"names 1\.png, which is images/1\.png and images_224/1\.png; keep one of them"
    with pytest.raises(DataError, match=expected):
        list_inputs([table])


def test_a_parquet_table_of_numbers(tmp_path: Path) -> None:
    columns = {"patientId": ["a", "b"], "Target": [1, 0], "x": [[1], [2]]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert labels(InputTable(tmp_path / "t.parquet")) == [1, 0]


def test_what_is_named_must_be_that_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("ImageID,ImageDir,Labels\na,1,['normal']\n")
    with pytest.raises(DataError, match=r"t\.csv is not the table of CheXpert .*pneumonia"):
        InputTable(tmp_path / "t.csv", ListingOptions(table="chexpert"))
    assert labels(InputTable(tmp_path / "t.csv", ListingOptions(table="padchest"))) == [0]


def test_every_column_that_tells_a_table_is_read() -> None:
    for table in PUBLIC_TABLES.values():
        assert set().union(*table.columns) <= READ_COLUMNS
        assert set(table.needs.values()) <= READ_COLUMNS
