"""What the cells of a table of inputs may hold, and what it means.

Each function takes a cell as CSV or Parquet gives it, and raises `ValueError` with what was
expected where it cannot be used; the table adds the line.
"""

# pathlib has no paths of bytes
# ruff: noqa: PTH117
import math
import os
import re
from typing import Literal

from orchestrator.data.listing.names import Labels, class_of_name, split_of_name
from orchestrator.data.listing.public_tables import OTHER, UNCERTAIN

_NOTHING = frozenset({"", "nan", "na", "n/a", "null", "none"})  # as pandas and R write no value
_NUMBER = re.compile(r"(-?[01])[.,]0+")  # pandas writes 1.0 near gaps; Excel 1,0 in Europe

Label = int | Literal["uncertain", "others"] | None


class UnknownLabelError(ValueError):
    """A label that is no known class's; `args` holds its text."""


def clean_path(value: str | bytes | None, folder: bytes) -> bytes:
    """Returns a path relative to the table's folder, or absolute when it lies elsewhere."""
    path = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    if not path:
        raise ValueError("the path is empty; expected the path of an image file")
    if b"\0" in path:
        raise ValueError("the path holds a NUL byte; expected the path of an image file")
    clean = os.path.normpath(path)
    if os.path.isabs(clean):
        clean = b"/" + clean.lstrip(b"/")  # POSIX lets a path begin with two slashes
        inside = folder.rstrip(b"/") + b"/"
        return clean.removeprefix(inside)
    if clean == b".." or clean.startswith(b"../"):
        raise ValueError(
            "the path leads out of the table's folder; move the table to a folder above the "
            "images, or write absolute paths"
        )
    return clean


def clean_patient(value: object) -> str | None:
    """Returns a patient id, or None for an empty cell."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip()
    if any("\udc80" <= character <= "\udcff" for character in text):
        raise ValueError("the patient id is not UTF-8 text; save the table as UTF-8")
    # pandas writes 12 as 12.0 where another patient's id is missing.
    return re.sub(r"(?<=[0-9])\.0+$", "", text) or None


def clean_split(value: object) -> str | None:
    """Returns "train", "val" or "test", or None for an empty cell."""
    text = "" if value is None else str(value).strip()
    if text.lower() in _NOTHING:
        return None
    split = split_of_name(text, exact=True)
    if split is None:
        raise ValueError(
            f"unknown split {str(value)[:20]!r}; expected train, val, validation, test or nothing"
        )
    return split


def clean_label(value: object, labels: Labels) -> Label:
    """Returns 0 NORMAL, 1 PNEUMONIA, why there is neither, or None for an empty cell.

    Args:
        value: of the cell; findings may stand side by side, `Pneumonia|Effusion`, of which
            PNEUMONIA counts before others.
        labels: names of classes; what the user has said of a text comes first.

    Returns:
        "uncertain" for -1, "others" for other findings alone.

    Raises:
        UnknownLabelError: the text means no class that is known.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip()
    key = class_of_name(text, labels)
    if key is not None:
        return labels[key]
    number = _NUMBER.fullmatch(text)
    digits = number[1] if number else text
    if digits in ("0", "1"):
        return int(digits)
    if digits == UNCERTAIN:
        return "uncertain"
    if text == OTHER:
        return "others"
    return None if text.lower() in _NOTHING else _label_of_findings(text, labels)


def _label_of_findings(text: str, labels: Labels) -> int | None:
    """Returns the label of findings such as `Pneumonia|Effusion`: PNEUMONIA where it is one.

    Raises:
        UnknownLabelError: none of them is known, or some are unknown beside NORMAL.
    """
    parts = text.split("|")
    keys = [class_of_name(part, labels) for part in parts]
    known = {labels[key] for key in keys if key is not None}
    if 1 in known:
        return 1
    if len(parts) == 1 or None in keys:
        raise UnknownLabelError(text)
    return known.pop() if len(known) == 1 else None
