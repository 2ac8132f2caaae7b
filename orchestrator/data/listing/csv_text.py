"""Opens a text table as people have them: by commas, semicolons or tabs, UTF-8 or UTF-16, zipped.

What the columns mean is `tables.py`'s business. A file that is no text table, whatever its name,
is told by its first bytes.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO

from orchestrator.data.schema import escape_path
from orchestrator.errors import DataError

CSV_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
EXCEL_SUFFIXES = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods")

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_GZIP = b"\x1f\x8b"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
# What other programs put first in a file, and what to do about it.
_EXCEL = (
    "is neither a folder nor a table; expected CSV or Parquet, and this is a spreadsheet: save it "
    "as CSV and name that file"
)
_OTHER_KINDS = {
    b"PK\x03\x04": _EXCEL,
    b"\xd0\xcf\x11\xe0": _EXCEL,
    b"PAR1": "is a Parquet file; give it the suffix .parquet",
}
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm", ".tif", ".tiff", ".bmp", ".gif")

Records = Iterator[tuple[int, list[str]]]


def open_text_table(
    source: Path, understands: Callable[[list[str]], bool]
) -> tuple[str, list[str], Records]:
    """Returns what separates the values of a table, its header, and its records.

    Args:
        source: a file of `CSV_SUFFIXES`.
        understands: whether a header is one that is looked for.

    Returns:
        The separator in words, the header of the first separator that gives one that is
        understood (else of the one that gives most columns), and (line, fields) of each record,
        blank lines left out. Bytes that are not UTF-8 come as surrogates, so that a path of any
        bytes survives.

    Raises:
        DataError: unreadable, another kind of file, or not valid CSV; raised by the records too.
    """
    refuse_workbook(source)
    encoding = _find_encoding(source)
    headers: dict[str, list[str]] = {}
    failed: DataError | None = None
    for delimiter in _DELIMITERS:
        records = _read(source, encoding, delimiter, skip_blanks=False)
        try:
            headers[delimiter] = next(records, (1, []))[1]
        except DataError as error:  # cut at other characters a good header may be none
            failed = failed or (None if headers else error)
    found = next((d for d in headers if understands(headers[d])), None)
    if found is None and failed is not None:
        raise failed
    if found is None:
        found = max(headers, key=lambda delimiter: len(headers[delimiter]))
    header = headers[found]
    # `path, label, ...` as people type it: the blanks belong to the separator.
    blanks = len(header) > 1 and all(name.startswith(" ") for name in header[1:])
    records = _read(source, encoding, found, skip_blanks=blanks)
    return _DELIMITERS[found], header, islice(records, 1, None)


def refuse_workbook(source: Path) -> None:
    """Raises `DataError` where a file's suffix says that it is a spreadsheet program's."""
    if source.suffix.lower() in EXCEL_SUFFIXES:
        raise DataError(f"{shown_name(source)} {_EXCEL}")


def describe_header(names: list[str], separated_by: str) -> str:
    """Returns what a header that is not understood looks like, for an error."""
    if any(name.strip().lower().endswith(_IMAGE_SUFFIXES) for name in names):
        return "its first line is no header: expected the names of the columns there"
    listed = ", ".join(repr(name[:40]) for name in names[:8]) or "none"
    return f"columns found: {listed}" + (
        f", separated by {separated_by}" if separated_by != "commas" else ""
    )


def shown_name(source: Path) -> str:
    """Returns a file's name, printable whatever its bytes."""
    return escape_path(str(source.name).encode("utf-8", "surrogateescape"))


def unreadable(source: Path, error: OSError) -> DataError:
    """Returns the error for a table that the system will not read."""
    reason = error.strerror or "not readable"
    return DataError(
        f"cannot read {shown_name(source)} ({reason}); check the path and its permissions"
    )


def _open(source: Path) -> IO[bytes]:
    with source.open("rb") as file:
        zipped = file.read(2) == _GZIP
    return gzip.open(source, "rb") if zipped else source.open("rb")  # type: ignore[return-value]


def _find_encoding(source: Path) -> str:
    """Returns the encoding that a file's first bytes show.

    Raises:
        DataError: it cannot be read, or is another kind of file.
    """
    try:
        with _open(source) as file:
            head = file.read(512)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{shown_name(source)} is damaged; copy it again") from error
    except OSError as error:
        raise unreadable(source, error) from error
    for mark, kind in _OTHER_KINDS.items():
        if head.startswith(mark):
            raise DataError(f"{shown_name(source)} {kind}")
    if head.startswith(_UTF16):
        return "utf-16"
    # Without a mark: every other byte of plain letters is zero.
    if len(head) >= 8 and not any(head[1:8:2]) and all(head[0:8:2]):
        return "utf-16-le"
    return "utf-8-sig"


def _read(source: Path, encoding: str, delimiter: str, *, skip_blanks: bool) -> Records:
    line = 1
    try:
        with _open(source) as raw:
            errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
            file = io.TextIOWrapper(raw, encoding=encoding, errors=errors, newline="")
            reader = csv.reader(
                file, strict=True, delimiter=delimiter, skipinitialspace=skip_blanks
            )
            for fields in reader:
                if fields:
                    yield line, fields
                line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{shown_name(source)}, line {line}: not valid CSV ({error}); expected values "
            f"separated by {_DELIMITERS[delimiter]}, with quotes doubled inside quoted ones"
        ) from None
    except UnicodeError:
        raise DataError(
            f"{shown_name(source)}, line {line}: not {encoding.upper()} text; save the table as "
            "UTF-8"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{shown_name(source)} is damaged after line {line}") from error
    except OSError as error:
        raise unreadable(source, error) from error
