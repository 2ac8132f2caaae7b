"""The ledger's tables, and the triggers that refuse the writes of a superseded scheduler.

Every fenced row carries the token of the leader that wrote it. A write whose token is not the
lease's is refused by the database itself, so a scheduler that was suspended and wakes up after
another has taken over cannot change anything, whatever it believes.
"""

import sqlite3
from collections.abc import Iterator

APPLICATION_ID = 0x6F726368  # "orch": tells a ledger from any other SQLite file
SCHEMA_VERSION = 3
SUPERSEDED = "superseded"
# Of a run. A query has to name the condition in these words for SQLite to use the index of it.
UNFINISHED = """state NOT IN
    ('SKIPPED', 'SUCCEEDED', 'FAILED', 'STOPPED')"""

# Table by table, with its indexes.
TABLES = {
    "lease": """
CREATE TABLE lease (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    token INTEGER NOT NULL,           -- grows by one with every new leader
    holder TEXT NOT NULL,
    expires_at REAL NOT NULL          -- seconds since 1970, UTC, as all times here
);
INSERT INTO lease VALUES (1, 0, '', 0);
""",
    "jobs": """
CREATE TABLE jobs (
    name TEXT PRIMARY KEY,
    cron TEXT,                        -- or `after JOB`; NULL: its file is gone
    timezone TEXT,
    cursor INTEGER NOT NULL,          -- ticks up to here are decided
    high INTEGER NOT NULL,            -- greatest cursor ever: differs after the clock went back
    file TEXT,                        -- its name in the folder of jobs
    spec TEXT,                        -- its last good version, JSON
    registered_at REAL NOT NULL,      -- when its schedule began to count
    succeeded_at REAL,                -- when a run of it was last seen to have succeeded
    skips INTEGER NOT NULL DEFAULT 0, -- ticks skipped in a row
    token INTEGER NOT NULL
);
""",
    "faults": """
CREATE TABLE faults (
    source TEXT NOT NULL,             -- a job, or a file where its job is not known
    topic TEXT NOT NULL,
    problem TEXT,                     -- NULL: fixed
    since REAL NOT NULL,
    token INTEGER NOT NULL,
    PRIMARY KEY (source, topic)
);
""",
    "pauses": """
CREATE TABLE pauses (
    job TEXT NOT NULL,
    paused_at REAL NOT NULL,
    resumed_at REAL
);
CREATE UNIQUE INDEX pauses_one_at_a_time ON pauses (job) WHERE resumed_at IS NULL;
""",
    "runs": f"""
CREATE TABLE runs (
    job TEXT NOT NULL,
    tick INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    spec TEXT,                        -- the job as it was when the tick was decided, JSON
    folder TEXT,                      -- the run folder, where the job has one
    stop_reason TEXT,                 -- set before the cluster is asked to stop it
    decided_at REAL NOT NULL,
    ended_at REAL,
    origin TEXT NOT NULL,             -- cron, trigger, backfill, or `after JOB-TICK`
    token INTEGER NOT NULL,
    PRIMARY KEY (job, tick)
);
CREATE UNIQUE INDEX runs_after ON runs (job, origin) WHERE origin LIKE 'after %';
CREATE INDEX runs_open ON runs (state) WHERE {UNFINISHED};
CREATE INDEX runs_by_tick ON runs (tick);
""",
    "attempts": """
CREATE TABLE attempts (
    submission_id TEXT PRIMARY KEY,
    job TEXT NOT NULL,
    tick INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    mark TEXT,                        -- of the run folder's status at the intent
    intent_at REAL NOT NULL,
    submitted_at REAL,
    ended_at REAL,
    token INTEGER NOT NULL,
    UNIQUE (job, tick, attempt),
    FOREIGN KEY (job, tick) REFERENCES runs (job, tick)
);
""",
    "notices": """
CREATE TABLE notices (
    job TEXT NOT NULL,
    tick INTEGER NOT NULL,
    kind TEXT NOT NULL,               -- one notice of a kind for each incident
    state TEXT NOT NULL,              -- this and the next three: what it says
    reason TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    submission_id TEXT NOT NULL,
    target TEXT NOT NULL,             -- who is notified: on_failure, JSON
    outcome TEXT NOT NULL,            -- pending, sent, or what went wrong
    raised_at REAL NOT NULL,
    token INTEGER NOT NULL,
    PRIMARY KEY (job, tick, kind)
);
CREATE INDEX notices_pending ON notices (outcome) WHERE outcome = 'pending';
""",
}

_FENCE = """
CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table}
WHEN NEW.token IS NOT (SELECT token FROM lease WHERE id = 1)
BEGIN SELECT RAISE(ABORT, '{superseded}'); END;
"""

_KEEP = """
CREATE TRIGGER {table}_delete BEFORE DELETE ON {table}
BEGIN SELECT RAISE(ABORT, 'the ledger keeps every row'); END;
"""

_LEASE = """
CREATE TRIGGER lease_grows BEFORE UPDATE ON lease
WHEN NEW.token < OLD.token OR (NEW.token = OLD.token AND NEW.holder IS NOT OLD.holder)
BEGIN SELECT RAISE(ABORT, 'superseded'); END;
"""


def build_schema() -> str:
    """Returns the statements that make an empty ledger."""
    fences = "".join(build_fence(table) for table in TABLES if table not in ("lease", "pauses"))
    return "".join(TABLES.values()) + _LEASE + fences


def build_fence(table: str) -> str:
    """Returns the triggers of a table that only a leader writes to."""
    verbs = ("INSERT", "UPDATE")
    fence = [_FENCE.format(table=table, verb=verb, superseded=SUPERSEDED) for verb in verbs]
    return "".join(fence) + _KEEP.format(table=table)


def split_statements(script: str) -> Iterator[str]:
    """Yields the statements of a script; `executescript` would commit in between."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
