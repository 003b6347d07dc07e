"""The records that one operation reads and changes, written back together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from bananas_brokers.sqlite import rows
from bananas_brokers.sqlite.tx import Tx, job_topic, marks, padded, queue_topic
from bananas_core import state
from bananas_core.job import FINAL, Event, Job, JobState, Ready, ReadyKind

_SELECT = f"SELECT {rows.COLUMNS} FROM jobs"
_SELECT_WHOLE = f"SELECT {rows.COLUMNS}, bodies.message FROM jobs JOIN bodies USING (seq)"
_CHUNK = 1000


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where an operation works: the namespace, the time of its start, and how the ledger runs."""

    ns: int
    now: float
    guard: bool = False
    horizon: float = 0.0


class Records:
    """Loaded records by id. ``set`` a new value as often as needed, then ``flush`` once."""

    def __init__(self, tx: Tx, place: Place) -> None:
        self.tx = tx
        self.place = place
        self.ns = place.ns
        self.now = place.now
        self.guard = place.guard
        self.horizon = place.horizon
        self._jobs: dict[str, Job] = {}
        self._where: dict[str, tuple[int, int]] = {}  # id → seq, ord
        self._changed: dict[str, None] = {}
        self._created: dict[str, None] = {}
        self._moved: dict[str, None] = {}
        self._rewritten: dict[str, None] = {}
        self._calls: dict[str, ReadyKind] = {}
        self._events: list[Event] = []

    def again(self) -> Records:
        """A fresh set in the same transaction, after ``flush``."""
        return Records(self.tx, self.place)

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

    def adopt(self, found_rows: Iterable[tuple[Any, ...]], *, whole: bool = False) -> list[Job]:
        """The records of rows of ``COLUMNS``; one that is known already keeps its value here."""
        found = []
        for row in found_rows:
            known = self._jobs.get(row[1])
            if known is None:
                known = rows.job(row, row[rows.MESSAGE] if whole else b"")
                self._jobs[known.id] = known
                self._where[known.id] = (row[rows.SEQ], row[rows.ORD])
            found.append(known)
        return found

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def add(self, job: Job) -> None:
        """A record that does not exist yet."""
        self._jobs[job.id] = job
        self._created[job.id] = None
        self._note(None, job)

    def set(self, new: Job | None) -> None:
        """The next value of a loaded record; nothing happens if it is the same object."""
        if new is None:
            return
        old = self._jobs[new.id]
        if new is old:
            return
        self._jobs[new.id] = new
        if new.id not in self._created:
            self._changed[new.id] = None
            if new.message is not old.message:
                self._rewritten[new.id] = None
        self._note(old, new)

    def call_for(self, job_id: str, kind: ReadyKind) -> None:
        """``ready`` must have this record, though neither state nor generation changes."""
        self._calls[job_id] = kind

    def ready(self) -> list[Ready]:
        """What must be done because of this operation, once for each record, in no order."""
        jobs = [self._jobs[job_id] for job_id in self._calls]
        messages = self._messages(
            [job.id for job in jobs if job.state is JobState.PENDING and not job.message]
        )
        return [
            state.ready(replace(job, message=messages[job.id]) if job.id in messages else job)
            for job in jobs
        ]

    def flush(self) -> None:
        """Write all changes and their events."""
        if self._moved:
            order = self.tx.take("ord", len(self._moved))
            for offset, job_id in enumerate(self._moved):
                seq, old = self._where.get(job_id, (order + offset, 0))
                # What goes back to the head keeps its place among its equals there.
                keeps = old and self._jobs[job_id].head
                self._where[job_id] = (seq, old if keeps else order + offset)
        if self._created:
            self._insert()
        connection = self.tx.connection
        if self._changed:
            connection.executemany(
                rows.UPDATE,
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
        connection.executemany(rows.INSERT, lines)
        connection.executemany("INSERT INTO bodies VALUES (?, ?)", bodies)
        if tags:
            connection.executemany("INSERT INTO tags VALUES (?, ?, ?)", tags)

    def _note(self, old: Job | None, new: Job) -> None:
        event = state.event(old, new)
        if event is None:
            return
        self._events.append(event)
        if new.state is JobState.PENDING:
            self._moved[new.id] = None
            self.tx.topics.add(queue_topic(self.ns, new.routing_key))
        elif old is None:
            self._moved[new.id] = None
        if old is not None and (new.guard_at is not None or self._calls):
            # Whatever is called for has a guard; most records have none, which is cheaper to ask.
            kind = state.calls_for(old, new, guard=self.guard)
            if kind is not None:
                self._calls[new.id] = kind
            else:
                self._calls.pop(new.id, None)  # what an earlier change called for is no more
        if new.state in FINAL:
            self.tx.topics.add(job_topic(self.ns, new.id))

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
