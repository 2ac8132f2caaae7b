"""Rows of files found, sorted and made unique in a temporary SQLite database.

It goes to disk when it grows, so that millions of files need no memory in proportion.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from orchestrator.errors import ClusterError, DataError


class ListedFile(NamedTuple):
    """One file found: where, what the table or its path says of it, or why it is rejected.

    Attributes:
        root: index of the input root.
        raw: path relative to the root, bytes.
        line: line of the table that names it; None where a folder was listed.
        path: `raw`, escaped.
        size_bytes: None where it is not a readable file, as in `Found`.
        mtime_ns: ns since the epoch.
        label: 0 NORMAL, 1 PNEUMONIA, or None.
        patient_id: from the table, the file's name or its folders', or None.
        patient_source: "column" or "filename", or None.
        split: "train", "val", "test", or None.
        code: why the listing rejects it, or None.
        message: what to do about it, or None.
    """

    root: int
    raw: bytes
    line: int | None
    path: str
    size_bytes: int | None
    mtime_ns: int | None
    label: int | None
    patient_id: str | None
    patient_source: str | None
    split: str | None
    code: str | None
    message: str | None


def store_rows(rows: Iterable[tuple[ListedFile, bytes | None]]) -> sqlite3.Connection:
    """Returns a temporary database of rows.

    Args:
        rows: each with `Found.same_as` of its file.
    """
    database = sqlite3.connect("", isolation_level=None)
    columns = ", ".join((*ListedFile._fields, "same_as"))
    with database_errors("the temporary folder"):
        database.execute("PRAGMA journal_mode = OFF")
        database.execute(f"CREATE TABLE listed ({columns})")
    add_rows(database, rows)
    return database


def add_rows(database: sqlite3.Connection, rows: Iterable[tuple[ListedFile, bytes | None]]) -> None:
    """Adds rows to a database, each with `Found.same_as` of its file."""
    places = ", ".join("?" * (len(ListedFile._fields) + 1))
    with database_errors("the temporary folder"):
        database.execute("BEGIN")
        database.executemany(
            f"INSERT INTO listed VALUES ({places})", ((*row, same_as) for row, same_as in rows)
        )
        database.execute("COMMIT")


def read_rows(database: sqlite3.Connection) -> Iterator[ListedFile]:
    """Yields the rows in the order of (root, path bytes); SQLite sorts on disk what is large."""
    columns = ", ".join(ListedFile._fields)
    with database_errors("the temporary folder"):
        found = database.execute(f"SELECT {columns} FROM listed ORDER BY root, raw")
        yield from map(ListedFile._make, found)


@contextmanager
def database_errors(where: str) -> Iterator[None]:
    """Turns an SQLite error, which a full disk is, into a `ClusterError`.

    Args:
        where: the place of the database, for the message.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        raise ClusterError(
            f"cannot keep the list of files in {where}: {error}; free space there (TMPDIR names "
            "the temporary folder), then run the same command again"
        ) from error


def drop_other_names(
    database: sqlite3.Connection, forget: Callable[[int, bytes, int | None], None]
) -> int:
    """Leaves one row of each file that has several names: links, and hard links.

    The name with the most to say of label and split stays, of equals the file itself before a
    link, then the first. Names that say different things all stay, for the audit to find.

    Args:
        database: from `store_rows`.
        forget: receives root, path and size of each row that is removed.

    Returns:
        Rows removed.
    """
    if not database.execute("SELECT 1 FROM listed WHERE same_as IS NOT NULL LIMIT 1").fetchone():
        return 0
    with database_errors("the temporary folder"):
        database.execute("CREATE INDEX IF NOT EXISTS by_path ON listed (root, raw)")
        database.execute("CREATE TABLE dropped (number INTEGER PRIMARY KEY)")
        linked = database.execute(
            "SELECT root, same_as, rowid, label, split FROM listed WHERE same_as IS NOT NULL "
            "ORDER BY root, same_as, raw"
        )
        for (root, same_as), rows in groupby(linked, itemgetter(0, 1)):
            file = database.execute(
                "SELECT rowid, label, split FROM listed WHERE root = ? AND raw = ?", (root, same_as)
            ).fetchall()
            best: dict[tuple[int | None, str | None], int] = {}
            for number, label, split in (*file, *(row[2:] for row in rows)):
                if (label, split) in best:
                    database.execute("INSERT INTO dropped VALUES (?)", (number,))
                else:
                    best[label, split] = number
            poorer = (facts for facts in best if any(_says_less(facts, other) for other in best))
            database.executemany(
                "INSERT INTO dropped VALUES (?)", [(best[facts],) for facts in poorer]
            )
        for row in database.execute(
            "SELECT root, raw, size_bytes FROM listed WHERE rowid IN (SELECT number FROM dropped)"
        ):
            forget(*row)
        done = database.execute("DELETE FROM listed WHERE rowid IN (SELECT number FROM dropped)")
    return done.rowcount


def find_link_targets(
    database: sqlite3.Connection,
) -> Iterator[tuple[int, bytes, int | None, int | None]]:
    """Yields root, path, size and time of the files without a row that links with one lead to.

    Args:
        database: from `store_rows`.
    """
    linked = "FROM listed WHERE same_as IS NOT NULL AND substr(same_as, 1, 1) <> x'2f'"
    if not database.execute(f"SELECT 1 {linked} LIMIT 1").fetchone():
        return
    with database_errors("the temporary folder"):
        database.execute("CREATE INDEX by_path ON listed (root, raw)")
        yield from database.execute(
            f"SELECT root, same_as, size_bytes, mtime_ns {linked} AND NOT EXISTS (SELECT 1 FROM "
            "listed AS own WHERE own.root = listed.root AND own.raw = listed.same_as) "
            "GROUP BY root, same_as ORDER BY root"
        )


def _says_less(facts: tuple[object, ...], other: tuple[object, ...]) -> bool:
    pairs = list(zip(facts, other, strict=True))
    return facts != other and all(one is None or one == two for one, two in pairs)


def merge_rows(database: sqlite3.Connection) -> int:
    """Leaves one row of each path, PNEUMONIA where any of its rows is.

    Returns:
        Rows removed.
    """
    with database_errors("the temporary folder"):
        database.execute(
            "CREATE TABLE merged AS SELECT min(rowid) AS number, max(label) AS label FROM listed "
            "GROUP BY root, raw"
        )
        database.execute("CREATE UNIQUE INDEX by_number ON merged (number)")
        done = database.execute("DELETE FROM listed WHERE rowid NOT IN (SELECT number FROM merged)")
        database.execute(
            "UPDATE listed SET label = (SELECT label FROM merged WHERE number = listed.rowid)"
        )
    return done.rowcount


def check_unique(database: sqlite3.Connection, where: str) -> None:
    """Raises `DataError` where one path has two rows.

    Args:
        database: from `store_rows`.
        where: the table's name and the unit of its lines.
    """
    again = database.execute(
        "SELECT min(line), max(line) FROM listed GROUP BY root, raw HAVING count(*) > 1 "
        "ORDER BY max(line) LIMIT 1"
    ).fetchone()
    if again:
        raise DataError(
            f"{where} {again[1]} lists the same path as {again[0]}; expected one row per image: "
            "remove one of them"
        )
