"""Folders of images: class folders, splits, litter, links and names."""

import os
from pathlib import Path

from tests.data.layouts.layout import CLASSES, Layouts, put

FOLDERS = Layouts()


def public_name(label: int, number: int) -> str:
    """A file name of the public data set, one patient each."""
    kind = "bacteria" if number % 2 else "virus"
    return f"person{number}_{kind}_1.jpeg" if label else f"IM-{number:04d}-0001.jpeg"


def fill(folder: Path, count: int, names: tuple[str, str] = CLASSES, first: int = 0) -> None:
    """Makes two class folders of so many files each."""
    for label, name in enumerate(names):
        for number in range(first, first + count):
            put(folder / name / public_name(label, number))


@FOLDERS.add("public data set")
def _(folder: Path) -> None:
    fill(folder / "train", 16)
    fill(folder / "test", 4, first=100)
    fill(folder / "val", 2, first=200)


@FOLDERS.add("zip within a zip")
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


@FOLDERS.add("valid for val")
def _(folder: Path) -> None:
    fill(folder / "train", 16)
    fill(folder / "test", 4, first=100)
    fill(folder / "valid", 6, first=200)


@FOLDERS.add("Training, Testing")
def _(folder: Path) -> None:
    fill(folder / "Training", 16)
    fill(folder / "Testing", 4, first=100)


@FOLDERS.add("splits with other words")
def _(folder: Path) -> None:
    fill(folder / "stage 1 train_images", 16)
    fill(folder / "external test cohort", 4, first=100)


@FOLDERS.add("any case")
def _(folder: Path) -> None:
    fill(folder / "Train", 16, ("Normal", "Pneumonia"))
    fill(folder / "TEST", 4, ("normal", "pneumonia"), first=100)


@FOLDERS.add("splits within classes")
def _(folder: Path) -> None:
    for label, name in enumerate(CLASSES):
        for number in range(20):
            split = "train" if number < 16 else "test"
            put(folder / name / split / public_name(label, number))


@FOLDERS.add("a folder beside the splits")
def _(folder: Path) -> None:
    fill(folder / "train", 16)
    fill(folder / "test", 4, first=100)
    fill(folder / "extra", 3, first=200)


@FOLDERS.add("splits in another language")
def _(folder: Path) -> None:
    fill(folder / "Entrenamiento", 16)
    fill(folder / "Prueba", 4, first=100)


@FOLDERS.add("bacteria and virus")
def _(folder: Path) -> None:
    fill(folder / "train", 16, ("NORMAL", "BACTERIA"))
    fill(folder / "train", 8, ("NORMAL", "VIRUS"), first=8)


@FOLDERS.add("bacteria and virus, mapped", class_map=("bacteria=PNEUMONIA", "VIRUS=PNEUMONIA"))
def _(folder: Path) -> None:
    FOLDERS["bacteria and virus"].make(folder)


@FOLDERS.add("a third class")
def _(folder: Path) -> None:
    fill(folder, 16, ("normal", "pneumonia"))
    for number in range(8):
        put(folder / "covid" / f"covid{number}.jpg")
    put(folder / "metadata.csv")


@FOLDERS.add("a third class, mapped to none", class_map=("COVID=none",))
def _(folder: Path) -> None:
    FOLDERS["a third class"].make(folder)


@FOLDERS.add("classes 0 and 1")
def _(folder: Path) -> None:
    fill(folder, 16, ("0", "1"))


@FOLDERS.add("classes 0 and 1, mapped", class_map=("0=NORMAL", "1=PNEUMONIA"))
def _(folder: Path) -> None:
    fill(folder, 16, ("0", "1"))


@FOLDERS.add("plural class names")
def _(folder: Path) -> None:
    fill(folder / "train", 16, ("NORMALS", "PNEUMONIAS"))


@FOLDERS.add("a blank after a class name")
def _(folder: Path) -> None:
    fill(folder / "train", 16, ("NORMAL", "PNEUMONIA "))


@FOLDERS.add("numbered class names")
def _(folder: Path) -> None:
    fill(folder, 16, ("0_normal", "1_pneumonia"))


@FOLDERS.add("notebook checkpoints")
def _(folder: Path) -> None:
    fill(folder, 20)
    for name in CLASSES:
        for number in range(6):
            put(folder / name / ".ipynb_checkpoints" / f"{number}-checkpoint.jpeg")


@FOLDERS.add("thumbnails of a NAS")
def _(folder: Path) -> None:
    fill(folder, 20)
    for path in list(folder.rglob("*.jpeg")):
        put(path.parent / "@eaDir" / path.name / "SYNOPHOTO_THUMB_M.jpg")


@FOLDERS.add("litter of Windows")
def _(folder: Path) -> None:
    fill(folder, 20)
    for path in list(folder.rglob("*.jpeg")):
        put(path.with_name(path.name + ":Zone.Identifier"))
    for name in CLASSES:
        put(folder / name / "Thumbs.db")
        put(folder / name / "desktop.ini")


@FOLDERS.add("trash")
def _(folder: Path) -> None:
    fill(folder, 20)
    for number in range(6):
        put(folder / ".Trash-1000" / "files" / "NORMAL" / f"{number}.jpeg")
        put(folder / "$RECYCLE.BIN" / "PNEUMONIA" / f"{number}.jpeg")


@FOLDERS.add("masks beside images")
def _(folder: Path) -> None:
    for label, name in enumerate(CLASSES):
        for number in range(20):
            put(folder / name / "images" / public_name(label, number))
            put(folder / name / "masks" / public_name(label, number))


@FOLDERS.add("links into git-annex")
def _(folder: Path) -> None:
    fill(folder, 20)
    for number, path in enumerate(sorted(folder.rglob("*.jpeg"))):
        key = folder / ".git" / "annex" / "objects" / f"SHA256E-{number}.jpeg"
        key.parent.mkdir(parents=True, exist_ok=True)
        path.rename(key)
        path.symlink_to(os.path.relpath(key, path.parent))


@FOLDERS.add("a view of links")
def _(folder: Path) -> None:
    fill(folder / "view", 20)
    for path in sorted((folder / "view").rglob("*.jpeg")):
        file = folder / "images" / path.name
        file.parent.mkdir(exist_ok=True)
        path.rename(file)
        path.symlink_to(os.path.relpath(file, path.parent))


@FOLDERS.add("hard-linked snapshots")
def _(folder: Path) -> None:
    fill(folder / "monday", 20)
    for path in sorted((folder / "monday").rglob("*.jpeg")):
        again = folder / "tuesday" / path.relative_to(folder / "monday")
        again.parent.mkdir(parents=True, exist_ok=True)
        again.hardlink_to(path)


@FOLDERS.add("own results")
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


@FOLDERS.add("patients of NIH in names")
def _(folder: Path) -> None:
    for name in CLASSES:
        for number in range(20):
            put(folder / name / f"{number // 2:08d}_{number % 2:03d}.png")


@FOLDERS.add("names without patients")
def _(folder: Path) -> None:
    for name in CLASSES:
        for number in range(20):
            put(folder / name / f"scan-{name}-{number}.png")


@FOLDERS.add("patients' folders")
def _(folder: Path) -> None:
    for label, name in enumerate(CLASSES):
        for number in range(20):
            put(folder / name / f"patient{label}{number // 2:04d}" / "study1" / f"{number}.jpg")


@FOLDERS.add("names of the world")
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
