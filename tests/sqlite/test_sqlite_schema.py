"""The tables: what an older version wrote is kept, and what is asked often is an index search."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bananas_brokers.sqlite.results import SQLiteResultBackend
from bananas_core.errors import ConfigurationError
from bananas_core.job import (
    AttemptInfo,
    Job,
    JobPut,
    JobState,
    PutKind,
    Query,
    Retention,
    Settled,
    Signal,
    SignalKind,
    Write,
)
from bananas_core.pair import Pair, load_pair

VERSION_1 = """
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
    detail BLOB
);
CREATE UNIQUE INDEX jobs_id ON jobs (ns, id);
CREATE INDEX jobs_created ON jobs (ns, created_at);
CREATE INDEX jobs_pending ON jobs (ns, routing_key, rank, ord) WHERE state = 2;
CREATE INDEX jobs_running ON jobs (ns, worker) WHERE state = 3;
CREATE INDEX jobs_final ON jobs (ns, state, finished_at) WHERE state >= 4;
CREATE INDEX jobs_due ON jobs (ns, due_at) WHERE due_at IS NOT NULL;

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
"""What version 1 created. Never edit it."""

COLUMNS_1 = (
    "seq ns id name routing_key created_at max_attempts queue_timeout is_foreign keep_until "
    "state priority head rank ord gen fence failures deaths worker changed_at pending_at "
    "started_at finished_at run_at expires_at start_by guard_at guard_hold due_at detail"
).split()


def old_file(path: str) -> None:
    """A file as version 1 left it: a pending job with a tag, and one that has ended."""
    attempt = {"attempt": 1, "fence": 3, "worker": "s", "claimed_at": 11.0, "outcome": "completed"}
    rows = [
        (
            *(1, 1, "waits", "task", "media", 10.0, 3, None, False, 0.0),
            *(2, 70, False, 61, 1, 2, 0, 1, 0, None, 10.0, 10.0, None, None),
            *(None, 5e9, 5e9, None, 0.0, 5e9, msgspec.msgpack.encode({"t": ["blue"]})),
        ),
        (
            *(2, 1, "ended", "task", "default", 10.0, 5, 7.5, False, 0.0),
            *(4, 50, False, 101, 2, 1, 3, 0, 0, "s", 12.0, 10.0, 11.0, 12.0),
            *(None, None, None, None, 0.0, None),
            msgspec.msgpack.encode({"a": [attempt], "r": b"42"}),
        ),
    ]
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1)
        connection.execute("INSERT INTO meta VALUES ('schema', 1)")
        connection.execute("INSERT INTO namespaces (ns, name) VALUES (1, 'test')")
        connection.executemany(
            "INSERT INTO counters VALUES (?, ?)",
            [("ord", 2), ("fence", 3), ("version", 1), ("lease", 0)],
        )
        connection.executemany(
            f"INSERT INTO jobs ({', '.join(COLUMNS_1)}) VALUES ({', '.join('?' * 31)})", rows
        )
        connection.executemany("INSERT INTO bodies VALUES (?, ?)", [(1, b'{"n":1}'), (2, b"{}")])
        connection.execute("INSERT INTO tags VALUES (1, 'blue', 1)")
        connection.execute("INSERT INTO docs VALUES (1, 'a', x'01', 1, NULL)")
    connection.close()


def layout(path: str) -> dict[str, list[Any]]:
    """Columns and indexes of each table."""
    connection = sqlite3.connect(path)
    names = [
        name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
    ]
    found = {name: connection.execute(f"PRAGMA table_info({name})").fetchall() for name in names}
    found["indexes"] = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' ORDER BY name"
    ).fetchall()
    connection.close()
    return found


