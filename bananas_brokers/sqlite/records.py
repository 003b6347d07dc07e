"""The records that one operation reads and changes, written back together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from bananas_brokers.sql import rows
from bananas_brokers.sql.work import Work
from bananas_brokers.sqlite.tx import Tx, job_topic, marks, padded, queue_topic
from bananas_core.job import Job, Ready

_ALL: Final = rows.FIXED + rows.CHANGING
INSERT: Final = f"INSERT INTO jobs ({', '.join(_ALL)}) VALUES ({', '.join('?' * len(_ALL))})"
UPDATE: Final = f"UPDATE jobs SET {' = ?, '.join(rows.CHANGING)} = ? WHERE seq = ?"
_SELECT: Final = f"SELECT {rows.COLUMNS} FROM jobs"
_SELECT_WHOLE: Final = f"SELECT {rows.COLUMNS}, bodies.message FROM jobs JOIN bodies USING (seq)"
_CHUNK: Final = 1000


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where an operation works: the namespace, the time of its start, and how the ledger runs."""

    ns: int
    now: float
    guard: bool = False
    horizon: float = 0.0


class Records(Work):
    """``Work`` that reads and writes in a transaction; ``flush`` once."""

    def __init__(self, tx: Tx, place: Place) -> None:
        super().__init__(place.now, guard=place.guard, horizon=place.horizon)
        self.tx = tx
        self.ns = place.ns
        self._in = place

    def again(self) -> Records:
        """A fresh set in the same transaction, after ``flush``."""
        return Records(self.tx, self._in)

    def load(self, ids: Sequence[str], *, whole: bool = False) -> None:
        """Read the records of ``ids``; with their messages if ``whole``."""
        select = _SELECT_WHOLE if whole else _SELECT
        for start in range(0, len(ids), _CHUNK):
            part = list(ids[start : start + _CHUNK])
            self.select(
                f"{select} WHERE ns = ? AND id IN ({marks(len(part))})",
                (self.ns, *padded(part)),
                whole=whole,
            )

    def find(self, where: str, values: Iterable[Any], *, whole: bool = False) -> list[Job]:
        """Read the records that a condition on ``jobs`` selects, in its order."""
        select = _SELECT_WHOLE if whole else _SELECT
        return self.select(f"{select} WHERE {where}", tuple(values), whole=whole)

    def select(self, sql: str, values: tuple[Any, ...], *, whole: bool) -> list[Job]:
        return self.adopt(self.tx.connection.execute(sql, values).fetchall(), whole=whole)

    def ready(self) -> list[Ready]:
        """What must be done because of this operation, once for each record, in no order."""
        return self.ready_with(self._messages(self.unread()))

    def flush(self) -> None:
        """Write all changes and their events."""
        self.tx.topics.update(queue_topic(self.ns, queue) for queue in self.woken)
        self.tx.topics.update(job_topic(self.ns, job_id) for job_id in self.ended)
        if self._moved:
            self.place(self.tx.take("ord", len(self._moved)))
        if self._created:
            self._insert()
        connection = self.tx.connection
        if self._changed:
            connection.executemany(
                UPDATE,
                [
                    (*rows.changing(self._jobs[i], self._where[i][1]), self._where[i][0])
                    for i in self._changed
                ],
            )
        if self._rewritten:
            connection.executemany(
                "UPDATE bodies SET message = ? WHERE seq = ?",
                [(self._jobs[i].message, self._where[i][0]) for i in self._rewritten],
            )
        if self._events:
            connection.execute(
                "INSERT INTO events (ns, at, body) VALUES (?, ?, ?)",
                (self.ns, self.now, _encode(self._events)),
            )

    def _insert(self) -> None:
        connection, ns = self.tx.connection, self.ns
        lines, bodies = [], []
        tags: list[tuple[int, str, int]] = []
        for job_id in self._created:
            job = self._jobs[job_id]
            seq, order = self._where[job_id]
            lines.append(rows.fixed(job, seq, ns) + rows.changing(job, order))
            bodies.append((seq, job.message))
            tags.extend((ns, tag, seq) for tag in set(job.tags))
        connection.executemany(INSERT, lines)
        connection.executemany("INSERT INTO bodies VALUES (?, ?)", bodies)
        if tags:
            connection.executemany("INSERT INTO tags VALUES (?, ?, ?)", tags)

    def _messages(self, ids: list[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for start in range(0, len(ids), _CHUNK):
            names = {self._where[i][0]: i for i in ids[start : start + _CHUNK]}
            for seq, message in self.tx.connection.execute(
                f"SELECT seq, message FROM bodies WHERE seq IN ({marks(len(names))})",
                padded(list(names)),
            ).fetchall():
                found[names[seq]] = message
        return found


_encode = msgspec.msgpack.Encoder().encode
