"""To which groups each labelled image belongs: by origin, by patient, by device, by file.

Per image it keeps one byte a dimension. What the groups' figures are is measured in `subgroups.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator.data.listing.names import class_of_name, split_of_name

DIMENSIONS = {
    "root": "Input",
    "site_folder": "Site folder",
    "age_band": "Age",
    "sex": "Sex",
    "view": "View",
    "device": "Device",
    "format": "File format",
    "image_size": "Image size",
}
MAX_GROUPS = 50  # folders or devices beyond are no sites, but perhaps patients
_TOO_MANY = 255
# Ends of the bands: paediatric ones by development, adult ones by decades.
_AGES_YEARS = {
    1: "under 1 year",
    5: "1 to 4 years",
    18: "5 to 17 years",
    40: "18 to 39 years",
    65: "40 to 64 years",
    80: "65 to 79 years",
}
_OLDEST = "80 years and over"
_SIDES_PX = {
    512: "under 512 px",
    1024: "512 to 1023 px",
    2048: "1024 to 2047 px",
}
_LARGEST = "2048 px and over"
_SEXES = {"F": "female", "M": "male", "O": "other"}
# By their order, not by that of their names
_ORDERED = (*_AGES_YEARS.values(), _OLDEST, *_SIDES_PX.values(), _LARGEST)


@dataclass(frozen=True)
class Dimension:
    """The groups of one dimension.

    Attributes:
        name: a key of `DIMENSIONS`.
        groups: names of the groups, in the order in which they are shown.
        codes: uint8 [N], 1 + the place of an image's group, 0 where it is not known.
    """

    name: str
    groups: tuple[str, ...]
    codes: npt.NDArray[np.uint8]


@dataclass
class GroupCodes:
    """The groups of all labelled images added so far.

    Args:
        roots: name of each input.
    """

    roots: Sequence[str] = ()
    _numbers: dict[str, dict[str, int]] = field(
        default_factory=lambda: {name: {} for name in DIMENSIONS}
    )
    _codes: dict[str, list[npt.NDArray[np.uint8]]] = field(
        default_factory=lambda: {name: [] for name in DIMENSIONS}
    )

    def add(self, table: pa.Table) -> None:
        """Adds rows of a shard.

        Args:
            table: columns root, path, width_px and height_px of `schema.PREDICTIONS`, and those of
                DICOM headers and file_format, where there are such.
        """
        rows = table.select([n for n in _USED if n in table.column_names]).to_pylist()
        for name, find in ({"root": self._root_of} | _FINDERS).items():
            numbers = self._numbers[name]
            found = np.zeros(len(rows), np.uint8)
            for place, row in enumerate(rows):
                text = find(row)
                if text and (text in numbers or len(numbers) < MAX_GROUPS):
                    found[place] = numbers.setdefault(text, len(numbers) + 1)
                elif text:
                    found[place] = _TOO_MANY
            self._codes[name].append(found)

    def dimensions(self) -> list[Dimension]:
        """Returns the dimensions in which images differ, those of too many groups left out."""
        found = []
        for name, numbers in self._numbers.items():
            codes = np.concatenate([np.empty(0, np.uint8), *self._codes[name]])
            if len(numbers) > 1 and not (codes == _TOO_MANY).any():
                groups = sorted(numbers, key=lambda text: (_rank(text), text))
                places = np.zeros(len(numbers) + 1, np.uint8)
                places[[numbers[text] for text in groups]] = np.arange(1, len(groups) + 1)
                found.append(Dimension(name, tuple(groups), places[codes]))
        return found

    def _root_of(self, row: dict[str, Any]) -> str | None:
        number = row["root"]
        if number is None:
            return None
        return self.roots[number] if number < len(self.roots) else f"input {number + 1}"


def find_groups(rows: pa.Table) -> list[Dimension]:
    """Returns the dimensions in which some images differ; see `GroupCodes`.

    Args:
        rows: as `GroupCodes.add` takes them.
    """
    codes = GroupCodes()
    codes.add(rows)
    return codes.dimensions()


def _site_of(row: dict[str, Any]) -> str | None:
    """The first folder below the root that names neither a class nor a split."""
    folders = row["path"].split("/")[:-1]
    named = (f for f in folders if class_of_name(f) is None and split_of_name(f) is None)
    return next(named, None)


def _size_of(row: dict[str, Any]) -> str | None:
    sides = (row["width_px"], row["height_px"])
    return None if None in sides else _band(min(sides), _SIDES_PX, _LARGEST)


def _band(value: float | None, bands: dict[int, str], last: str) -> str | None:
    if value is None:
        return None
    return next((name for end, name in bands.items() if value < end), last)


def _device_of(row: dict[str, Any]) -> str | None:
    return " ".join(filter(None, (row.get("manufacturer"), row.get("device_model")))) or None


def _rank(text: str) -> int:
    return _ORDERED.index(text) if text in _ORDERED else 0


_USED = (
    *("root", "path", "width_px", "height_px", "file_format"),
    *("age_years", "sex", "view_position", "manufacturer", "device_model"),
)
_FINDERS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "site_folder": _site_of,
    "age_band": lambda row: _band(row.get("age_years"), _AGES_YEARS, _OLDEST),
    "sex": lambda row: _SEXES.get(row.get("sex") or ""),
    "view": lambda row: row.get("view_position"),
    "device": _device_of,
    "format": lambda row: row.get("file_format"),
    "image_size": _size_of,
}
