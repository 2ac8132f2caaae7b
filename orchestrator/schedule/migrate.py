"""A ledger of an earlier version into one of this version, inside one transaction."""

import json
import sqlite3
from datetime import datetime

from orchestrator.schedule.tables import SCHEMA_VERSION, TABLES, build_fence, split_statements


def migrate(database: sqlite3.Connection, version: int, now: datetime) -> None:
    """Brings the tables to the version of this program, one version at a time.

    Args:
        database: inside a transaction, its foreign keys not enforced.
        version: what it has, at least 1.
        now: current instant.
    """
    steps = {1: _from_1_to_2, 2: _from_2_to_3}
    for found in range(version, SCHEMA_VERSION):
        steps[found](database, now)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _from_1_to_2(database: sqlite3.Connection, now: datetime) -> None:
    """Jobs keep their last good version, notices have a table of their own, faults are recorded."""
    notices = database.execute(
        "SELECT r.job, r.tick, r.state, coalesce(r.reason, ''), r.attempt, "
        "coalesce(a.submission_id, ''), r.spec, r.notice, r.decided_at, r.token FROM runs r "
        "LEFT JOIN attempts a ON a.job = r.job AND a.tick = r.tick AND a.attempt = r.attempt "
        "WHERE r.notice IS NOT NULL"
    ).fetchall()
    # Since when nothing has succeeded is not known: it counts from now on.
    registered_at = now.timestamp()
    _rebuild(
        database,
        "jobs",
        {
            "registered_at": str(registered_at),
            "succeeded_at": "(SELECT max(ended_at) FROM runs "
            "WHERE runs.job = name AND runs.state = 'SUCCEEDED')",
        },
    )
    _rebuild(database, "runs", {"origin": "'cron'"})
    for table in ("faults", "notices"):
        for statement in split_statements(TABLES[table]):
            database.execute(statement)
    for *what, spec, outcome, raised_at, token in notices:
        target = json.dumps(json.loads(spec or "{}").get("on_failure"))
        database.execute(
            "INSERT INTO notices VALUES (?, ?, 'failure', ?, ?, ?, ?, ?, ?, ?, ?)",
            (*what, target, outcome, raised_at, token),
        )
    for table in ("jobs", "runs", "faults", "notices"):
        for statement in split_statements(build_fence(table)):
            database.execute(statement)


def _from_2_to_3(database: sqlite3.Connection, now: datetime) -> None:
    """Runs say what they came from; a job may be due after another."""
    _rebuild(database, "jobs", {})
    _rebuild(database, "runs", {"origin": "'cron'"})
    for table in ("jobs", "runs"):
        for statement in split_statements(build_fence(table)):
            database.execute(statement)


def _rebuild(database: sqlite3.Connection, table: str, filled: dict[str, str]) -> None:
    """Gives a table its present columns; older SQLite cannot drop one in place.

    Args:
        database: the connection.
        table: its name; its triggers go with the old table.
        filled: expressions for new columns; others get their default.
    """
    create, *indexes = split_statements(TABLES[table])
    passing = f"{table}_next"
    database.execute(create.replace(f"CREATE TABLE {table} ", f"CREATE TABLE {passing} "))
    had, kept = _columns(database, table), _columns(database, passing)
    values = {name: name for name in kept if name in had} | filled
    database.execute(
        f"INSERT INTO {passing} ({', '.join(values)}) "
        f"SELECT {', '.join(values.values())} FROM {table}"
    )
    database.execute(f"DROP TABLE {table}")
    database.execute(f"ALTER TABLE {passing} RENAME TO {table}")
    for statement in indexes:
        database.execute(statement)


def _columns(database: sqlite3.Connection, table: str) -> list[str]:
    return [name for _, name, *_ in database.execute(f"PRAGMA table_info({table})")]
