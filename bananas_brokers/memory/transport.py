"""The transport of ``memory://``. With the ledger of the same store, pending records are the
queue, and only foreign messages lie in queues of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from bananas_brokers.memory.bell import queue_topic, wait_for
from bananas_brokers.memory.connection import Connection
from bananas_brokers.memory.queues import LEASE, Place, Token
from bananas_brokers.memory.results import FusedResultBackend
from bananas_brokers.memory.settings import Form, read_settings
from bananas_brokers.memory.store import Store
from bananas_core.clock import Clock
from bananas_core.errors import TransportError, TransportUnavailable
from bananas_core.job import VerdictKind
from bananas_core.results import ResultBackend
from bananas_core.transport import (
    Delivery,
    Outgoing,
    QueueStats,
    Received,
    Transport,
    TransportCapabilities,
)

T = TypeVar("T")

_LOOK: Final = 1.0
"""Seconds after which a receiver looks for itself: leases end without a bell."""


def MemoryTransport(url: str, namespace: str, *, clock: Clock | None = None) -> Transport:
    """The transport that ``url`` names: fused, or split with ``?form=split``.

    Raises:
        ConfigurationError: an unknown option, or not a ``memory://`` URL.
    """
    if read_settings(url).form is Form.SPLIT:
        from bananas_brokers.memory.split import SplitTransport

        return SplitTransport(url, namespace, clock=clock)
    return FusedTransport(url, namespace, clock=clock)


class FusedTransport:
    """See ``FusedResultBackend`` for what is shared and how long it stays."""

    capabilities = TransportCapabilities(fused=True, lease=LEASE)

    def __init__(self, url: str, namespace: str, *, clock: Clock | None = None) -> None:
        self.connection = Connection(read_settings(url), namespace, clock, TransportUnavailable)
        self._held: set[Token] = set()
        self._turn = 0
        """Which queue of a list is asked first: it goes round, so that none starves."""

    async def open(self) -> None:
        self.connection.open()

    async def close(self) -> None:
        if self.connection.is_open:
            self._give_back(self.connection.store(), self._held)
            self._held = set()
            self.connection.close()

    async def declare(self, queues: Sequence[str]) -> None:
        store = await self.connection.turn()
        store.queues.declare(queues)

    async def send(self, messages: Sequence[Outgoing]) -> list[TransportError | None]:
        store = await self.connection.turn()
        most, answers = self.capabilities.max_message, []  # type: int, list[TransportError | None]
        for message in messages:
            if len(message.body) > most:
                size = len(message.body)
                answers.append(TransportError(f"message of {size} bytes is over {most}"))
                continue
            store.queues.send(message, store.records.next_number(), store.now())
            store.bell.ring(queue_topic(message.queue))
            answers.append(None)
        return answers

    async def receive(self, queues: Sequence[str], limit: int, timeout: float) -> list[Delivery]:
        def take(store: Store, queue: str) -> Delivery | None:
            return self._lease(store, queue)

        return await self._receive(queues, limit, timeout, take)

    async def receive_claimed(
        self, session: str, queues: Sequence[str], limit: int, timeout: float
    ) -> list[Received]:
        def take(store: Store, queue: str) -> Received | None:
            return self._claim(store, session, queue)

        return await self._receive(queues, limit, timeout, take)

    async def ack(self, deliveries: Sequence[Delivery]) -> list[bool]:
        store = await self.connection.turn()
        return [store.queues.ack(token, store.now()) for token in self._forget(deliveries)]

    async def release(self, deliveries: Sequence[Delivery]) -> list[bool]:
        store = await self.connection.turn()
        return self._give_back(store, self._forget(deliveries))

    async def bury(self, deliveries: Sequence[Delivery], reason: str) -> list[bool]:
        store = await self.connection.turn()
        return [store.queues.bury(token, reason, store.now()) for token in self._forget(deliveries)]

    async def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        store = await self.connection.turn()
        return [store.queues.stats(queue, store.now()) for queue in queues]

    async def purge(self, queue: str) -> int:
        store = await self.connection.turn()
        return store.queues.purge(queue, store.now())

    async def erase(self) -> None:
        """Remove everything of this name and namespace, records too. Safe to repeat."""
        (await self.connection.turn()).clear()
        self._held = set()

    def shares(self, backend: ResultBackend) -> bool:
        return (
            isinstance(backend, FusedResultBackend)
            and backend.connection.key == self.connection.key
        )

    async def _receive(
        self,
        queues: Sequence[str],
        limit: int,
        timeout: float,
        take: Callable[[Store, str], T | None],
    ) -> list[T]:
        store = await self.connection.turn()
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        with store.bell.listen(queue_topic(queue) for queue in queues) as event:
            while self.connection.is_open:
                found = self._take_round(store, queues, limit, take)
                left = until - loop.time()
                if found or left <= 0:
                    return found
                await wait_for(event, min(left, _LOOK))
        return []

    def _take_round(
        self,
        store: Store,
        queues: Sequence[str],
        limit: int,
        take: Callable[[Store, str], T | None],
    ) -> list[T]:
        """One of each queue in turn, until there is no more or it is enough."""
        if not queues:
            return []
        self._turn = (self._turn + 1) % len(queues)
        asked = [*queues[self._turn :], *queues[: self._turn]]
        found: list[T] = []
        while asked and len(found) < limit:
            for queue in list(asked):
                item = take(store, queue)
                if item is None:
                    asked.remove(queue)
                elif len(found) < limit:
                    found.append(item)
                if len(found) >= limit:
                    break
        return found

    def _lease(self, store: Store, queue: str) -> Delivery | None:
        leased = store.queues.lease(queue, store.now())
        if leased is None:
            return None
        stored, token = leased
        self._held.add(token)
        return Delivery(
            body=stored.body, queue=queue, token=token, redelivered=stored.deliveries > 1
        )

    def _claim(self, store: Store, session: str, queue: str) -> Received | None:
        """T21: whichever comes first of the records and the foreign messages of a queue."""
        pending = store.records.pending.get(queue)
        while True:
            record: tuple[Place, str] | None = None if pending is None else pending.first()
            message = store.queues.first(queue, store.now())
            if record is None or (message is not None and message < record[0]):
                delivery = self._lease(store, queue)
                return None if delivery is None else Received(delivery=delivery)
            verdict = store.claim(session, record[1])
            if verdict.kind is VerdictKind.RUN:
                return Received(verdict=verdict)
            # Its time was over: it has just ended as expired, so the next one is looked at.

    def _give_back(self, store: Store, tokens: Sequence[Token] | set[Token]) -> list[bool]:
        answers = []
        for token in tokens:
            stored = store.queues.release(token, store.now())
            if stored is not None:
                store.bell.ring(queue_topic(stored.queue))
            answers.append(stored is not None)
        return answers

    def _forget(self, deliveries: Sequence[Delivery]) -> list[Token]:
        tokens: list[Token] = [delivery.token for delivery in deliveries]
        self._held.difference_update(tokens)
        return tokens
