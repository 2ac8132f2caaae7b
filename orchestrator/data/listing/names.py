"""What the path of a file says about it: label, split, patient.

Folder names are compared without case. Tables that state these facts in columns are read in
`tables.py`; a DICOM header's patient id comes from `images.py`.
"""

import re
from typing import NamedTuple

from orchestrator.data.schema import CLASS_NAMES

LABEL_OF_NAME = {name.lower(): label for label, name in enumerate(CLASS_NAMES)}
SPLIT_OF_NAME = {"train": "train", "val": "val", "validation": "val", "test": "test"}

# `person1_virus_6.jpeg`, `IM-0115-0001.jpeg`, `NORMAL2-IM-0381-0001.jpeg`: the public pediatric
# data set. Never for DICOM: a viewer's export calls every patient's first file IM-0001-0001.dcm.
_PATIENT = re.compile(
    r"(person\d+)_(?:bacteria|virus)_\d+(?:_\d+)?\.(?:jpe?g|png)"
    r"|((?:NORMAL2-)?IM-\d+)-\d+(?:-\d+)?\.(?:jpe?g|png)",
    re.IGNORECASE | re.ASCII,
)
_CLASH_SCOPE = re.compile(r"^(?:train|test)/")


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


def read_folders(folder: bytes) -> FolderFacts:
    """Returns what the folders of a path say; the root's own name is not part of it.

    A class folder may lie at any depth, with any folders below it. Folders of both classes in one
    path contradict each other: no label. The split is the split-named folder nearest above the
    class folder, or the innermost one where there is no class folder. Patient numbers in a
    validation folder continue those of `train` (so in the public data set), and share its scope.

    Args:
        folder: folder of the file, relative to the root, `b""` for the root itself.

    Returns:
        Label, split and scope.
    """
    parts = folder.decode("utf-8", "surrogateescape").lower().split("/")
    at = [index for index, part in enumerate(parts) if part in LABEL_OF_NAME]
    labels = {LABEL_OF_NAME[parts[index]] for index in at}
    above = parts[: at[0]] if at else parts
    splits = [SPLIT_OF_NAME[part] for part in above if part in SPLIT_OF_NAME]
    split = splits[-1] if splits else None
    return FolderFacts(
        label=labels.pop() if len(labels) == 1 else None,
        split=split,
        scope="train" if split == "val" else split,
    )


def patient_of_name(name: bytes, scope: str | None) -> str | None:
    """Returns the patient that the public data set's file name tells, or None.

    Args:
        name: file name without folders.
        scope: the folder from `read_folders` within which the number is unique.

    Returns:
        For instance "person12", or "train/person12" where the file lies under a train folder.
    """
    match = _PATIENT.fullmatch(name.decode("utf-8", "surrogateescape"))
    if match is None:
        return None
    patient = match.group(1) or match.group(2)
    return patient if scope is None else f"{scope}/{patient}"


def unscoped_patient(patient_id: str) -> str:
    """Returns a patient id from a file name without the folder it was scoped to."""
    return _CLASH_SCOPE.sub("", patient_id)
