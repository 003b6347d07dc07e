"""The limit line for SQLite: a plain sqlite3 loop that does the same writes and nothing else.

The very tables, columns and indexes of the driver, the same durability (WAL, synchronous=FULL)
and batches: a row and its message per job, an update when it is claimed, an update with timeline
and result when it is done, an event row for each batch. All values are constants of the usual
size: no tasks, no validation, no decisions, no fences, no sessions, no threads.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from pathlib import Path

from bananas_brokers.sql import rows
from bananas_brokers.sqlite import records, schema
from benchmarks.rounds import report, timed
from benchmarks.workload import BATCH, CLAIM, MESSAGE

CLAIMED = bytes(70)
"""A record's detail with its first claim."""
DONE = bytes(110)
"""The same with the outcome and a small result."""
EVENT = bytes(100)
"""One job's change of state."""


def connect(folder: str) -> sqlite3.Connection:
    connection = sqlite3.connect(Path(folder) / "bare.db", isolation_level=None)
    connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
    connection.execute("BEGIN IMMEDIATE")
    schema.prepare(connection, "bananas")
    connection.execute("COMMIT")
    return connection


def submit(connection: sqlite3.Connection, jobs: int) -> None:
    for begin in range(0, jobs, BATCH):
        now = time.time()
        numbers = range(begin + 1, min(begin + BATCH, jobs) + 1)
        lines = [
            (
                *(
                    n,
                    1,
                    f"{n:032x}",
                    "benchmarks.noop",
                    "default",
                    now,
                    3,
                    None,
                    False,
                    0.0,
                    None,
                    None,
                ),
                *(2, 50, False, 101, n, 1, 0, 0, 0, None, now, now),
                *(None, None, None, None, None, None, 0.0, None, None),
            )
            for n in numbers
        ]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(records.INSERT, lines)
        connection.executemany("INSERT INTO bodies VALUES (?, ?)", [(n, MESSAGE) for n in numbers])
        _event(connection, now, len(lines))
        connection.execute("COMMIT")


def drain(connection: sqlite3.Connection) -> None:
    select = (
        f"SELECT {rows.COLUMNS}, bodies.message FROM jobs JOIN bodies USING (seq) "
        "WHERE ns = 1 AND routing_key = 'default' AND state = 2 ORDER BY rank, ord LIMIT ?"
    )
    while True:
        now = time.time()
        connection.execute("BEGIN IMMEDIATE")
        found = connection.execute(select, (CLAIM,)).fetchall()
        if not found:
            connection.execute("COMMIT")
            return
        seqs = [row[rows.SEQ] for row in found]
        connection.executemany(
            records.UPDATE, [_changed(seq, 3, now, None, CLAIMED) for seq in seqs]
        )
        _event(connection, now, len(found))
        connection.execute("COMMIT")
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(records.UPDATE, [_changed(seq, 4, now, now, DONE) for seq in seqs])
        _event(connection, now, len(found))
        connection.execute("COMMIT")


def _changed(
    seq: int, state: int, now: float, finished: float | None, detail: bytes
) -> tuple[object, ...]:
    return (
        *(state, 50, False, 101, seq, 1, 1, 0, 0, "host-12345-0123456789ab", now, now, now),
        *(finished, None, None, None, None, 0.0, None, detail, seq),
    )


def _event(connection: sqlite3.Connection, now: float, count: int) -> None:
    connection.execute("INSERT INTO events (ns, at, body) VALUES (1, ?, ?)", (now, EVENT * count))


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
