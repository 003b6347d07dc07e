"""The records that one operation reads and changes. No input or output happens here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from bananas_brokers.sql import rows
from bananas_core import state
from bananas_core.job import FINAL, Event, Job, JobState, Ready, ReadyKind


class Work:
    """Loaded records by id. ``set`` a new value as often as needed, then have them written once.

    ``now``: the ledger's time of this operation; ``guard``, ``horizon``: see ``open`` of the
    contract.
    """

    def __init__(self, now: float, *, guard: bool, horizon: float) -> None:
        self.now = now
        self.guard = guard
        self.horizon = horizon
        self.woken: set[str] = set()
        """Routing keys that have something to receive."""
        self.ended: set[str] = set()
        """Ids of jobs that are final now."""
        self._jobs: dict[str, Job] = {}
        self._where: dict[str, tuple[int, int]] = {}  # id → seq, ord
        self._changed: dict[str, None] = {}
        self._created: dict[str, None] = {}
        self._moved: dict[str, None] = {}
        self._rewritten: dict[str, None] = {}
        self._calls: dict[str, ReadyKind] = {}
        self._events: list[Event] = []

    def know(self, job: Job, seq: int, order: int) -> Job:
        """A record that was read; one that is known already keeps its value here."""
        known = self._jobs.get(job.id)
        if known is not None:
            return known
        self._jobs[job.id] = job
        self._where[job.id] = (seq, order)
        return job

    def adopt(self, found_rows: Iterable[tuple[Any, ...]], *, whole: bool = False) -> list[Job]:
        """The records of rows of ``COLUMNS``, with the message at the end if ``whole``."""
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

    def order(self, job_id: str) -> int:
        """The place of a record that was read, among its equals."""
        return self._where[job_id][1]

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

    def unread(self) -> list[str]:
        """Records whose message ``ready`` needs and which was not read with them."""
        jobs = (self._jobs[job_id] for job_id in self._calls)
        return [job.id for job in jobs if job.state is JobState.PENDING and not job.message]

    def ready_with(self, messages: dict[str, bytes]) -> list[Ready]:
        """What must be done because of this operation, once for each record, in no order.
        ``messages``: those of ``unread``."""
        jobs = [self._jobs[job_id] for job_id in self._calls]
        return [
            state.ready(replace(job, message=messages[job.id]) if job.id in messages else job)
            for job in jobs
        ]

    def place(self, first: int) -> None:
        """Give what became pending its place in the order; ``first`` of as many numbers as
        ``_moved`` has."""
        for offset, job_id in enumerate(self._moved):
            seq, old = self._where.get(job_id, (first + offset, 0))
            # What goes back to the head keeps its place among its equals there.
            keeps = old and self._jobs[job_id].head
            self._where[job_id] = (seq, old if keeps else first + offset)

    def _note(self, old: Job | None, new: Job) -> None:
        event = state.event(old, new)
        if event is None:
            return
        self._events.append(event)
        if new.state is JobState.PENDING:
            self._moved[new.id] = None
            self.woken.add(new.routing_key)
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
            self.ended.add(new.id)
