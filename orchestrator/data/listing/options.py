"""What a user says of an input besides where it is."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from orchestrator.config.listing import TableName
from orchestrator.data.listing.names import LABEL_OF_NAME, Labels, fold
from orchestrator.data.schema import CLASS_NAMES
from orchestrator.errors import SpecError

OPTIONS_KEY = b"orchestrator.listing"  # JSON in the metadata of a manifest's schema


class _Form(Protocol):
    """A spec with the fields of a listing."""

    @property
    def include_hidden(self) -> bool: ...
    @property
    def class_map(self) -> tuple[str, ...] | None: ...
    @property
    def table(self) -> TableName | None: ...


@dataclass(frozen=True)
class ListingOptions:
    """How to list an input.

    Attributes:
        include_hidden: list what `ignored.py` leaves out, too.
        labels: names of classes, in folders and in a table's label column.
        table: what kind of table the input is; told by its columns where None.
        allow_empty: an input may hold no files.
    """

    include_hidden: bool = False
    labels: Labels = field(default_factory=lambda: LABEL_OF_NAME)
    table: TableName | None = None
    allow_empty: bool = False

    @classmethod
    def of(cls, spec: _Form) -> "ListingOptions":
        """Returns the options of a spec."""
        numbers: dict[str, int | None] = dict(zip(CLASS_NAMES, (0, 1), strict=True))
        given = (entry.rpartition("=") for entry in spec.class_map or ())
        mapped = {fold(name): numbers.get(meant) for name, _, meant in given}
        allow_empty = getattr(spec, "allow_empty", False)  # of scoring alone
        return cls(spec.include_hidden, {**LABEL_OF_NAME, **mapped}, spec.table, allow_empty)

    def metadata(self) -> dict[bytes, bytes]:
        """Returns the options as metadata of a manifest's schema; empty where all are defaults."""
        known = LABEL_OF_NAME.items()
        labels = {name: label for name, label in self.labels.items() if (name, label) not in known}
        if not labels and not self.include_hidden and self.table is None:
            return {}
        said = [self.include_hidden, sorted(labels.items()), self.table]
        return {OPTIONS_KEY: json.dumps(said).encode()}

    def check_ingested(self, metadata: Mapping[bytes, bytes] | None, folder: Path) -> None:
        """Raises `SpecError` where an ingested data set was listed by other options than these.

        Args:
            metadata: of the data set's manifest.
            folder: the data set's, for the message.
        """
        own = self.metadata()
        if own and own.get(OPTIONS_KEY) != (metadata or {}).get(OPTIONS_KEY):
            raise SpecError(
                f"{folder} is an ingested data set, its files listed already; give include_hidden, "
                "class_map and table to `orchestrator ingest`"
            )
