"""The limit line for SQLite: a plain sqlite3 loop with a durable job's writes and nothing else.

Same durability (WAL, synchronous=FULL), same batches, the same rows: an insert per job, an update
when it is claimed, an update with result when it is done, an event row for each of these batches.
No tasks, no fences, no sessions, no timeline.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from pathlib import Path

from benchmarks.measure import report, timed
from benchmarks.workload import BATCH, CLAIM, MESSAGE

SCHEMA = """
CREATE TABLE jobs (id TEXT PRIMARY KEY, state INTEGER, queue TEXT, priority INTEGER, seq INTEGER,
                   worker TEXT, message BLOB, result BLOB, finished REAL) WITHOUT ROWID;
CREATE INDEX pending ON jobs (queue, priority DESC, seq) WHERE state = 0;
CREATE INDEX finals ON jobs (finished) WHERE state = 2;
CREATE TABLE events (seq INTEGER PRIMARY KEY, at REAL, body BLOB);
"""


def connect(folder: str) -> sqlite3.Connection:
    connection = sqlite3.connect(Path(folder) / "bare.db", isolation_level=None)
    connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;" + SCHEMA)
    return connection


def submit(connection: sqlite3.Connection, jobs: int) -> None:
    for begin in range(0, jobs, BATCH):
        rows = [(f"{n:032x}", n, MESSAGE) for n in range(begin, min(begin + BATCH, jobs))]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO jobs (id, state, queue, priority, seq, message)"
            " VALUES (?, 0, 'default', 50, ?, ?)",
            rows,
        )
        _event(connection, rows)
        connection.execute("COMMIT")


def drain(connection: sqlite3.Connection) -> None:
    while True:
        connection.execute("BEGIN IMMEDIATE")
        rows = connection.execute(
            "SELECT id, seq, message FROM jobs WHERE state = 0 AND queue = 'default'"
            " ORDER BY priority DESC, seq LIMIT ?",
            (CLAIM,),
        ).fetchall()
        connection.executemany(
            "UPDATE jobs SET state = 1, worker = 'w' WHERE id = ?", [(row[0],) for row in rows]
        )
        _event(connection, rows)
        connection.execute("COMMIT")
        if not rows:
            return
        now = time.time()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "UPDATE jobs SET state = 2, result = ?, finished = ? WHERE id = ?",
            [(b"1", now, row[0]) for row in rows],
        )
        _event(connection, rows)
        connection.execute("COMMIT")


def _event(connection: sqlite3.Connection, rows: list[tuple[str, int, bytes]]) -> None:
    body = ",".join(row[0] for row in rows)
    connection.execute("INSERT INTO events (at, body) VALUES (?, ?)", (time.time(), body))


def main(what: str, jobs: int, folder: str) -> None:
    connection = connect(folder)
    if what == "submit":
        with timed() as watch:
            submit(connection, jobs)
    else:
        submit(connection, jobs)
        with timed() as watch:
            drain(connection)
    report(jobs, watch)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
