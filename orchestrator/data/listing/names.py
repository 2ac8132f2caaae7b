"""What the path of a file says about it: label, split, patient.

Names are compared without case, with blanks, `_` and `-` alike. Tables that state these facts in
columns are read in `tables.py`; a DICOM header's patient id comes from `images.py`.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from orchestrator.data.schema import CLASS_NAMES

# Names of classes as `fold` gives them. None: a name that the user has said stands for no class.
Labels = Mapping[str, int | None]
LABEL_OF_NAME: Labels = {name.lower(): label for label, name in enumerate(CLASS_NAMES)} | {
    "no finding": 0
}

_SPLIT_OF_WORD = {
    **dict.fromkeys(("train", "training", "trainset", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "valset", "dev"), "val"),
    **dict.fromkeys(("test", "tests", "testing", "testset", "eval", "evaluation"), "test"),
}
_KEPT_APART = re.compile("holdout|heldout")
# Words that say nothing beside one of the above: `train_images`, `stage 2 test set`.
_FILLERS = re.compile(
    "|a|chest|cxr|data|dataset|dcm|dicom|files|final|folder|full|images?|imgs?|jpe?g|new|of|part"
    "|png|rays?|set|split|stage|the|x|xrays?"
)

_SEPARATORS = re.compile(r"[\s_-]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_NOT_LETTERS = re.compile(r"[^a-z]+")
_NUMBERING = re.compile(r"[0-9]+[ .)]+")  # of class folders that are to sort: `0_NORMAL`

# `person1_virus_6.jpeg`, `IM-0115-0001.jpeg`, `NORMAL2-IM-0381-0001.jpeg`: the public pediatric
# data set. The causes are numbered apart: images of one number and of both causes are no more alike
# than those of strangers. Never for DICOM: a viewer's export calls every patient's first file
# IM-0001-0001.dcm.
_PATIENT = re.compile(
    r"(person\d+_(?:bacteria|virus))_\d+(?:_\d+)?\.(?:jpe?g|png)"
    r"|((?:NORMAL2-)?IM-\d+)-\d+(?:-\d+)?\.(?:jpe?g|png)",
    re.IGNORECASE | re.ASCII,
)
# `00000012_003.png`: patient 12 of NIH ChestX-ray14. Its numbers mean the same in every folder.
_NIH_PATIENT = re.compile(r"(?=\d{8}_)0*(\d+)_\d{3}\.(?:jpe?g|png)", re.IGNORECASE | re.ASCII)
# Folders: `patient00012/study1` of CheXpert and the like, `p10000032/s50414267` of MIMIC-CXR,
# `sub-S03044/ses-E07985` of BIDS, as BIMCV has it.
_PATIENT_FOLDER = re.compile(
    r"(?:^|/)(?:(patient[ _-]?[0-9]+)(?:/|$)|p([0-9]{8})/s[0-9]{8}(?:/|$)|(sub-[a-z0-9]+)/ses-)",
    re.IGNORECASE | re.ASCII,
)
# What stands around a number in an id that `patient_of_name` gives: its scope, its cause.
_AROUND_NUMBER = re.compile(r"^(?:train|test)/|_(?:bacteria|virus)$", re.IGNORECASE)


class FolderFacts(NamedTuple):
    """What the folders above a file say.

    Attributes:
        label: 0 NORMAL, 1 PNEUMONIA, or None.
        split: "train", "val", "test", or None.
        scope: the folder within which patient numbers found in file names are unique: "train",
            "test", or None where there are no such folders.
    """

    label: int | None
    split: str | None
    scope: str | None


def fold(name: str) -> str:
    """Returns a name in the form in which names of classes are compared."""
    return _SEPARATORS.sub(" ", unicodedata.normalize("NFKC", name).casefold()).strip()


def class_of_name(name: str, labels: Labels = LABEL_OF_NAME) -> str | None:
    """Returns the key of `labels` that a folder's name or a table's text means, or None."""
    key = fold(name)
    if key not in labels:
        key = _NUMBERING.sub("", key, count=1)
    return key if key in labels else None


def split_of_name(name: str, *, exact: bool = False) -> str | None:
    """Returns the split that a folder's name or a table's text means, or None.

    Besides the word there may be fillers and numbers: `train_images`, `Testing set 2`.

    Args:
        name: of a folder, or text of a table.
        exact: no other words. Otherwise `external test cohort` means a test set as well: what
            somebody may have kept apart is not trained on.
    """
    spaced = _CAMEL.sub(" ", unicodedata.normalize("NFKC", name))
    words = [w for w in _NOT_LETTERS.split(spaced.casefold()) if not _FILLERS.fullmatch(w)]
    if "".join(words) in _SPLIT_OF_WORD:
        words = ["".join(words)]
    found = {_SPLIT_OF_WORD[word] for word in words if word in _SPLIT_OF_WORD}
    understood = all(word in _SPLIT_OF_WORD for word in words)
    if found == {"test"} and (understood or not exact):
        return "test"
    if not exact and _KEPT_APART.search("".join(words)):
        return "test"
    if not found or "test" in found or not understood:
        return None
    return "train" if "train" in found else "val"  # `train_val` is to be divided


def read_folders(folder: bytes, labels: Labels = LABEL_OF_NAME) -> FolderFacts:
    """Returns what the folders of a path say; the root's own name is not part of it.

    A class folder may lie at any depth, with any folders below it. Folders of both classes in one
    path contradict each other: no label. The split is the split-named folder nearest above the
    class folder, else the one right below it, or the innermost one where there is no class folder.
    Patient numbers in a validation folder continue those of `train` (so in the public data set),
    and share its scope.

    Args:
        folder: folder of the file, relative to the root, `b""` for the root itself.
        labels: names of classes.

    Returns:
        Label, split and scope.
    """
    parts = folder.decode("utf-8", "surrogateescape").split("/")
    classes = [class_of_name(part, labels) for part in parts]
    at = [index for index, name in enumerate(classes) if name is not None]
    found = {labels[name] for name in classes if name is not None}
    above = parts[: at[0]] if at else parts
    splits = [split for part in above if (split := split_of_name(part)) is not None]
    split = splits[-1] if splits else None
    if split is None and at and len(parts) > at[0] + 1:
        split = split_of_name(parts[at[0] + 1], exact=True)
    return FolderFacts(
        label=found.pop() if len(found) == 1 else None,
        split=split,
        scope="train" if split == "val" else split,
    )


def patient_of_name(name: bytes, scope: str | None) -> str | None:
    """Returns the patient that a file name of a public data set tells, or None.

    Args:
        name: file name without folders.
        scope: the folder from `read_folders` within which the number is unique, where the data
            set counts its patients folder by folder.

    Returns:
        For instance "person12_virus", or "train/person12_virus" where the file lies under a train
        folder.
    """
    text = name.decode("utf-8", "surrogateescape")
    if text[:1].isdigit():
        nih = _NIH_PATIENT.fullmatch(text)
        return nih and nih.group(1)
    match = _PATIENT.fullmatch(text)
    if match is None:
        return None
    patient = match.group(1) or match.group(2)
    return patient if scope is None else f"{scope}/{patient}"


def patient_of_folders(folder: bytes) -> str | None:
    """Returns the patient that a folder is named after, or None.

    Args:
        folder: folder of the file, relative to the root.

    Returns:
        For instance "patient00012", or "10000032" of `p10000032/s50414267`.
    """
    match = _PATIENT_FOLDER.search(folder.decode("utf-8", "surrogateescape"))
    return None if match is None else str(match[1] or match[2] or match[3]).lower()


def comparable_patients(patients: Sequence[str]) -> list[str]:
    """Returns patient ids from file names in the form in which their numbers are compared.

    Below different train and test folders the numbering may restart, so equal numbers there may be
    one patient, whatever the cause. Below one folder each cause has its own numbering.

    Args:
        patients: ids from `patient_of_name` or `patient_of_folders`.

    Returns:
        The number alone, such as "person12", where it occurs in several scopes; the id otherwise.
    """
    numbers = [_AROUND_NUMBER.sub("", patient) for patient in patients]
    scopes: dict[str, set[str]] = {}
    for patient, number in zip(patients, numbers, strict=True):
        scopes.setdefault(number, set()).add(patient.rpartition("/")[0])
    return [
        number if len(scopes[number]) > 1 else patient
        for patient, number in zip(patients, numbers, strict=True)
    ]
