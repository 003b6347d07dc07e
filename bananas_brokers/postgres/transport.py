"""The transport of ``postgresql://``. With the ledger in the same place, pending records are the
queue, and only foreign messages are rows of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from bananas_brokers.postgres import lifecycle, mailbox
from bananas_brokers.postgres.erase import erase
from bananas_brokers.postgres.facts import versions_of
from bananas_brokers.postgres.records import Records
from bananas_brokers.postgres.results import PostgresResultBackend
from bananas_brokers.postgres.settings import read_settings
from bananas_brokers.postgres.store import Store
from bananas_brokers.sql.turns import Turns
from bananas_core import state
from bananas_core.clock import Clock
from bananas_core.errors import TransportError, TransportUnavailable
from bananas_core.job import Outcome, OutcomeKind, Verdict, VerdictKind
from bananas_core.results import ResultBackend
from bananas_core.transport import (
    Delivery,
    Outgoing,
    QueueStats,
    Received,
    TransportCapabilities,
)

T = TypeVar("T")

_LOOK: Final = 1.0
"""Seconds after which a receiver looks for itself: leases end, and callers commit, silently."""
_LOCKED: Final = 0.02
"""Seconds until another look when what is there was just taken by others, or will be given back."""


class PostgresTransport:
    """See ``PostgresResultBackend`` for the URL."""

    def __init__(self, url: str, namespace: str, *, clock: Clock | None = None) -> None:
        self.settings = read_settings(url)
        self.namespace = namespace
        self.capabilities = TransportCapabilities(
            fused=True, lease=mailbox.LEASE, durability=self.settings.durability
        )
        self._store = Store(self.settings, namespace, clock, TransportError, TransportUnavailable)
        self._store.guard = False  # what it gives back, it gives back as a part of the ledger
        self._held: dict[mailbox.Token, Delivery] = {}
        self._taking: set[asyncio.Task[Any]] = set()
        self._turns = Turns()
        self._closing = False
        self._plenty = True
        """The last receive got something, so the next one need not look first."""

    async def open(self) -> None:
        if self._store.is_open():
            return
        await self._store.open()
        self._held, self._taking, self._closing = {}, set(), False

    async def close(self) -> None:
        if not self._store.is_open() or self._closing:
            return
        self._closing = True
        try:
            if self._store.is_here():  # else what is held belongs to another loop or process
                self._store.database.bell.ring_all()
                if self._taking:
                    await asyncio.wait(self._taking)
                await mailbox.settle(self._store, "release", list(self._held.values()))
        except TransportUnavailable:
            pass  # their leases end by themselves
        finally:
            self._held = {}
            await self._store.close()

    async def declare(self, queues: Sequence[str]) -> None:
        """A queue is nothing but its rows."""
        await self._store.run("now", None)

    def versions(self) -> dict[str, str]:
        """Of the client library and of the server; while open."""
        return versions_of(self._store.database.facts)

    async def send(self, messages: Sequence[Outgoing]) -> list[TransportError | None]:
        most = self.capabilities.max_message
        await mailbox.send(self._store, [m for m in messages if len(m.body) <= most])
        return [
            None
            if len(message.body) <= most
            else TransportError(f"message of {len(message.body)} bytes is over {most}")
            for message in messages
        ]

    async def receive(self, queues: Sequence[str], limit: int, timeout: float) -> list[Delivery]:
        turn = self._turns.next()

        async def take() -> list[Delivery]:
            return await self._store.change(
                lambda records: mailbox.leased(records, queues, limit, turn)
            )

        async def undo(found: list[Delivery]) -> None:
            await mailbox.settle(self._store, "release", found)

        found = await self._receive(queues, timeout, take, undo, records=False)
        self._held.update((delivery.token, delivery) for delivery in found)
        return found

    async def receive_claimed(
        self, session: str, queues: Sequence[str], limit: int, timeout: float
    ) -> list[Received]:
        turn = self._turns.next()

        async def take() -> list[Received]:
            return await self._claim(session, queues, limit, turn)

        found = await self._receive(queues, timeout, take, self._undo, records=True)
        for item in found:
            if item.delivery is not None:
                self._held[item.delivery.token] = item.delivery
        return found

    async def ack(self, deliveries: Sequence[Delivery]) -> list[bool]:
        self._forget(deliveries)
        return await mailbox.settle(self._store, "ack", deliveries)

    async def release(self, deliveries: Sequence[Delivery]) -> list[bool]:
        self._forget(deliveries)
        return await mailbox.settle(self._store, "release", deliveries)

    async def bury(self, deliveries: Sequence[Delivery], reason: str) -> list[bool]:
        self._forget(deliveries)
        return await mailbox.settle(self._store, "bury", deliveries, reason)

    async def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        return await mailbox.stats(self._store, queues, fused=self._store.database.fused > 0)

    async def purge(self, queue: str) -> int:
        return await mailbox.purge(self._store, queue)

    async def erase(self) -> None:
        """Remove the namespace; see ``PostgresResultBackend.erase``."""
        await erase(self._store)

    def shares(self, backend: ResultBackend) -> bool:
        return (
            isinstance(backend, PostgresResultBackend)
            and backend.settings.place == self.settings.place
            and backend.namespace == self.namespace
        )

    async def _claim(
        self, session: str, queues: Sequence[str], limit: int, turn: int | None
    ) -> list[Received]:
        """One look: claims, and leases where there are messages."""
        store = self._store
        names = list(dict.fromkeys(queues))
        rows = await store.run(
            "receive", store.ns, store.now(), session, state.CLAIM_TTL, names, limit, turn
        )
        if rows[0]["waits"]:

            async def mixed(records: Records) -> list[Received]:
                return await mailbox.mixed(records, session, names, limit, turn)

            return await store.change(mixed)
        return [
            Received(
                verdict=Verdict(kind=VerdictKind.RUN, id=row["id"], claim=lifecycle.claim_of(row))
            )
            for row in rows
            if row["id"] is not None
        ]

    async def _receive(
        self,
        queues: Sequence[str],
        timeout: float,
        take: Callable[[], Awaitable[list[T]]],
        undo: Callable[[list[T]], Awaitable[Any]],
        *,
        records: bool,
    ) -> list[T]:
        """Wait for something to take. Unless there was plenty last time, look before writing."""
        if not queues:
            return []
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        bell = self._store.database.bell
        if self._plenty:
            found = await self._shielded(take, undo)
            if found or timeout <= 0:
                self._served(found)
                return found
        looks = 0
        with bell.listen(f"q{queue}" for queue in queues) as event:
            while not self._ended():
                waits = await self._waits(queues, records=records)
                if waits and not self._ended():
                    found = await self._shielded(take, undo)
                    if found:
                        self._served(found)
                        return found
                self._plenty = False
                left = until - loop.time()
                if left <= 0:
                    break
                looks += 1
                pause = _LOCKED if waits else bell.pause(looks, _LOOK)
                try:
                    async with asyncio.timeout(min(left, pause)):
                        await event.wait()
                except TimeoutError:
                    pass
                event.clear()
        return []

    async def _waits(self, queues: Sequence[str], *, records: bool) -> bool:
        store = self._store
        (row,) = await store.run(
            "waiting", store.ns, store.now(), None, None, list(queues), records
        )
        return bool(row["waits"])

    def _served(self, found: Sequence[Any]) -> None:
        self._plenty = bool(found)
        self._turns.served(len(found))

    async def _shielded(
        self, take: Callable[[], Awaitable[list[T]]], undo: Callable[[list[T]], Awaitable[Any]]
    ) -> list[T]:
        """T4: what a cancelled receive took is given back at once."""
        gone = False

        async def run() -> list[T]:
            try:
                found = await take()
            except TransportError:
                if gone:
                    return []  # nobody is left to be told
                raise
            if gone or self._closing:
                await undo(found)
                return []
            return found

        task = asyncio.get_running_loop().create_task(run())
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            gone = True
            if task.done() and not task.cancelled() and task.exception() is None:
                late = asyncio.ensure_future(undo(task.result()))
                self._taking.add(late)
                late.add_done_callback(self._taking.discard)
            raise

    async def _undo(self, received: Sequence[Received]) -> None:
        deliveries = [r.delivery for r in received if r.delivery is not None]
        await mailbox.settle(self._store, "release", deliveries)
        claims = [r.verdict.claim for r in received if r.verdict is not None]
        handed_back = [
            Outcome(id=claim.id, fence=claim.fence, kind=OutcomeKind.HANDBACK)
            for claim in claims
            if claim is not None
        ]
        if handed_back:
            await lifecycle.finish(self._store, handed_back)

    def _ended(self) -> bool:
        return self._closing or not self._store.is_open()

    def _forget(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._held.pop(delivery.token, None)
