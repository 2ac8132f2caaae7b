"""The table of layouts in `docs/formats.md` is what the product does with each of them."""

import re
from pathlib import Path
from types import SimpleNamespace

import pyarrow.compute as pc
import pytest

from orchestrator.data.listing.notes import load_notes
from orchestrator.data.listing.options import ListingOptions
from orchestrator.data.manifest import build_manifest
from orchestrator.data.splits import class_by_split, patient_keys, split_rows
from orchestrator.errors import DataError
from tests.conftest import ROOT
from tests.data.layouts import LAYOUTS

COLUMNS = ("found", "ignored", "labels", "train", "val", "test", "unused", "patients", "said")


def documented() -> dict[str, dict[str, str]]:
    """The table's rows by name; its first column is `**name**` and what it is."""
    rows = {}
    for line in (ROOT / "docs" / "formats.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = re.match(r"\*\*(.+?)\*\*", cells[0])
        if name is not None and len(cells) == 1 + len(COLUMNS):
            rows[name[1]] = dict(zip(COLUMNS, cells[1:], strict=True))
    return rows


def observed(name: str, folder: Path) -> tuple[dict[str, str], str]:
    """What the product makes of a layout, and all that it says of it in one text."""
    case = LAYOUTS[name]
    form = SimpleNamespace(
        **{"include_hidden": False, "class_map": (), "table": None} | case.options
    )
    nothing = dict.fromkeys(COLUMNS, "")
    try:
        manifest = build_manifest(case.make(folder), 64, ListingOptions.of(form))
    except DataError as error:
        return nothing, str(error)
    table = manifest.table
    notes = load_notes(table.schema.metadata)
    labels = table.column("label").to_pylist()
    found = nothing | {
        "found": str(table.num_rows),
        "ignored": str(notes.num_ignored),
        "labels": f"{labels.count(0)} / {labels.count(1)} / {labels.count(None)}",
        "patients": str(pc.count_distinct(patient_keys(table["patient_id"])).as_py() or "unknown"),
    }
    said = "\n".join(notes.lines())
    try:
        counts = class_by_split(table, split_rows(table, seed=0, merge_val=False).names)
    except DataError as error:
        return found, f"{said}\n{error}"
    for split, numbers in counts.items():
        found[split] = f"{numbers['NORMAL']} + {numbers['PNEUMONIA']}"
        if split == "unused":
            found[split] = str(sum(n for key, n in numbers.items() if key != "patients"))
    return found, said


def test_every_layout_is_documented() -> None:
    assert list(documented()) == list(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_product_does_what_the_table_says(name: str, tmp_path: Path) -> None:
    expected = documented()[name]
    found, said = observed(name, tmp_path)
    assert found == {**expected, "said": ""}
    if expected["said"] == "":
        assert said == ""
    for words in re.findall(r"`([^`]+)`", expected["said"]):
        assert words in said
    assert all(len(line) < 400 for line in said.splitlines())
