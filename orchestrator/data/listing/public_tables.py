"""The tables of public chest X-ray data sets, as their authors publish them.

Each is told by its columns, or named by the user, and read into the columns of a plain table:
path, label, patient. An image is PNEUMONIA where the table says pneumonia, whatever else it says;
NORMAL where it says that nothing was found (or, in CheXpert's columns, that there is no
pneumonia). Every other finding alone gives no label.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.config.listing import TableName
from orchestrator.data.listing.names import fold

UNCERTAIN = "-1"  # the label of a case that its readers left open
OTHER = "other findings"
# All that is read of any of these tables, names in lower case.
READ_COLUMNS = frozenset(
    {
        "image index",
        "finding labels",
        "patient id",
        "path",
        "patient_id",
        "pneumonia",
        "no finding",
        "patientid",
        "target",
        "class",
        "subject_id",
        "study_id",
        "dicom_id",
        "split",
        "imageid",
        "imagedir",
        "labels",
    }
)

Row = Mapping[str, Any]  # values by column name in lower case
Record = dict[str, Any]  # of path, label, patient_id, split


@dataclass(frozen=True)
class PublicTable:
    """One kind of table.

    Attributes:
        title: for messages.
        columns: alternatives, each of the columns by which a table is told.
        read: gives path, label, patient_id and split of a row, as far as the table has them.
        gives: those of them that come from columns; the others come from the path.
        needs: column without which one of these does come from the path.
        by_name: a file may lie in any folder below the table's, and lack its suffix in the table.
        is_merged: an image may have several rows; one that says pneumonia decides.
        of_folders: a path may be a folder, whose images all have the row's label.
    """

    title: str
    columns: tuple[frozenset[str], ...]
    read: Callable[[Row], Record]
    gives: frozenset[str]
    needs: Mapping[str, str] = field(default_factory=dict)
    by_name: bool = False
    is_merged: bool = False
    of_folders: bool = False

    def is_table(self, names: Collection[str]) -> bool:
        """Returns whether a header with these names, in lower case, is this table's."""
        # A table with a path says itself where its files are.
        return any(
            needed <= set(names) and ("path" in needed or "path" not in names)
            for needed in self.columns
        )

    def given_by(self, names: Collection[str]) -> frozenset[str]:
        """Returns which of path, label, patient_id and split a table with this header gives."""
        lacking = {part for part, column in self.needs.items() if column not in names}
        return self.gives - lacking


def _read_nih(row: Row) -> Record:
    findings = {fold(part) for part in _text(row, "finding labels").split("|")}
    label = "1" if "pneumonia" in findings else "0" if findings == {"no finding"} else OTHER
    return {
        "path": _text(row, "image index"),
        "label": label,
        "patient_id": _text(row, "patient id") or None,
    }


def _read_chexpert(row: Row) -> Record:
    own = {name: _text(row, name) or None for name in ("patient_id", "split")}
    return {"path": row.get("path"), "label": _chexpert_label(row), **own}


def _read_rsna(row: Row) -> Record:
    label = _text(row, "target")
    if "class" in row:  # stage_2_detailed_class_info
        label = {"normal": "0", "lung opacity": "1"}.get(fold(_text(row, "class")), OTHER)
    patient = _text(row, "patientid")
    return {"path": patient, "label": label, "patient_id": patient}


def _read_mimic(row: Row) -> Record:
    subject, study = (_text(row, name).removesuffix(".0") for name in ("subject_id", "study_id"))
    path = f"files/p{subject[:2]}/p{subject}/s{study}" if subject and study else ""
    if "dicom_id" in row:
        path += f"/{_text(row, 'dicom_id')}"
    record = {"path": path, "patient_id": subject or None, "split": _text(row, "split") or None}
    return record | ({"label": _chexpert_label(row)} if "pneumonia" in row else {})


def _read_padchest(row: Row) -> Record:
    findings = {fold(name) for name in re.findall(r"'([^']*)'", _text(row, "labels"))}
    label = OTHER
    if findings & {"pneumonia", "atypical pneumonia"}:
        label = "1"
    elif findings - {"unchanged"} == {"normal"}:
        label = "0"
    return {
        "path": f"{_text(row, 'imagedir').removesuffix('.0')}/{_text(row, 'imageid')}",
        "label": label,
        "patient_id": _text(row, "patientid") or None,
    }


def _chexpert_label(row: Row) -> str:
    """Returns the label of CheXpert's columns: 1 present, 0 absent, -1 uncertain, or nothing."""
    pneumonia, nothing = (_text(row, name) for name in ("pneumonia", "no finding"))
    if pneumonia.startswith("1"):
        return "1"
    if pneumonia.startswith("-1"):
        return UNCERTAIN
    return "0" if pneumonia.startswith("0") or nothing.startswith("1") else OTHER


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    text = "" if value is None else str(value).strip()
    return "" if text.lower() == "nan" else text


PUBLIC_TABLES: dict[TableName, PublicTable] = {
    "nih": PublicTable(
        "the table of NIH ChestX-ray14",
        (frozenset({"image index", "finding labels"}),),
        _read_nih,
        frozenset({"path", "label", "patient_id"}),
        by_name=True,
    ),
    "chexpert": PublicTable(
        "the table of CheXpert",
        (frozenset({"path", "pneumonia"}),),
        _read_chexpert,
        frozenset({"path", "label", "patient_id", "split"}),
        needs={"patient_id": "patient_id", "split": "split"},
    ),
    "rsna": PublicTable(
        "the table of the RSNA pneumonia challenge",
        (frozenset({"patientid", "target"}), frozenset({"patientid", "class"})),
        _read_rsna,
        frozenset({"path", "label", "patient_id"}),
        by_name=True,
        is_merged=True,
    ),
    "mimic": PublicTable(
        "the table of MIMIC-CXR",
        (frozenset({"subject_id", "study_id"}),),
        _read_mimic,
        frozenset({"path", "label", "patient_id", "split"}),
        needs={"label": "pneumonia", "split": "split"},
        by_name=True,
        of_folders=True,
    ),
    "padchest": PublicTable(
        "the table of PadChest",
        (frozenset({"imageid", "imagedir", "labels"}),),
        _read_padchest,
        frozenset({"path", "label", "patient_id"}),
        by_name=True,
    ),
}
