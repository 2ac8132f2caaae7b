"""How a user says what folders, labels and tables mean: `--class-map` and `--table`."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from orchestrator.config.fields import DATA, Form, flag

CLASSES = ("NORMAL", "PNEUMONIA", "none")

# The tables of public data sets, by the columns that their authors gave them.
TableName = Literal["nih", "chexpert", "rsna", "mimic", "padchest"]


def _load_class_map(value: Any) -> Any:
    """Reads `VIRUS=PNEUMONIA`, several of these by commas or as a list, or a mapping."""
    if isinstance(value, Mapping):
        return [f"{name}={'none' if given is None else given}" for name, given in value.items()]
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list | tuple) or not all(isinstance(e, str) for e in entries):
        return value  # for the form to refuse
    return [part for entry in entries for part in _split(entry)]


def _split(entry: str) -> list[str]:
    """Returns the parts between commas where each says a class; a name may hold commas too."""
    parts = entry.split(",")
    return parts if all("=" in part for part in parts) else [entry]


def _check_class_map(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the entries with the classes as `CLASSES` spells them."""
    known = {name.lower(): name for name in CLASSES}
    checked: dict[str, str] = {}
    for entry in entries:
        name, _, given = entry.rpartition("=")
        name, meant = name.strip(), known.get(given.strip().lower())
        if not name or meant is None:
            raise ValueError(
                f"expected NAME=CLASS with one of the classes {', '.join(CLASSES)}, "
                f"such as VIRUS=PNEUMONIA; received {entry[:60]!r}"
            )
        if checked.setdefault(name, meant) != meant:
            raise ValueError(f"{name} is given two classes, {checked[name]} and {meant}")
    return tuple(f"{name}={meant}" for name, meant in checked.items())


# Each entry is NAME=CLASS: a folder's name or a text of a label column, and what it means.
ClassMap = Annotated[
    tuple[Annotated[str, Field(json_schema_extra={"format": "name=class"})], ...],
    BeforeValidator(_load_class_map),
    AfterValidator(_check_class_map),
    PlainSerializer(list),
]


def rescore_window(rule: str) -> timedelta | None:
    """Returns the age up to which a new model scores again what another one has scored.

    Args:
        rule: `keep`, `rescore` or `rescore-window 30d`.

    Returns:
        None for all of it, zero for nothing.

    Raises:
        ValueError: another rule.
    """
    if rule in ("keep", "rescore"):
        return None if rule == "rescore" else timedelta()
    found = re.fullmatch(r"rescore-window ([1-9][0-9]{0,3})d", rule)
    if found is None:
        raise ValueError("expected keep, rescore or rescore-window and days, as rescore-window 30d")
    return timedelta(days=int(found[1]))


def _check_rule(rule: str) -> str:
    rescore_window(rule)
    return rule


OnNewModel = Annotated[
    str,
    AfterValidator(_check_rule),
    flag(
        "With --only-new, what a new model scores again: keep (nothing), rescore (all), or "
        "'rescore-window 30d' (what another model scored in the last 30 days).",
        DATA,
        metavar="<rule>",
    ),
]


class ListingForm(Form):
    """What every command that lists files takes: what is input, and what its names mean."""

    include_hidden: Annotated[
        bool, flag("List hidden and system files too, but not results of this program.", DATA)
    ] = False
    class_map: Annotated[
        ClassMap | None,
        flag(
            "Class of a folder's name or a table's label, such as VIRUS=PNEUMONIA or COVID=none; "
            "repeat the option for several.",
            DATA,
            default="none",
            metavar="<name=class>",
        ),
    ] = None
    table: Annotated[
        TableName | None,
        flag(
            f"Data set whose columns the table has: {', '.join(get_args(TableName))}.",
            DATA,
            default="told by the header",
            metavar="<name>",
        ),
    ] = None
