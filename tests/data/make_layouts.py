"""Folders and tables as people have them, made of small files of distinct content."""

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

CLASSES = ("NORMAL", "PNEUMONIA")
Row = tuple[str, int, str]  # path, label, patient


@dataclass(frozen=True)
class Layout:
    """How to make an input.

    Args:
        make: fills a folder and returns what of it is the input.
        options: fields of `ListingOptions.of`'s form.
    """

    make: Callable[[Path], Path]
    options: dict[str, Any]


LAYOUTS: dict[str, Layout] = {}


def layout(name: str, **options: Any) -> Callable[[Callable[[Path], Path | None]], None]:
    """Registers a maker; one that returns nothing has filled the input itself."""

    def register(make: Callable[[Path], Path | None]) -> None:
        LAYOUTS[name] = Layout(lambda folder: make(folder) or folder, options)

    return register


def put(path: Path, content: bytes | None = None) -> None:
    """Writes a file, its own path as content where none is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(str(path).encode() if content is None else content)


def public_name(label: int, number: int) -> str:
    """A file name of the public data set, one patient each."""
    kind = "bacteria" if number % 2 else "virus"
    return f"person{number}_{kind}_1.jpeg" if label else f"IM-{number:04d}-0001.jpeg"


def fill(folder: Path, count: int, names: tuple[str, str] = CLASSES, first: int = 0) -> None:
    """Makes two class folders of so many files each."""
    for label, name in enumerate(names):
        for number in range(first, first + count):
            put(folder / name / public_name(label, number))


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


# --- folders ------------------------------------------------------------------------------------


@layout("public data set")
def _(folder: Path) -> None:
    fill(folder / "train", 16)
    fill(folder / "test", 4, first=100)
    fill(folder / "val", 2, first=200)


@layout("zip within a zip")
def _(folder: Path) -> None:
    for base in (folder, folder / "chest_xray"):
        fill(base / "train", 16)
        fill(base / "test", 4, first=100)
        fill(base / "val", 2, first=200)
        put(base / ".DS_Store")
        put(base / "train" / ".DS_Store")
        for path in list(base.rglob("*.jpeg")):
            if "__MACOSX" not in path.parts:
                path.write_bytes(path.name.encode())
                copy = folder / "__MACOSX" / path.relative_to(folder)
                put(copy.with_name("._" + copy.name))


@layout("valid for val")
def _(folder: Path) -> None:
    fill(folder / "train", 16)
    fill(folder / "test", 4, first=100)
    fill(folder / "valid", 6, first=200)


@layout("Training, Testing")
def _(folder: Path) -> None:
    fill(folder / "Training", 16)
    fill(folder / "Testing", 4, first=100)


@layout("splits with other words")
def _(folder: Path) -> None:
    fill(folder / "stage 1 train_images", 16)
    fill(folder / "external test cohort", 4, first=100)


@layout("any case")
def _(folder: Path) -> None:
    fill(folder / "Train", 16, ("Normal", "Pneumonia"))
    fill(folder / "TEST", 4, ("normal", "pneumonia"), first=100)


@layout("splits within classes")
def _(folder: Path) -> None:
    for label, name in enumerate(CLASSES):
        for number in range(20):
            split = "train" if number < 16 else "test"
            put(folder / name / split / public_name(label, number))


@layout("a folder beside the splits")
def _(folder: Path) -> None:
    fill(folder / "train", 16)
    fill(folder / "test", 4, first=100)
    fill(folder / "extra", 3, first=200)


@layout("splits in another language")
def _(folder: Path) -> None:
    fill(folder / "Entrenamiento", 16)
    fill(folder / "Prueba", 4, first=100)


@layout("bacteria and virus")
def _(folder: Path) -> None:
    fill(folder / "train", 16, ("NORMAL", "BACTERIA"))
    fill(folder / "train", 8, ("NORMAL", "VIRUS"), first=8)


@layout("bacteria and virus, mapped", class_map=("bacteria=PNEUMONIA", "VIRUS=PNEUMONIA"))
def _(folder: Path) -> None:
    LAYOUTS["bacteria and virus"].make(folder)


@layout("a third class")
def _(folder: Path) -> None:
    fill(folder, 16, ("normal", "pneumonia"))
    for number in range(8):
        put(folder / "covid" / f"covid{number}.jpg")
    put(folder / "metadata.csv")


@layout("a third class, mapped to none", class_map=("COVID=none",))
def _(folder: Path) -> None:
    LAYOUTS["a third class"].make(folder)


@layout("classes 0 and 1")
def _(folder: Path) -> None:
    fill(folder, 16, ("0", "1"))


@layout("classes 0 and 1, mapped", class_map=("0=NORMAL", "1=PNEUMONIA"))
def _(folder: Path) -> None:
    fill(folder, 16, ("0", "1"))


@layout("plural class names")
def _(folder: Path) -> None:
    fill(folder / "train", 16, ("NORMALS", "PNEUMONIAS"))


@layout("a blank after a class name")
def _(folder: Path) -> None:
    fill(folder / "train", 16, ("NORMAL", "PNEUMONIA "))


@layout("numbered class names")
def _(folder: Path) -> None:
    fill(folder, 16, ("0_normal", "1_pneumonia"))


@layout("notebook checkpoints")
def _(folder: Path) -> None:
    fill(folder, 20)
    for name in CLASSES:
        for number in range(6):
            put(folder / name / ".ipynb_checkpoints" / f"{number}-checkpoint.jpeg")


@layout("thumbnails of a NAS")
def _(folder: Path) -> None:
    fill(folder, 20)
    for path in list(folder.rglob("*.jpeg")):
        put(path.parent / "@eaDir" / path.name / "SYNOPHOTO_THUMB_M.jpg")


@layout("litter of Windows")
def _(folder: Path) -> None:
    fill(folder, 20)
    for path in list(folder.rglob("*.jpeg")):
        put(path.with_name(path.name + ":Zone.Identifier"))
    for name in CLASSES:
        put(folder / name / "Thumbs.db")
        put(folder / name / "desktop.ini")


@layout("trash")
def _(folder: Path) -> None:
    fill(folder, 20)
    for number in range(6):
        put(folder / ".Trash-1000" / "files" / "NORMAL" / f"{number}.jpeg")
        put(folder / "$RECYCLE.BIN" / "PNEUMONIA" / f"{number}.jpeg")


@layout("masks beside images")
def _(folder: Path) -> None:
    for label, name in enumerate(CLASSES):
        for number in range(20):
            put(folder / name / "images" / public_name(label, number))
            put(folder / name / "masks" / public_name(label, number))


@layout("links into git-annex")
def _(folder: Path) -> None:
    fill(folder, 20)
    for number, path in enumerate(sorted(folder.rglob("*.jpeg"))):
        key = folder / ".git" / "annex" / "objects" / f"SHA256E-{number}.jpeg"
        key.parent.mkdir(parents=True, exist_ok=True)
        path.rename(key)
        path.symlink_to(os.path.relpath(key, path.parent))


@layout("a view of links")
def _(folder: Path) -> None:
    fill(folder / "view", 20)
    for path in sorted((folder / "view").rglob("*.jpeg")):
        file = folder / "images" / path.name
        file.parent.mkdir(exist_ok=True)
        path.rename(file)
        path.symlink_to(os.path.relpath(file, path.parent))


@layout("hard-linked snapshots")
def _(folder: Path) -> None:
    fill(folder / "monday", 20)
    for path in sorted((folder / "monday").rglob("*.jpeg")):
        again = folder / "tuesday" / path.relative_to(folder / "monday")
        again.parent.mkdir(parents=True, exist_ok=True)
        again.hardlink_to(path)


@layout("own results")
def _(folder: Path) -> None:
    fill(folder, 20)
    for name in ("status.json", "spec.yaml", "predictions/part-00000.parquet", "NORMAL/x.jpeg"):
        put(folder / "runs" / "score-20260131-020000-1a2b3c" / name)
    for name in ("bundle.json", "model.keras", "README.md"):
        put(folder / "models" / "lite0" / name)
    for name in ("dataset.json", "manifest.parquet", "images/part-00000.arrow"):
        put(folder / "ingested" / name)
    for name in (".orchestrator-demo", "phantoms/NORMAL/1.jpeg"):
        put(folder / "demo" / name)
    put(folder / "_SUCCESS")


@layout("patients of NIH in names")
def _(folder: Path) -> None:
    for name in CLASSES:
        for number in range(20):
            put(folder / name / f"{number // 2:08d}_{number % 2:03d}.png")


@layout("names without patients")
def _(folder: Path) -> None:
    for name in CLASSES:
        for number in range(20):
            put(folder / name / f"scan-{name}-{number}.png")


@layout("patients' folders")
def _(folder: Path) -> None:
    for label, name in enumerate(CLASSES):
        for number in range(20):
            put(folder / name / f"patient{label}{number // 2:04d}" / "study1" / f"{number}.jpg")


@layout("names of the world")
def _(folder: Path) -> None:
    names = [
        "with space.jpg",
        "-rf.jpg",
        "=cmd.jpg",
        "a\nb.jpg",
        "back\\slash.jpg",
        "no suffix",
        "Ä.jpg",
    ]
    for name in names:
        put(folder / name)
    put(Path(os.fsdecode(os.fsencode(folder) + b"/latin\xe9.jpg")), b"x")
    put(folder / ("deep/" * 30) / "deep.jpg")


# --- tables -------------------------------------------------------------------------------------


@layout("CSV")
def _(folder: Path) -> Path:
    return write_table(folder / "table.csv", listed(folder))


@layout("CSV with a byte order mark")
def _(folder: Path) -> Path:
    path = write_table(folder / "table.csv", listed(folder))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    return path


@layout("CSV by semicolons")
def _(folder: Path) -> Path:
    rows = [(path, f"{label},0", patient) for path, label, patient in listed(folder)]
    return write_table(folder / "table.csv", rows, separator=";")


@layout("CSV by tabs")
def _(folder: Path) -> Path:
    return write_table(folder / "table.csv", listed(folder), separator="\t")


@layout("TSV")
def _(folder: Path) -> Path:
    return write_table(folder / "table.tsv", listed(folder), separator="\t")


@layout("CSV, zipped")
def _(folder: Path) -> Path:
    plain = write_table(folder / "table.csv", listed(folder))
    zipped = folder / "table.csv.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    return zipped


@layout("CSV in UTF-16")
def _(folder: Path) -> Path:
    path = write_table(folder / "table.csv", listed(folder), separator="\t")
    path.write_bytes(path.read_text().encode("utf-16"))
    return path


@layout("Excel")
def _(folder: Path) -> Path:
    listed(folder)
    put(folder / "table.xlsx", b"PK\x03\x04" + bytes(100))
    return folder / "table.xlsx"


@layout("Excel named CSV")
def _(folder: Path) -> Path:
    listed(folder)
    put(folder / "table.csv", b"PK\x03\x04" + bytes(100))
    return folder / "table.csv"


@layout("paths of Windows")
def _(folder: Path) -> Path:
    rows = [(path.replace("/", "\\"), *rest) for path, *rest in listed(folder)]
    return write_table(folder / "table.csv", rows)


@layout("paths with a drive")
def _(folder: Path) -> Path:
    rows = [("D:\\data\\" + path.replace("/", "\\"), *rest) for path, *rest in listed(folder)]
    return write_table(folder / "table.csv", rows)


@layout("paths from the folder above")
def _(folder: Path) -> Path:
    rows = [(f"{folder.name}/{path}", *rest) for path, *rest in listed(folder)]
    return write_table(folder / "table.csv", rows)


@layout("paths from another root")
def _(folder: Path) -> Path:
    rows = [("chest_xray/" + path, *rest) for path, *rest in listed(folder)]
    return write_table(folder / "table.csv", rows)


@layout("paths in another case")
def _(folder: Path) -> Path:
    rows = [(path.replace(".png", ".PNG"), *rest) for path, *rest in listed(folder)]
    return write_table(folder / "table.csv", rows)


@layout("names without their folder")
def _(folder: Path) -> Path:
    rows = [(Path(path).name, *rest) for path, *rest in listed(folder)]
    return write_table(folder / "table.csv", rows)


@layout("paths beside the table's folder")
def _(folder: Path) -> Path:
    rows = [("../" + path, *rest) for path, *rest in listed(folder)]
    (folder / "labels").mkdir()
    return write_table(folder / "labels" / "table.csv", rows)


@layout("files not all there")
def _(folder: Path) -> Path:
    gone = [(f"images/gone{n}.png", n % 2, f"g{n}") for n in range(30)]
    return write_table(folder / "table.csv", listed(folder) + gone)


@layout("pandas index")
def _(folder: Path) -> Path:
    rows = [(number, *row) for number, row in enumerate(listed(folder))]
    return write_table(folder / "table.csv", rows, ",path,label,patient_id")


@layout("labels as floats and gaps")
def _(folder: Path) -> Path:
    rows: list[Any] = [(path, float(label), patient) for path, label, patient in listed(folder)]
    rows[3] = (rows[3][0], "nan", rows[3][2])
    rows[4] = (rows[4][0], "", rows[4][2])
    return write_table(folder / "table.csv", rows)


@layout("uncertain labels")
def _(folder: Path) -> Path:
    rows: list[Any] = list(listed(folder))
    rows[3] = (rows[3][0], "-1.0", rows[3][2])
    return write_table(folder / "table.csv", rows)


@layout("labels in other words")
def _(folder: Path) -> Path:
    rows = [(path, "pos" if label else "neg", patient) for path, label, patient in listed(folder)]
    return write_table(folder / "table.csv", rows)


@layout("labels in other words, mapped", class_map=("pos=PNEUMONIA", "neg=NORMAL"))
def _(folder: Path) -> Path:
    return LAYOUTS["labels in other words"].make(folder)


@layout("labels of several findings")
def _(folder: Path) -> Path:
    words = ("No Finding", "Pneumonia|Effusion")
    rows = [(path, words[label], patient) for path, label, patient in listed(folder)]
    return write_table(folder / "table.csv", rows)


@layout("one row a box")
def _(folder: Path) -> Path:
    rows = [row for row in listed(folder) for _ in range(1 + row[1])]
    return write_table(folder / "table.csv", rows)


@layout("patients as numbers")
def _(folder: Path) -> Path:
    rows = listed(folder)
    written = [
        (path, label, q if n < 20 else f"{int(q)}.0") for n, (path, label, q) in enumerate(rows)
    ]
    return write_table(folder / "table.csv", written)


@layout("a split column")
def _(folder: Path) -> Path:
    names = ("validate", "training", "train", "train", "Testing")
    rows = [(path, label, names[n % 5]) for n, (path, label, _) in enumerate(listed(folder))]
    return write_table(folder / "table.csv", rows, "path,label,split")


@layout("blanks after commas")
def _(folder: Path) -> Path:
    rows = [(f'"{path}"', f' "{label}"', f" {patient}") for path, label, patient in listed(folder)]
    return write_table(folder / "table.csv", rows, "path, label, patient_id")


@layout("a header alone")
def _(folder: Path) -> Path:
    return write_table(folder / "table.csv", [])


@layout("no header")
def _(folder: Path) -> Path:
    first, *rows = listed(folder)
    return write_table(folder / "table.csv", rows, ",".join(map(str, first)))


@layout("line ends of an old Mac")
def _(folder: Path) -> Path:
    path = write_table(folder / "table.csv", listed(folder))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r"))
    return path


@layout("Parquet of pandas")
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


@layout("Parquet with true and false")
def _(folder: Path) -> Path:
    paths, labels, _ = zip(*listed(folder), strict=True)
    pq.write_table(pa.table({"path": paths, "label": map(bool, labels)}), folder / "table.parquet")
    return folder / "table.parquet"


# --- tables of public data sets -----------------------------------------------------------------


@layout("NIH")
def _(folder: Path) -> Path:
    words = ("No Finding", "Effusion|Pneumonia")
    rows: list[Any] = []
    for path, label, patient in listed(folder):
        moved = folder / f"images_{label + 1:03d}" / "images" / Path(path).name
        moved.parent.mkdir(parents=True, exist_ok=True)
        (folder / path).rename(moved)
        rows.append((moved.name, words[label], 0, int(patient), "058Y", "M", "PA", ""))
    rows[0] = (rows[0][0], "Mass|Nodule", *rows[0][2:])
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View,"
    return write_table(folder / "Data_Entry_2017.csv", rows, header)


@layout("CheXpert")
def _(folder: Path) -> Path:
    base = folder / "CheXpert-v1.0-small"
    rows = []
    for label in (0, 1):
        for number in range(20):
            path = f"train/patient{label}{number:04d}/study1/view1_frontal.jpg"
            put(base / path)
            value = f"{label}.0" if number else "-1.0"
            rows.append((f"CheXpert-v1.0-small/{path}", "Male", 60, "Frontal", "", value))
    header = "Path,Sex,Age,Frontal/Lateral,No Finding,Pneumonia"
    return write_table(base / "train.csv", rows, header)


@layout("RSNA")
def _(folder: Path) -> Path:
    rows = []
    for label in (0, 1):
        for number in range(20):
            patient = f"{label}{number:03d}4cfab-14fd-4e49"
            put(folder / "stage_2_train_images" / f"{patient}.dcm")
            rows += [(patient, "", "", "", "", label)] * (1 + label)
    header = "patientId,x,y,width,height,Target"
    return write_table(folder / "stage_2_train_labels.csv", rows, header)


@layout("MIMIC-CXR")
def _(folder: Path) -> Path:
    rows = []
    for label in (0, 1):
        for number in range(10):
            subject, study = 10000000 + number, 50000000 + 100 * label + number
            for view in ("a", "b"):
                put(folder / f"files/p10/p{subject}/s{study}/{view}{label}{number}.jpg")
            values = ("1.0", "") if not label else ("", "1.0")
            rows.append((subject, study, *values))
    plain = write_table(folder / "t.csv", rows, "subject_id,study_id,No Finding,Pneumonia")
    table = folder / "mimic-cxr-2.0.0-chexpert.csv.gz"
    table.write_bytes(gzip.compress(plain.read_bytes()))
    return table


@layout("PadChest")
def _(folder: Path) -> Path:
    findings = ("\"['normal', 'unchanged']\"", "\"['pneumonia', 'pleural effusion']\"")
    rows: list[Any] = []
    for label in (0, 1):
        for number in range(20):
            name = f"{label}{number:04d}_k6ga29.png"
            put(folder / str(number % 3) / name)
            rows.append((len(rows), name, number % 3, f"p{number // 2}", findings[label]))
    rows[0] = (*rows[0][:-1], "\"['cardiomegaly']\"")
    return write_table(folder / "padchest.csv", rows, ",ImageID,ImageDir,PatientID,Labels")


@layout("NIH by another header", table="nih")
def _(folder: Path) -> Path:
    return write_table(folder / "table.csv", listed(folder))
