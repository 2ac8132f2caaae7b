"""A layout, and what makers of folders and of tables share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLASSES = ("NORMAL", "PNEUMONIA")


@dataclass(frozen=True)
class Layout:
    """How to make an input.

    Args:
        make: fills a folder and returns what of it is the input.
        options: fields of `ListingOptions.of`'s form.
    """

    make: Callable[[Path], Path]
    options: dict[str, Any]


class Layouts(dict[str, Layout]):
    """Layouts by name, in the order of the table in `docs/formats.md`."""

    def add(self, name: str, **options: Any) -> Callable[[Callable[[Path], Path | None]], None]:
        """Adds a maker; one that returns nothing has filled the input itself."""

        def register(make: Callable[[Path], Path | None]) -> None:
            self[name] = Layout(lambda folder: make(folder) or folder, options)

        return register


def put(path: Path, content: bytes | None = None) -> None:
    """Writes a file, its own path as content where none is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(str(path).encode() if content is None else content)