async def test_a_file_of_version_1_is_migrated(url: str, tmp_path: Path) -> None:
    path = url.removeprefix("sqlite:///")
    old_file(path)
    pair = load_pair(url, None, "test")
    await pair.open()
    try:
        waits, ended = await pair.backend.get(["waits", "ended"])
        assert waits == Job(
            id="waits",
            name="task",
            routing_key="media",
            state=JobState.PENDING,
            message=b'{"n":1}',
            created_at=10.0,
            changed_at=10.0,
            pending_at=10.0,
            priority=70,
            gen=2,
            failures=1,
            expires_at=5e9,
            start_by=5e9,
            tags=("blue",),
        )
        assert ended is not None
        assert (ended.state, ended.result, ended.workflow) == (JobState.COMPLETED, b"42", None)
        assert ended.attempts == (
            AttemptInfo(attempt=1, fence=3, worker="s", claimed_at=11.0, outcome="completed"),
        )
        put = JobPut(id="new", name="task", message=b"{}", workflow="w", waiting=True, unique="k")
        assert (await pair.backend.put([put]))[0].kind is PutKind.CREATED
        for query in (Query(workflow="w"), Query(unique="k")):
            assert [job.id for job in (await pair.backend.query(query)).jobs] == ["new"]
        (received,) = await pair.transport.receive_claimed("s", ["media"], 1, 1.0)
        assert received.verdict is not None
        assert received.verdict.id == "waits"
    finally:
        await pair.close()
    fresh = f"{tmp_path}/fresh.db"
    backend = SQLiteResultBackend(f"sqlite:///{fresh}", "test")
    await backend.open()
    await backend.close()
    assert layout(path) == layout(fresh)


async def test_of_many_that_open_an_old_file_one_migrates_it(url: str) -> None:
    old_file(url.removeprefix("sqlite:///"))
    backends = [SQLiteResultBackend(f"{url}?busy_timeout={n + 5}", "test") for n in range(6)]
    await asyncio.gather(*(backend.open() for backend in backends))
    for backend in backends:
        assert (await backend.get(["waits"]))[0] is not None
        await backend.close()


async def test_a_step_that_is_missing_is_refused(url: str, pair: Pair) -> None:
    await pair.close()
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE meta SET value = 0 WHERE key = 'schema'")
    connection.close()
    with pytest.raises(ConfigurationError, match="can't be migrated"):
        await pair.open()


async def test_what_is_asked_often_is_an_index_search(url: str, pair: Pair) -> None:
    backend: Any = pair.backend
    seen: list[str] = []
    database = backend._handle.database
    for lane in (database.writes, database.reads):
        lane.connection().set_trace_callback(seen.append)
    scope = JobPut(id="w", name="chain", message=b"{}", workflow="w", scope=True)
    node = JobPut(id="n", name="task", message=b"{}", workflow="w", waiting=True)
    await backend.put([scope, node, JobPut(id="u", name="task", message=b"{}", unique="k")])
    for kind in (SignalKind.RELEASE, SignalKind.CANCEL):
        await backend.signal([Signal(id=i, kind=kind) for i in ("n", "u")])
    await backend.due(100, settled=[Settled(id="n", gen=2, followed=True)], lost={"default": 1.0})
    await backend.get(["n", "u"])
    await backend.cas([Write(key="a", value=b"1")])
    await backend.get_docs(["a", "b"])
    await backend.docs("job/w/")
    await backend.query(Query(workflow="w"))
    await backend.query(Query(workflow="w", states=(JobState.FAILED,), cursor="5.0|x"))
    await backend.query(Query(unique="k", states=(JobState.PENDING,)))
    await backend.count(["state"], Query(workflow="w"))
    await backend.prune(Retention(most=0), 100)
    await backend.wait(["n", "u"], 0.0)
    asked = {sql for sql in seen if sql.startswith(("SELECT", "UPDATE", "DELETE"))}
    assert len(asked) > 20
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    for sql in asked:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
        scanned = {"jobs", "bodies", "docs", "tags"} & {p.split()[1] for p in plan if "SCAN" in p}
        assert not scanned, (sql, plan)
        if "ORDER BY due_at" in sql or "ORDER BY finished_at" in sql:
            assert not any("TEMP B-TREE" in line for line in plan), (sql, plan)
        if " id IN (" in sql:
            assert any("ns=? AND id=?" in line for line in plan), (sql, plan)
        for name in ("workflow", "unique_key"):
            if f"{name} = " in sql:
                assert any(f"ns=? AND {name}=?" in line for line in plan), (sql, plan)
    connection.close()
