"""Tables that name images and labels, as spreadsheets, scripts and pandas write them."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.layouts.layout import CLASSES, Layouts, put

TABLES = Layouts()
Row = tuple[str, int, str]  # path, label, patient


def listed(folder: Path, count: int = 20) -> list[Row]:
    """Makes a folder `images` of so many files of each class and returns rows that name them."""
    rows = [
        (f"images/{label}{n:03d}.png", label, f"{n:05d}") for label in (0, 1) for n in range(count)
    ]
    for path, _, _ in rows:
        put(folder / path)
    return rows


def write_table(
    path: Path, rows: list[Any], header: str = "path,label,patient_id", separator: str = ","
) -> Path:
    """Writes rows as text and returns the table's path."""
    lines = [header.split(","), *([str(value) for value in row] for row in rows)]
    text = "".join(separator.join(line) + "\n" for line in lines)
    path.write_bytes(text.encode())
    return path


@TABLES.add("CSV")
def _(folder: Path) -> Path:
    return write_table(folder / "table.csv", listed(folder))


@TABLES.add("CSV with a byte order mark")
def _(folder: Path) -> Path:
    path = write_table(folder / "table.csv", listed(folder))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    return path


@TABLES.add("CSV by semicolons")
def _(folder: Path) -> Path:
    rows = [(path, f"{label},0", patient) for path, label, patient in listed(folder)]
    return write_table(folder / "table.csv", rows, separator=";")


@TABLES.add("CSV by tabs")
def _(folder: Path) -> Path:
    return write_table(folder / "table.csv", listed(folder), separator="\t")


@TABLES.add("TSV")
def _(folder: Path) -> Path:
    return write_table(folder / "table.tsv", listed(folder), separator="\t")


@TABLES.add("CSV, zipped")
def _(folder: Path) -> Path:
    plain = write_table(folder / "table.csv", listed(folder))
    zipped = folder / "table.csv.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    return zipped


@TABLES.add("CSV in UTF-16")
def _(folder: Path) -> Path:
    path = write_table(folder / "table.csv", listed(folder), separator="\t")
    path.write_bytes(path.read_text().encode("utf-16"))
    return path


@TABLES.add("Excel")
def _(folder: Path) -> Path:
    listed(folder)
    put(folder / "table.xlsx", b"PK\x03\x04" + bytes(100))
    return folder / "table.xlsx"


@TABLES.add("Excel named CSV")
def _(folder: Path) -> Path:
    listed(folder)
    put(folder / "table.csv", b"PK\x03\x04" + bytes(100))
    return folder / "table.csv"


@TABLES.add("paths of Windows")
def _(folder: Path) -> Path:
    rows = [(path.replace("/", "\\"), *rest) for path, *rest in listed(folder)]
    return write_table(folder / "table.csv", rows)


@TABLES.add("paths with a drive")
def _(folder: Path) -> Path:
    rows = [("D:\\data\\" + path.replace("/", "\\"), *rest) for path, *rest in listed(folder)]
    return write_table(folder / "table.csv", rows)


@TABLES.add("paths from the folder above")
def _(folder: Path) -> Path:
    rows = [(f"{folder.name}/{path}", *rest) for path, *rest in listed(folder)]
    return write_table(folder / "table.csv", rows)


@TABLES.add("paths from another root")
def _(folder: Path) -> Path:
    rows = [("chest_xray/" + path, *rest) for path, *rest in listed(folder)]
    return write_table(folder / "table.csv", rows)


@TABLES.add("paths in another case")
def _(folder: Path) -> Path:
    rows = [(path.replace(".png", ".PNG"), *rest) for path, *rest in listed(folder)]
    return write_table(folder / "table.csv", rows)


@TABLES.add("names without their folder")
def _(folder: Path) -> Path:
    rows = [(Path(path).name, *rest) for path, *rest in listed(folder)]
    return write_table(folder / "table.csv", rows)


@TABLES.add("paths beside the table's folder")
def _(folder: Path) -> Path:
    rows = [("../" + path, *rest) for path, *rest in listed(folder)]
    (folder / "labels").mkdir()
    return write_table(folder / "labels" / "table.csv", rows)


