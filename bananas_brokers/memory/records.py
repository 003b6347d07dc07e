"""The records of the memory ledger, their indexes and the event feed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from bananas_brokers.memory.bell import Bell, job_topic, queue_topic
from bananas_brokers.memory.finals import Finals
from bananas_brokers.memory.ordered import Ordered
from bananas_core import state
from bananas_core.errors import CursorExpired, ResultBackendError
from bananas_core.job import FINAL, Event, EventPage, Job, JobState, Ready


class Records:
    """Every change goes through ``set``, which keeps the indexes, events and bells right."""

    def __init__(self, bell: Bell) -> None:
        self.jobs: dict[str, Job] = {}
        self.pending: dict[str, Ordered[str]] = {}
        """Routing key → pending jobs, the one to run first in front."""
        self.due: Ordered[str] = Ordered()
        self.held: dict[str, dict[str, None]] = {}
        """Session id → jobs that it runs, oldest claim first."""
        self.finals = Finals(self.jobs)
        self._bell = bell
        self._number = 0
        self._moved: dict[str, Job] = {}
        """What changed in this call, as it was before: see `state.calls_for`."""
        self._events: deque[Event] = deque()
        self._first_event = 1

    def next_number(self) -> int:
        """A number that was never given before: places in queues, fences, versions."""
        self._number += 1
        return self._number

    def get(self, job_id: str) -> Job | None:
        return self.jobs.get(job_id)

    def set(self, new: Job | None) -> None:
        """Store the next value of a record; the same object, or None, changes nothing."""
        if new is None:
            return
        old = self.jobs.get(new.id)
        if new is old:
            return
        self.jobs[new.id] = new
        self._index(old, new)
        event = state.event(old, new)
        if event is None:
            return
        self._events.append(event)
        if old is not None:
            self._moved.setdefault(new.id, old)
        if new.state is JobState.PENDING:
            self._bell.ring(queue_topic(new.routing_key))
        elif new.state in FINAL:
            self._bell.ring(job_topic(new.id))

    def delete(self, job: Job) -> None:
        """Forget a final record."""
        del self.jobs[job.id]
        self.finals.discard(job)
        self.finals.free(job.id)

    def take_ready(self, *, guard: bool, also: Iterable[str] = ()) -> list[Ready]:
        """What must be done because of the changes since the last call, and about the jobs
        ``also``: follow-ups, and sends if anybody has to send."""
        moved, self._moved = self._moved, {}
        wanted = {
            job_id: None
            for job_id, old in moved.items()
            if state.calls_for(old, self.jobs[job_id], guard=guard) is not None
        }
        return [state.ready(self.jobs[job_id]) for job_id in wanted | dict.fromkeys(also)]

    def drop_ready(self) -> None:
        """Nobody is to be told of the changes since the last call."""
        self._moved = {}

    def events(self, after: str, limit: int) -> EventPage:
        """L41. A cursor is the number of the last event seen."""
        end = self._first_event + len(self._events)
        if after == "$":
            return EventPage(events=(), cursor=str(end - 1))
        start = self._first_event if after == "" else _number(after) + 1
        if start < self._first_event:
            raise CursorExpired(f"events after {after} are gone; start again from the oldest")
        first = start - self._first_event
        found = tuple(self._events[i] for i in range(first, min(first + limit, len(self._events))))
        return EventPage(events=found, cursor=str(start - 1 + len(found)))

    def drop_events(self, before: float) -> None:
        """Forget events that are older."""
        while self._events and self._events[0].at < before:
            self._events.popleft()
            self._first_event += 1

    def _index(self, old: Job | None, new: Job) -> None:
        if old is not None and old.state is not new.state:
            self._unindex(old)
        if new.state is JobState.PENDING:
            queue = self.pending.setdefault(new.routing_key, Ordered())
            if old is None or old.state is not new.state or old.gen != new.gen:
                queue.add(new.id, (-new.priority, not new.head, self.next_number()))
        elif new.state is JobState.PROCESSING:
            self.held.setdefault(new.worker or "", {})[new.id] = None
        elif new.state in FINAL:
            self.finals.add(new)
            if new.guard_at is None:
                self.finals.free(new.id)
        due_at = new.due_at
        if due_at is None:
            self.due.discard(new.id)
        else:
            self.due.add(new.id, due_at)

    def _unindex(self, old: Job) -> None:
        if old.state is JobState.PENDING:
            self.pending[old.routing_key].discard(old.id)
        elif old.state is JobState.PROCESSING:
            held = self.held[old.worker or ""]
            del held[old.id]
            if not held:
                del self.held[old.worker or ""]
        elif old.state in FINAL:
            self.finals.discard(old)


def _number(cursor: str) -> int:
    try:
        return int(cursor)
    except ValueError as error:
        raise ResultBackendError(f"{cursor!r:.80} is not an event cursor of this ledger") from error
