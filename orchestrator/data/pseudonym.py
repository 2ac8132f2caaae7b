"""Keyed hashes in place of what may identify a patient.

A plain hash of a patient id or a file name is undone by hashing every likely one; under a key that
is not stored it is not.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Any

HASHED = "hmac:"  # starts every hash


def keyed_hash(key: bytes, text: str | bytes) -> str:
    """Returns "hmac:" and the first 32 hexadecimal digits of HMAC-SHA256.

    Args:
        key: random, at least 16 bytes.
        text: what to hide; text is hashed as UTF-8.

    Returns:
        The same for the same key and text; 128 bits, so different texts differ.

    Reference:
        RFC 2104.
    """
    data = text.encode() if isinstance(text, str) else text
    return HASHED + hmac.new(key, data, hashlib.sha256).hexdigest()[:32]


@dataclass(frozen=True)
class FileNaming:
    """How the tables of a run name its files.

    Args:
        key: under which paths, and patient ids read from file names, are hashed; None keeps them.
    """

    key: bytes | None = field(default=None, repr=False)

    @property
    def hashes(self) -> bool:
        """Whether paths are hidden."""
        return self.key is not None

    def apply(self, row: dict[str, Any]) -> dict[str, Any]:
        """Returns a row of a table as it may be stored.

        Args:
            row: columns root and path among others; the same key and path give the same hash.
        """
        if self.key is None:
            return row
        hashed = row | {"path": keyed_hash(self.key, f"{row['root']}:{row['path']}")}
        if row.get("patient_source") == "filename":
            hashed["patient_id"] = keyed_hash(self.key, row["patient_id"])
        return hashed
