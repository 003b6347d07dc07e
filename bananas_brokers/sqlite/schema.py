"""The tables, their version and its migration."""

from __future__ import annotations

import sqlite3
from typing import Final

from bananas_core.errors import ConfigurationError

VERSION: Final = 2
OLDEST_SQLITE: Final = (3, 35, 0)
"""The first with ``RETURNING``."""

_TABLES: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

CREATE TABLE namespaces (
    ns INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    last_due REAL,             -- when `due` ran last
    grace_until REAL,          -- no claim lapses before this
    events_from INTEGER NOT NULL DEFAULT 0  -- events up to this one may be pruned
);

-- Numbers that rise for ever, for the whole file: ord, fence, version, lease.
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

-- The small part of a record, rewritten at each change. `rank` and `due_at` only serve indexes.
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,
    ns INTEGER NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    created_at REAL NOT NULL,
    max_attempts INTEGER NOT NULL,
    queue_timeout REAL,
    is_foreign INTEGER NOT NULL,
    keep_until REAL NOT NULL,
    state INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    head INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    ord INTEGER NOT NULL,
    gen INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    deaths INTEGER NOT NULL,
    worker TEXT,
    changed_at REAL NOT NULL,
    pending_at REAL,
    started_at REAL,
    finished_at REAL,
    run_at REAL,
    expires_at REAL,
    start_by REAL,
    guard_at REAL,
    guard_hold REAL NOT NULL,
    due_at REAL,
    detail BLOB,
    workflow TEXT,             -- this and the next never change
    unique_key TEXT
);
CREATE UNIQUE INDEX jobs_id ON jobs (ns, id);
CREATE INDEX jobs_created ON jobs (ns, created_at);
CREATE INDEX jobs_pending ON jobs (ns, routing_key, rank, ord) WHERE state = 2;
CREATE INDEX jobs_running ON jobs (ns, worker) WHERE state = 3;
CREATE INDEX jobs_final ON jobs (ns, state, finished_at) WHERE state >= 4;
CREATE INDEX jobs_due ON jobs (ns, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_workflow ON jobs (ns, workflow, created_at) WHERE workflow IS NOT NULL;
CREATE INDEX jobs_unique ON jobs (ns, unique_key, created_at) WHERE unique_key IS NOT NULL;

-- Messages of records: written once, read by seq.
CREATE TABLE bodies (seq INTEGER PRIMARY KEY, message BLOB NOT NULL);

CREATE TABLE tags (ns INTEGER, tag TEXT, seq INTEGER, PRIMARY KEY (ns, tag, seq)) WITHOUT ROWID;
CREATE INDEX tags_seq ON tags (seq);

CREATE TABLE sessions (
    ns INTEGER,
    id TEXT,
    body BLOB,                 -- NULL until it describes itself
    renewed_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    PRIMARY KEY (ns, id)
) WITHOUT ROWID;

-- Deaths that are forgiven if the session turns out to be alive.
CREATE TABLE lapses (
    ns INTEGER, session TEXT, id TEXT, at REAL NOT NULL, PRIMARY KEY (ns, session, id)
) WITHOUT ROWID;

CREATE TABLE docs (
    ns INTEGER NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    version INTEGER NOT NULL,
    expires_at REAL
);
CREATE UNIQUE INDEX docs_key ON docs (ns, key);
CREATE INDEX docs_expiry ON docs (ns, expires_at) WHERE expires_at IS NOT NULL;

-- One row a batch.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, ns INTEGER NOT NULL, at REAL NOT NULL, body BLOB NOT NULL
);

-- The transport's own messages: foreign ones, or all when the ledger is elsewhere.
CREATE TABLE messages (
    ord INTEGER PRIMARY KEY,
    ns INTEGER NOT NULL,
    queue TEXT NOT NULL,
    rank INTEGER NOT NULL,
    body BLOB NOT NULL,
    sent_at REAL NOT NULL,
    lease INTEGER,             -- whose it is: NULL ready, 0 buried
    leased_until REAL,
    redelivered INTEGER NOT NULL DEFAULT 0,
    reason TEXT
);
CREATE INDEX messages_ready ON messages (ns, queue, rank, ord) WHERE lease IS NULL;
CREATE INDEX messages_leased ON messages (ns, queue, leased_until) WHERE leased_until IS NOT NULL;
CREATE INDEX messages_buried ON messages (ns, queue) WHERE lease = 0;
"""

_MIGRATIONS: Final[dict[int, str]] = {
    1: """
ALTER TABLE jobs ADD COLUMN workflow TEXT;
ALTER TABLE jobs ADD COLUMN unique_key TEXT;
CREATE INDEX jobs_workflow ON jobs (ns, workflow, created_at) WHERE workflow IS NOT NULL;
CREATE INDEX jobs_unique ON jobs (ns, unique_key, created_at) WHERE unique_key IS NOT NULL;
""",
}
"""From version n to n + 1."""


def prepare(connection: sqlite3.Connection, namespace: str) -> int:
    """Create or migrate the tables, and the number of the namespace. In a write transaction.

    Raises:
        ConfigurationError: the file was written by a newer version, or isn't ours.
    """
    found = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    names = {name for (name,) in found}
    if not names:
        _script(connection, _TABLES)
        connection.execute("INSERT INTO meta VALUES ('schema', ?)", (VERSION,))
        connection.executemany(
            "INSERT INTO counters VALUES (?, 0)",
            [("ord",), ("fence",), ("version",), ("lease",)],
        )
    elif "meta" not in names or "namespaces" not in names:
        raise ConfigurationError("this SQLite file holds other tables; give Bananas its own file")
    _migrate(connection)
    connection.execute("INSERT OR IGNORE INTO namespaces (name) VALUES (?)", (namespace,))
    row = connection.execute("SELECT ns FROM namespaces WHERE name = ?", (namespace,)).fetchone()
    return int(row[0])


def _migrate(connection: sqlite3.Connection) -> None:
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    version = int(row[0]) if row else 0
    if version > VERSION:
        raise ConfigurationError(
            f"this file has schema version {version}, and this program knows {VERSION} at most; "
            "upgrade bananas"
        )
    while version < VERSION:
        if version not in _MIGRATIONS:
            raise ConfigurationError(f"schema version {version} can't be migrated to {VERSION}")
        _script(connection, _MIGRATIONS[version])
        version += 1
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (version,))


def _script(connection: sqlite3.Connection, script: str) -> None:
    """``executescript`` would commit the open transaction first."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
