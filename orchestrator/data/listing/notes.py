"""What a listing has to say besides its rows: what was left out, and names not understood.

The notes go into the manifest's metadata, so that a run that is resumed, and a data set that is
ingested, still have them. What folders' names leave open is found in `survey.py`.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from orchestrator.data.listing.ignored import OTHER_NAMES, OUTPUTS
from orchestrator.data.schema import CLASS_NAMES
from orchestrator.errors import counted

NOTES_KEY = b"orchestrator.notes"  # JSON in the metadata of a manifest's schema

MOST_NAMES = 8  # in one line, and of each kind in the notes


@dataclass
class Notes:
    """What a listing found and gave no row, or did not understand.

    Attributes:
        ignored: names left out by reason, see `ignored.py`.
        unknown: files below folders that stand for no class, by the folder's name.
        unsplit: labelled files below folders that stand for no split, where others do.
        pooled: labelled files below each of several folders of class folders, where none stands
            for a split: they are divided as one.
        num_labelled: files with a label.
        num_copies: files in folders that another one repeats, as a zip within a zip leaves them.
        copies: such a folder, and the one that it repeats, escaped.
        num_uncertain: rows of a table with a label that says "uncertain".
        num_others: rows of a table with other findings alone.
        num_merged: rows of a table that repeat the image of another, as one row a box does.
        table: what kind of table it is, where not the plain one.
    """

    ignored: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    unsplit: dict[str, int] = field(default_factory=dict)
    pooled: dict[str, int] = field(default_factory=dict)
    num_labelled: int = 0
    num_copies: int = 0
    copies: tuple[str, ...] = ()
    num_uncertain: int = 0
    num_others: int = 0
    num_merged: int = 0
    table: str | None = None

    @property
    def num_ignored(self) -> int:
        """Names left out."""
        return sum(self.ignored.values())

    def as_dict(self) -> dict[str, Any]:
        """Returns what there is to say, JSON-able; empty where there is nothing."""
        said = {name: value for name, value in asdict(self).items() if value}
        if said.keys() == {"num_labelled"}:
            return {}
        return said

    def metadata(self) -> dict[bytes, bytes]:
        """Returns the notes as metadata of a manifest's schema."""
        said = self.as_dict()
        return {NOTES_KEY: json.dumps(said, ensure_ascii=False).encode()} if said else {}

    def lines(self, *, names: bool = True) -> list[str]:
        """Returns the notes as lines of text.

        Args:
            names: with names of folders, which may be patient data.
        """
        lines = []
        if self.table:
            lines.append(f"reading it as {self.table}")
        if self.ignored:
            listed = f": {_listed(self.ignored)}" if names else ""
            reads = self.ignored.keys() - {OUTPUTS, OTHER_NAMES}
            hint = "; --include-hidden reads hidden and system files" if reads else ""
            lines.append(f"ignored {counted(self.num_ignored, 'name')}{listed}{hint}")
        if self.num_copies and names:
            copy, other = self.copies
            lines.append(
                f"{counted(self.num_copies, 'file')} seem to be there twice: {copy} holds as many "
                f"files and bytes as {other}; remove one of the two"
            )
        if names:
            lines += self._name_lines()
        for number, what in (
            (self.num_uncertain, "with an uncertain label (-1)"),
            (self.num_others, "with other findings alone"),
        ):
            if number:
                lines.append(f"{counted(number, 'row')} {what}: left without a label")
        if self.num_merged:
            lines.append(f"{counted(self.num_merged, 'row')} of an image listed before: merged")
        return lines

    def _name_lines(self) -> list[str]:
        """Returns what folders' names leave open."""
        lines = []
        if self.unknown and self.num_labelled:
            lines.append(f"files without a label in {self.describe_unknown()}")
        if self.unsplit:
            lines.append(
                f"{_listed(self.unsplit)} lie beside train and test folders and are neither: their "
                "images are not used to train; rename the folder to train, val or test"
            )
        if self.pooled:
            lines.append(
                f"the images of {_listed(self.pooled)} are taken as one pool; if one of these is "
                "a test set, rename it to test, and the others to train or val"
            )
        return lines

    def describe_unknown(self) -> str:
        """Returns the folders of no known class, and how to say what they are."""
        first = next(iter(self.unknown))
        return (
            f"folders of no known class: {_listed(self.unknown)}; say what each is, such as "
            f"--class-map {shlex.quote(f'{first}={CLASS_NAMES[1]}')} (or ={CLASS_NAMES[0]}, or "
            "=none)"
        )


def load_notes(metadata: Mapping[bytes, bytes] | None) -> Notes:
    """Returns the notes in a manifest's metadata, empty ones where it has none."""
    stored = (metadata or {}).get(NOTES_KEY)
    said = json.loads(stored) if stored else {}
    known = {part.name: said[part.name] for part in fields(Notes) if part.name in said}
    return Notes(**known | {"copies": tuple(known.get("copies", ()))})


def _listed(names: Mapping[str, int]) -> str:
    most = list(names.items())[:MOST_NAMES]
    more = ", ..." if len(names) > len(most) else ""
    return ", ".join(f"{name} ({number:,})" for name, number in most) + more
