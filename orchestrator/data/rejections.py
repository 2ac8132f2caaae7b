"""Says in one line why files could not be used: how many for which reason, and the first one."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import DataError


@dataclass
class Rejections:
    """Rejected files by code, with the first of each.

    Attributes:
        counts: files by code.
    """

    counts: Counter[str] = field(default_factory=Counter)
    _first: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Counts rejected rows; each has `code` and `path`, and a `message` where it is known."""
        for row in rows:
            self.counts[row["code"]] += 1
            self._first.setdefault(row["code"], (row["path"], row.get("message") or ""))

    def add_counted(self, code: str, files: int, path: str) -> None:
        """Counts files that are rejected for one reason; `path` is one of them."""
        self.counts[code] += files
        self._first.setdefault(code, (path, ""))

    @property
    def total(self) -> int:
        """Files counted."""
        return sum(self.counts.values())

    def by_code(self) -> dict[str, int]:
        """Returns the counts, the most frequent code first, then by name."""
        return dict(sorted(self.counts.items(), key=lambda item: (-item[1], item[0])))

    def describe(self, found: int) -> str:
        """Returns the commonest cause, the others, and the first file of the commonest.

        Args:
            found: files found, of which these are some or all; there is one at least.
        """
        code, *others = self.by_code()
        path, message = self._first[code]
        rest = "".join(f", {other} {self.counts[other]:,}" for other in others)
        reason = f": {message}" if message else ""
        return f"{self.counts[code]:,} of {found:,}: {code}{rest}; the first is {path}{reason}"


def check_rejected(num_rejected: int, found: int, allowed: float, listed: Path) -> None:
    """Raises where more files are rejected than allowed.

    Args:
        num_rejected: files that cannot be used.
        found: files found.
        allowed: the fraction of them that may be rejected.
        listed: the table that lists them.

    Raises:
        DataError: it is more.
    """
    if num_rejected / max(found, 1) > allowed:
        raise DataError(
            f"{num_rejected} of {found} files were rejected, over the allowed fraction "
            f"{allowed:g}; {listed} lists them with reasons: --max-rejected-fraction allows more"
        )
