"""Public data sets, each with the table that comes with it."""

import gzip
from pathlib import Path
from typing import Any

from tests.data.layouts.layout import Layouts, put
from tests.data.layouts.tables import listed, write_table

PUBLIC_TABLES = Layouts()


@PUBLIC_TABLES.add("NIH")
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


@PUBLIC_TABLES.add("CheXpert")
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


@PUBLIC_TABLES.add("RSNA")
def _(folder: Path) -> Path:
    rows = []
    for label in (0, 1):
        for number in range(20):
            patient = f"{label}{number:03d}4cfab-14fd-4e49"
            put(folder / "stage_2_train_images" / f"{patient}.dcm")
            rows += [(patient, "", "", "", "", label)] * (1 + label)
    header = "patientId,x,y,width,height,Target"
    return write_table(folder / "stage_2_train_labels.csv", rows, header)


@PUBLIC_TABLES.add("MIMIC-CXR")
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


@PUBLIC_TABLES.add("PadChest")
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


@PUBLIC_TABLES.add("NIH by another header", table="nih")
def _(folder: Path) -> Path:
    return write_table(folder / "table.csv", listed(folder))
