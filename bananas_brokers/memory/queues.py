"""The messages of the memory transport: ready, leased, buried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from bananas_brokers.memory.ordered import Ordered
from bananas_core.transport import Outgoing, QueueStats

LEASE: Final = 15.0

Place = tuple[int, bool, int]
"""Sorts by what goes first: (minus priority, not head, number)."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A message as the queue keeps it. ``number`` rises with every message sent."""

    number: int
    body: bytes
    queue: str
    place: Place
    sent_at: float
    deliveries: int = 0


class Token(msgspec.Struct, frozen=True):
    """Names one hand-out of a message."""

    number: int
    delivery: int


class _Queue:
    def __init__(self) -> None:
        self.ready: Ordered[int] = Ordered()
        self.leased: set[int] = set()
        self.buried: dict[int, str] = {}
        """Message number → reason."""


class Queues:
    """All messages of one store."""

    def __init__(self) -> None:
        self._messages: dict[int, Stored] = {}
        self._queues: dict[str, _Queue] = {}
        self._leases: Ordered[int] = Ordered()

    def declare(self, queues: Sequence[str]) -> None:
        for queue in queues:
            self._queue(queue)

    def send(self, message: Outgoing, number: int, now: float) -> None:
        place = (-message.priority, not message.head, number)
        stored = Stored(
            number=number, body=message.body, queue=message.queue, place=place, sent_at=now
        )
        self._messages[number] = stored
        self._queue(message.queue).ready.add(number, place)

    def first(self, queue: str, now: float) -> Place | None:
        """Where the message stands that would be received next, without receiving it."""
        self._expire(now)
        known = self._queues.get(queue)
        found = None if known is None else known.ready.first()
        return None if found is None else found[0]

    def lease(self, queue: str, now: float) -> tuple[Stored, Token] | None:
        """Hand out the next message of a queue."""
        self._expire(now)
        known = self._queues.get(queue)
        number = None if known is None else known.ready.pop()
        if known is None or number is None:
            return None
        old = self._messages[number]
        stored = msgspec.structs.replace(old, deliveries=old.deliveries + 1)
        self._messages[number] = stored
        known.leased.add(number)
        self._leases.add(number, now + LEASE)
        return stored, Token(number, stored.deliveries)

    def ack(self, token: Token, now: float) -> bool:
        stored = self._leased(token, now)
        if stored is None:
            return False
        self._unlease(stored)
        del self._messages[stored.number]
        return True

    def release(self, token: Token, now: float) -> Stored | None:
        """Back to the place it had. None: the lease was over."""
        stored = self._leased(token, now)
        if stored is not None:
            self._unlease(stored)
            self._queues[stored.queue].ready.add(stored.number, stored.place)
        return stored

    def bury(self, token: Token, reason: str, now: float) -> bool:
        stored = self._leased(token, now)
        if stored is None:
            return False
        self._unlease(stored)
        self._queues[stored.queue].buried[stored.number] = reason
        return True

    def stats(self, queue: str, now: float) -> QueueStats:
        self._expire(now)
        known = self._queues.get(queue)
        if known is None:
            return QueueStats(queue=queue, ready=0)
        oldest = min((self._messages[n].sent_at for n in known.ready), default=None)
        return QueueStats(
            queue=queue,
            ready=len(known.ready),
            leased=len(known.leased),
            buried=len(known.buried),
            oldest=oldest,
        )

    def purge(self, queue: str, now: float) -> int:
        self._expire(now)
        known = self._queues.get(queue)
        if known is None:
            return 0
        gone = [*known.ready, *known.buried]
        for number in gone:
            del self._messages[number]
        known.ready = Ordered()
        known.buried.clear()
        return len(gone)

    def _queue(self, queue: str) -> _Queue:
        return self._queues.setdefault(queue, _Queue())

    def _expire(self, now: float) -> None:
        """Leases that are over: those messages are ready again."""
        first = self._leases.first()
        if first is None or first[0] > now:
            return
        for number in self._leases.take(now, len(self._leases)):
            stored = self._messages[number]
            self._queues[stored.queue].leased.discard(number)
            self._queues[stored.queue].ready.add(number, stored.place)

    def _leased(self, token: Token, now: float) -> Stored | None:
        """The message if this very hand-out still holds it."""
        self._expire(now)
        stored = self._messages.get(token.number)
        if stored is None or stored.deliveries != token.delivery:
            return None
        return stored if token.number in self._queues[stored.queue].leased else None

    def _unlease(self, stored: Stored) -> None:
        self._leases.discard(stored.number)
        self._queues[stored.queue].leased.discard(stored.number)
