"""The transport of ``redis://``. With the ledger in the same place, pending records are the queue,
and only foreign messages are kept here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from bananas_brokers.redis import lifecycle, outcomes
from bananas_brokers.redis.connect import connector
from bananas_brokers.redis.erase import erase
from bananas_brokers.redis.results import RedisResultBackend
from bananas_brokers.redis.settings import read_settings
from bananas_brokers.redis.side import Tokens
from bananas_brokers.redis.store import BATCH, BYTES, Store
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

LEASE: Final = 15.0
RUN: Final = VerdictKind.RUN
_LOOK: Final = 1.0
"""Seconds after which a receiver looks for itself: leases end, and the inbox fills, silently."""
_REPLY: Final = 4 << 20
"""Bytes of messages in one answer, about."""
_AT_ONCE: Final = 128
"""Queues that one script looks at: no more than there are jobs in its answer, or not many."""
_HEAD: Final = 12
"""Bytes of a stored message before the queue's name."""

Token = tuple[str, str]
"""Number and lease."""


class _Address(msgspec.Struct):
    """Where a plain client's message goes; anything else in it is looked at later."""

    routing_key: str = "default"
    priority: int = 50


class RedisTransport:
    """See ``RedisResultBackend`` for the URL."""

    def __init__(self, url: str, namespace: str, *, clock: Clock | None = None) -> None:
        self.settings = read_settings(url)
        self.namespace = namespace
        self.capabilities = TransportCapabilities(
            fused=True,
            lease=LEASE,
            durability=self.settings.durability,
        )
        self._store = Store(self.settings, namespace, clock, TransportError, TransportUnavailable)
        self._tokens = Tokens(connector(self.settings, self._store.keys), self._store.keys)
        self._held: dict[Token, Delivery] = {}
        self._taking: set[asyncio.Task[Any]] = set()
        self._turn = 0
        self._largest = 0
        """Bytes of the largest message that came last: few large ones come at once."""
        self._closing = False

    async def open(self) -> None:
        if self._store.wire.is_open():
            return
        self._store.guard = False  # what it gives back, it gives back as a part of the ledger
        await self._store.open()
        self._tokens.open()
        self._held, self._taking, self._closing = {}, set(), False

    async def close(self) -> None:
        if not self._store.wire.is_open() or self._closing:
            return
        self._closing = True
        await self._tokens.close()
        try:
            if self._taking:
                await asyncio.wait(self._taking)
            if self._held:
                await self._settle("release", list(self._held.values()))
        except TransportUnavailable:
            pass  # their leases end by themselves
        finally:
            self._held = {}
            await self._store.close()

    async def declare(self, queues: Sequence[str]) -> None:
        """A queue is nothing but its keys."""
        await self._store.call("PING")

    async def send(self, messages: Sequence[Outgoing]) -> list[TransportError | None]:
        most, keys = self.capabilities.max_message, self._store.keys
        calls: list[list[Any]] = [[]]
        size = 0
        for message in messages:
            if len(message.body) > most:
                continue
            if calls[-1] and (len(calls[-1]) >= 4 * BATCH or size + len(message.body) > BYTES):
                calls.append([])
                size = 0
            size += len(message.body)
            head = "1" if message.head else "0"
            calls[-1] += (message.queue, message.priority, head, message.body)
        if calls[0]:
            await self._store.kept(
                lambda: self._store.run_all(
                    "send", (keys.mail, keys.meta), [(keys.prefix, *words) for words in calls]
                )
            )
        return [
            None
            if len(message.body) <= most
            else TransportError(f"message of {len(message.body)} bytes is over {most}")
            for message in messages
        ]

    async def receive(self, queues: Sequence[str], limit: int, timeout: float) -> list[Delivery]:
        async def take(rung: Sequence[str]) -> list[Delivery]:
            found = await self._take("", queues, limit, rung)
            return [r.delivery for r in found if r.delivery]

        async def undo(found: list[Delivery]) -> None:
            await self._settle("release", found)

        return await self._receive(queues, timeout, take, undo)

    async def receive_claimed(
        self, session: str, queues: Sequence[str], limit: int, timeout: float
    ) -> list[Received]:
        async def take(rung: Sequence[str]) -> list[Received]:
            return await self._take(session, queues, limit, rung)

        return await self._receive(queues, timeout, take, self._undo)

    async def ack(self, deliveries: Sequence[Delivery]) -> list[bool]:
        return await self._settle("ack", deliveries)

    async def release(self, deliveries: Sequence[Delivery]) -> list[bool]:
        return await self._settle("release", deliveries)

    async def bury(self, deliveries: Sequence[Delivery], reason: str) -> list[bool]:
        return await self._settle("bury", deliveries, reason)

    async def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        keys = self._store.keys
        names = (keys.heads, keys.mail, keys.leases, keys.leased, keys.stale)
        # What plain clients have pushed counts too, and only here it is known for which queue.
        for _ in range(0, int(await self._store.call("LLEN", keys.inbox)), BATCH):
            await self._empty_inbox()
        found = await self._store.run("stats", names, keys.prefix, *queues)
        return [
            QueueStats(
                queue=queue,
                ready=ready,
                leased=leased,
                buried=buried,
                oldest=float(oldest) if oldest else None,
            )
            for queue, (ready, leased, buried, oldest) in zip(queues, found, strict=True)
        ]

    async def purge(self, queue: str) -> int:
        keys = self._store.keys
        names = (keys.mail, keys.leases, keys.leased)
        return int(await self._store.run("purge", names, keys.prefix, queue))

    async def erase(self) -> None:
        """Remove the namespace; see ``RedisResultBackend.erase``."""
        await erase(self._store)

    def shares(self, backend: ResultBackend) -> bool:
        return (
            isinstance(backend, RedisResultBackend)
            and backend.settings.place == self.settings.place
            and backend.namespace == self.namespace
        )

    async def _receive(
        self,
        queues: Sequence[str],
        timeout: float,
        take: Callable[[Sequence[str]], Awaitable[list[T]]],
        undo: Callable[[list[T]], Awaitable[Any]],
    ) -> list[T]:
        found = await self._shielded(lambda: take(()), undo)
        if found or timeout <= 0 or not queues:
            return found
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        with self._tokens.listen(queues) as bell:
            while not self._ended():
                left = until - loop.time()
                if left <= 0:
                    break
                try:
                    async with asyncio.timeout(min(left, _LOOK)):
                        await bell.wait()
                except TimeoutError:
                    pass
                rung = bell.answer()
                if self._ended():
                    break
                found = await self._shielded(partial(take, rung), undo)
                if found:
                    return found
        return []

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

    async def _take(
        self, session: str, queues: Sequence[str], limit: int, rung: Sequence[str] = ()
    ) -> list[Received]:
        """Claims and leases, the most important of a queue first, until something is found. The
        queues in ``rung``, which come first, have lost their token to us: they get it back if
        anything is left."""
        names = list(dict.fromkeys(queues))
        if not names:
            return []
        turn = self._turn % len(names)
        names = list(dict.fromkeys((*rung, *names[turn:], *names[:turn])))
        looked = -len(rung)
        received: list[Received] = []
        for start in range(0, len(names), _AT_ONCE):
            asked = names[start : start + _AT_ONCE]
            first = min(max(0, len(rung) - start), len(asked))
            received, seen, inbox = await self._look(session, asked, limit, first)
            looked += seen
            if inbox:
                await self._empty_inbox()
                if not received:
                    return await self._take(session, queues, limit, rung)
            if received:
                break
        # The next time begins where this one ended, so that each has its turn.
        self._turn = turn + (looked if 0 < looked < len(names) - len(rung) else 1)
        return received

    async def _look(
        self, session: str, asked: Sequence[str], limit: int, rung: int
    ) -> tuple[list[Received], int, int]:
        """One script: what it took, how many queues it looked at, and the inbox's length. The
        first ``rung`` queues have lost their token."""
        keys = self._store.keys
        places = (
            keys.heads,
            keys.messages,
            keys.extras,
            keys.meta,
            keys.events,
            keys.sessions,
            keys.claims(session),
            keys.due,
            keys.stale,
            keys.mail,
            keys.leases,
            keys.leased,
            keys.inbox,
        )
        fence, at, inbox, seen, ids, runs, messages, extras, mail = await self._store.run(
            "receive",
            places,
            keys.prefix,
            session,
            max(1, min(limit, BATCH, _REPLY // max(1, self._largest))),
            state.CLAIM_TTL,
            LEASE,
            rung,
            *asked,
        )
        received: list[Received] = []
        self._largest = max(map(len, [*messages, *mail[2::3]]), default=self._largest)
        if ids:
            claims = lifecycle.claims_of(ids, runs, messages, extras, int(fence), float(at))
            received += [
                Received(verdict=Verdict(kind=RUN, id=claim.id, claim=claim)) for claim in claims
            ]
        for i in range(0, len(mail), 3):
            delivery = _delivery(mail[i].decode(), fence.decode(), mail[i + 2])
            self._held[delivery.token] = delivery
            received.append(Received(delivery=delivery))
        return received, seen, inbox

    async def _empty_inbox(self) -> None:
        """Plain clients' messages go to their queues. What can't be read goes to the default one,
        where it is quarantined."""
        keys = self._store.keys
        words: list[Any] = []
        for body in await self._store.call("LRANGE", keys.inbox, 0, BATCH - 1):
            address = _Address()
            try:
                address = msgspec.json.decode(body, type=_Address)
            except (msgspec.MsgspecError, RecursionError):
                pass
            queue = address.routing_key if 0 < len(address.routing_key) <= 128 else "default"
            words += (queue, min(100, max(0, address.priority)), body)
        if words:
            names = (keys.inbox, keys.mail, keys.meta)
            await self._store.run("inbox", names, keys.prefix, *words)

    async def _settle(
        self, mode: str, deliveries: Sequence[Delivery], reason: str = ""
    ) -> list[bool]:
        if not deliveries:
            return []
        keys = self._store.keys
        words = []
        for delivery in deliveries:
            self._held.pop(delivery.token, None)
            words += delivery.token
        names = (keys.mail, keys.leases, keys.leased)
        answers = await self._store.run("settle_mail", names, keys.prefix, mode, reason, *words)
        return [bool(answer) for answer in answers]

    async def _undo(self, received: Sequence[Received]) -> None:
        await self._settle("release", [r.delivery for r in received if r.delivery is not None])
        claims = [r.verdict.claim for r in received if r.verdict is not None]
        handed_back = [
            Outcome(id=claim.id, fence=claim.fence, kind=OutcomeKind.HANDBACK)
            for claim in claims
            if claim is not None
        ]
        if handed_back:
            await outcomes.finish(self._store, handed_back)

    def _ended(self) -> bool:
        return self._closing or not self._store.wire.is_open()


def _delivery(number: str, lease: str, stored: bytes) -> Delivery:
    size = int.from_bytes(stored[10:12], "big")
    return Delivery(
        body=stored[_HEAD + size :],
        queue=stored[_HEAD : _HEAD + size].decode(),
        token=(number, lease),
        redelivered=stored[9:10] == b"1",
    )
