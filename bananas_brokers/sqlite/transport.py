"""The transport of ``sqlite://``. With the ledger in the same file, pending records are the
queue, and only foreign messages are rows of their own."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, TypeVar

from bananas_brokers.sql.turns import Turns
from bananas_brokers.sqlite import fused, lifecycle, mailbox
from bananas_brokers.sqlite.database import Handle
from bananas_brokers.sqlite.erase import erase
from bananas_brokers.sqlite.records import Place, Records
from bananas_brokers.sqlite.results import SQLiteResultBackend
from bananas_brokers.sqlite.settings import read_settings
from bananas_brokers.sqlite.tx import Operation, Tx, queue_topic
from bananas_core.clock import Clock, SystemClock
from bananas_core.errors import TransportError, TransportUnavailable
from bananas_core.job import Outcome, OutcomeKind
from bananas_core.results import ResultBackend
from bananas_core.transport import (
    Delivery,
    Outgoing,
    QueueStats,
    Received,
    TransportCapabilities,
)

T = TypeVar("T")

_LOOK = 1.0
"""Seconds after which a receiver looks for itself: leases end without a bell."""


class SQLiteTransport:
    """See ``SQLiteResultBackend`` for the URL."""

    def __init__(self, url: str, namespace: str, *, clock: Clock | None = None) -> None:
        self.settings = read_settings(url)
        self.namespace = namespace
        self.capabilities = TransportCapabilities(
            fused=True,
            lease=mailbox.LEASE,
            durability="disk" if self.settings.durable else "memory",
        )
        self._clock = clock or SystemClock()
        self._handle = Handle(self.settings, namespace, TransportError, TransportUnavailable)
        self._held: dict[tuple[int, int], Delivery] = {}
        self._taking: set[asyncio.Task[Any]] = set()
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._pid = 0
        self._turns = Turns()
        self._closing = False
        self._plenty = True
        """The last receive got something, so the next one need not look first."""

    async def open(self) -> None:
        await self._handle.open()
        self._closing, self._pid = False, os.getpid()

    async def close(self) -> None:
        if not self._handle.is_open() or self._closing:
            return
        self._closing = True
        if self._pid != os.getpid():  # after a fork: what is held belongs to the parent
            self._held.clear()
            self._taking.clear()
        self._handle.database.bell.ring()
        try:
            if self._taking:
                await asyncio.wait(self._taking)
            await self._give_back(list(self._held.values()))
        finally:
            self._held.clear()
            await self._handle.close()

    def versions(self) -> dict[str, str]:
        """Of the library that reads the file, and of what that is a client of: both in one."""
        return {"client": "sqlite3", "server": f"SQLite {sqlite3.sqlite_version}"}

    async def declare(self, queues: Sequence[str]) -> None:
        """A queue is nothing but its rows."""
        await self._handle.read(lambda _: None)

    async def send(self, messages: Sequence[Outgoing]) -> list[TransportError | None]:
        most, ns = self.capabilities.max_message, self._handle.ns
        fit = [message for message in messages if len(message.body) <= most]
        await self._handle.write(lambda tx: mailbox.send(tx, ns, self._now(), fit))
        return [
            None
            if len(message.body) <= most
            else TransportError(f"message of {len(message.body)} bytes is over {most}")
            for message in messages
        ]

    async def receive(self, queues: Sequence[str], limit: int, timeout: float) -> list[Delivery]:
        turn = self._turns.next()

        def take(tx: Tx) -> list[Delivery]:
            return fused.leased(tx, self._handle.ns, self._now(), queues, limit, turn)

        async def undo(deliveries: list[Delivery]) -> None:
            await self._give_back(deliveries)

        found = await self._receive(queues, timeout, take, undo, records=False)
        self._held.update((delivery.token, delivery) for delivery in found)
        return found

    async def receive_claimed(
        self, session: str, queues: Sequence[str], limit: int, timeout: float
    ) -> list[Received]:
        turn = self._turns.next()

        def take(tx: Tx) -> list[Received]:
            place = Place(ns=self._handle.ns, now=self._now())
            return fused.claimed(tx, place, session, queues, limit, turn)

        async def undo(received: list[Received]) -> None:
            await self._give_back([r.delivery for r in received if r.delivery is not None])
            await self._hand_back(received)

        found = await self._receive(queues, timeout, take, undo, records=True)
        for item in found:
            if item.delivery is not None:
                self._held[item.delivery.token] = item.delivery
        return found

    async def ack(self, deliveries: Sequence[Delivery]) -> list[bool]:
        tokens = self._forget(deliveries)
        return await self._handle.write(lambda tx: mailbox.ack(tx, self._now(), tokens))

    async def release(self, deliveries: Sequence[Delivery]) -> list[bool]:
        self._forget(deliveries)
        return await self._give_back(deliveries)

    async def bury(self, deliveries: Sequence[Delivery], reason: str) -> list[bool]:
        tokens = self._forget(deliveries)
        return await self._handle.write(lambda tx: mailbox.bury(tx, self._now(), tokens, reason))

    async def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        ns = self._handle.ns
        counts_records = self._handle.database.fused[ns] > 0
        return await self._handle.read(
            lambda tx: mailbox.stats(tx, ns, self._now(), queues, fused=counts_records)
        )

    async def purge(self, queue: str) -> int:
        ns = self._handle.ns
        return await self._handle.write(lambda tx: mailbox.purge(tx, ns, self._now(), queue))

    async def erase(self) -> None:
        """Remove the namespace; see ``SQLiteResultBackend.erase``."""
        ns = self._handle.ns
        while await self._handle.write(lambda tx: erase(tx, ns)):
            pass

    def shares(self, backend: ResultBackend) -> bool:
        return (
            isinstance(backend, SQLiteResultBackend)
            and backend.settings.path == self.settings.path
            and backend.namespace == self.namespace
        )

    async def _receive(
        self,
        queues: Sequence[str],
        timeout: float,
        take: Operation[list[T]],
        undo: Callable[[list[T]], Awaitable[None]],
        *,
        records: bool,
    ) -> list[T]:
        """Wait for something to take. Unless there was plenty last time, look before writing."""
        ns, database = self._handle.ns, self._handle.database
        until = monotonic() + timeout
        with database.bell.listen(queue_topic(ns, queue) for queue in queues) as ticket:
            look, nudged = not self._plenty, False
            while not self._ended():
                if not look or await self._handle.read(
                    lambda tx: mailbox.waiting(tx, ns, self._now(), queues, records=records)
                ):
                    if self._ended():
                        break
                    found = await self._shielded(take, undo)
                    if found:
                        self._plenty = True
                        self._turns.served(len(found))
                        return found
                self._plenty, look = False, True
                left = until - monotonic()
                if left <= 0:
                    break
                if not nudged:
                    database.reads.nudge()
                    nudged = True
                await ticket.wait(min(left, _LOOK))
        return []

    async def _shielded(
        self, take: Operation[list[T]], undo: Callable[[list[T]], Awaitable[None]]
    ) -> list[T]:
        """T4: what a cancelled receive took is given back at once."""
        task = asyncio.ensure_future(self._take(take, undo))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                self._abandoned.add(task)
            elif not task.cancelled() and task.exception() is None:
                late = asyncio.ensure_future(undo(task.result()))
                self._taking.add(late)
                late.add_done_callback(self._taking.discard)
            raise

    async def _take(
        self, take: Operation[list[T]], undo: Callable[[list[T]], Awaitable[None]]
    ) -> list[T]:
        task = asyncio.current_task()
        try:
            found = await self._handle.write(take)
        except TransportError:
            if task in self._abandoned:
                return []  # nobody is left to be told
            raise
        finally:
            abandoned = task in self._abandoned
            self._abandoned.discard(task)
        if abandoned or self._closing:
            await undo(found)
            return []
        return found

    def _ended(self) -> bool:
        return self._closing or not self._handle.is_open()

    def _forget(self, deliveries: Sequence[Delivery]) -> list[tuple[int, int]]:
        for delivery in deliveries:
            self._held.pop(delivery.token, None)
        return [delivery.token for delivery in deliveries]

    async def _give_back(self, deliveries: Sequence[Delivery]) -> list[bool]:
        if not deliveries:
            return []
        ns = self._handle.ns
        return await self._handle.write(lambda tx: mailbox.release(tx, ns, self._now(), deliveries))

    async def _hand_back(self, received: Sequence[Received]) -> None:
        outcomes = [
            Outcome(id=claim.id, fence=claim.fence, kind=OutcomeKind.HANDBACK)
            for claim in (r.verdict.claim for r in received if r.verdict is not None)
            if claim is not None
        ]
        if outcomes:
            await self._handle.write(
                lambda tx: lifecycle.finish(
                    Records(tx, Place(ns=self._handle.ns, now=self._now())), outcomes
                )
            )

    def _now(self) -> float:
        return self._clock.now()
