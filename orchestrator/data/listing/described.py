"""Describes a file found as a row: what a table gave, and for the rest what its path says."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from orchestrator.data.listing.listed_rows import ListedFile
from orchestrator.data.listing.listing import Found
from orchestrator.data.listing.names import (
    FolderFacts,
    patient_of_folders,
    patient_of_name,
    read_folders,
)
from orchestrator.data.listing.options import ListingOptions
from orchestrator.data.schema import escape_path

# What the folders of a file say: their names' facts, and a patient.
ReadFolder = Callable[[bytes], tuple[FolderFacts, str | None]]


def folder_reader(options: ListingOptions) -> ReadFolder:
    """Returns a function that reads folders' names, and remembers the last few thousand."""

    @lru_cache(maxsize=4096)
    def read(folder: bytes) -> tuple[FolderFacts, str | None]:
        return read_folders(folder, options.labels), patient_of_folders(folder)

    return read


def describe(
    root: int,
    found: Found,
    name: bytes,
    of_folder: tuple[FolderFacts, str | None],
    given: dict[str, Any],
    line: int | None,
    scope: str,
) -> ListedFile:
    """Returns the row of one file: what a table gave, and for the rest what the path says.

    Args:
        root: index of the file's root.
        found: the file.
        name: of the file, without folders.
        of_folder: what its folders say.
        given: values of the columns that the table has.
        line: line of the table, or None for a listed folder.
        scope: goes before a patient id that a name tells.
    """
    facts, patient_of_folder = of_folder
    source, patient = "column", given.get("patient_id")
    if patient is None:
        source, patient = "filename", patient_of_name(name, facts.scope) or patient_of_folder
        patient = patient and scope + patient
    return ListedFile(
        root,
        found.path,
        line,
        escape_path(found.path),
        found.size_bytes,
        found.mtime_ns,
        given.get("label", facts.label),
        patient,
        source if patient is not None else None,
        given.get("split", facts.split),
        found.code,
        found.message,
    )