@TABLES.add("files not all there")
def _(folder: Path) -> Path:
    gone = [(f"images/gone{n}.png", n % 2, f"g{n}") for n in range(30)]
    return write_table(folder / "table.csv", listed(folder) + gone)


@TABLES.add("pandas index")
def _(folder: Path) -> Path:
    rows = [(number, *row) for number, row in enumerate(listed(folder))]
    return write_table(folder / "table.csv", rows, ",path,label,patient_id")


@TABLES.add("labels as floats and gaps")
def _(folder: Path) -> Path:
    rows: list[Any] = [(path, float(label), patient) for path, label, patient in listed(folder)]
    rows[3] = (rows[3][0], "nan", rows[3][2])
    rows[4] = (rows[4][0], "", rows[4][2])
    return write_table(folder / "table.csv", rows)


@TABLES.add("uncertain labels")
def _(folder: Path) -> Path:
    rows: list[Any] = list(listed(folder))
    rows[3] = (rows[3][0], "-1.0", rows[3][2])
    return write_table(folder / "table.csv", rows)


@TABLES.add("labels in other words")
def _(folder: Path) -> Path:
    rows = [(path, "pos" if label else "neg", patient) for path, label, patient in listed(folder)]
    return write_table(folder / "table.csv", rows)


@TABLES.add("labels in other words, mapped", class_map=("pos=PNEUMONIA", "neg=NORMAL"))
def _(folder: Path) -> Path:
    return TABLES["labels in other words"].make(folder)


@TABLES.add("labels of several findings")
def _(folder: Path) -> Path:
    words = ("No Finding", "Pneumonia|Effusion")
    rows = [(path, words[label], patient) for path, label, patient in listed(folder)]
    return write_table(folder / "table.csv", rows)


@TABLES.add("one row a box")
def _(folder: Path) -> Path:
    rows = [row for row in listed(folder) for _ in range(1 + row[1])]
    return write_table(folder / "table.csv", rows)


@TABLES.add("patients as numbers")
def _(folder: Path) -> Path:
    rows = listed(folder)
    written = [
        (path, label, q if n < 20 else f"{int(q)}.0") for n, (path, label, q) in enumerate(rows)
    ]
    return write_table(folder / "table.csv", written)


@TABLES.add("a split column")
def _(folder: Path) -> Path:
    names = ("validate", "training", "train", "train", "Testing")
    rows = [(path, label, names[n % 5]) for n, (path, label, _) in enumerate(listed(folder))]
    return write_table(folder / "table.csv", rows, "path,label,split")


@TABLES.add("blanks after commas")
def _(folder: Path) -> Path:
    rows = [(f'"{path}"', f' "{label}"', f" {patient}") for path, label, patient in listed(folder)]
    return write_table(folder / "table.csv", rows, "path, label, patient_id")


@TABLES.add("a header alone")
def _(folder: Path) -> Path:
    return write_table(folder / "table.csv", [])


@TABLES.add("no header")
def _(folder: Path) -> Path:
    first, *rows = listed(folder)
    return write_table(folder / "table.csv", rows, ",".join(map(str, first)))


@TABLES.add("line ends of an old Mac")
def _(folder: Path) -> Path:
    path = write_table(folder / "table.csv", listed(folder))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r"))
    return path


@TABLES.add("Parquet of pandas")
def _(folder: Path) -> Path:
    paths, labels, patients = zip(*listed(folder), strict=True)
    columns = {
        "path": paths,
        "label": pa.array([CLASSES[label] for label in labels]).dictionary_encode(),
        "patient_id": pa.array([float(patient) for patient in patients]),
        "__index_level_0__": range(len(paths)),
    }
    pq.write_table(pa.table(columns), folder / "table.parquet")
    return folder / "table.parquet"


@TABLES.add("Parquet with true and false")
def _(folder: Path) -> Path:
    paths, labels, _ = zip(*listed(folder), strict=True)
    pq.write_table(pa.table({"path": paths, "label": map(bool, labels)}), folder / "table.parquet")
    return folder / "table.parquet"
