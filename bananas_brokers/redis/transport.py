"""The transport of ``redis://``. With the ledger in the same place, pending records are the queue,
and only foreign messages are kept here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from bananas_brokers.redis import lifecycle, outcomes
from bananas_brokers.redis.allot import Level
from bananas_brokers.redis.connect import connector
from bananas_brokers.redis.erase import erase
from bananas_brokers.redis.facts import versions_of
from bananas_brokers.redis.receiver import Receiver
from bananas_brokers.redis.results import RedisResultBackend
from bananas_brokers.redis.settings import read_settings
from bananas_brokers.redis.shards import shard_namespace
from bananas_brokers.redis.side import Tokens
from bananas_brokers.redis.store import BATCH, BYTES, Store
from bananas_brokers.redis.waits import Waits
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

LEASE: Final = 15.0
RUN: Final = VerdictKind.RUN
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

    def __init__(
        self, url: str, namespace: str, *, clock: Clock | None = None, shard: int | None = None
    ) -> None:
        self.settings = read_settings(url)
        self.namespace = namespace = shard_namespace(self.settings, namespace, shard)
        self.capabilities = TransportCapabilities(
            fused=True,
            lease=LEASE,
            durability=self.settings.durability,
        )
        self.store = Store(self.settings, namespace, clock, TransportError, TransportUnavailable)
        self.tokens = Tokens(connector(self.settings, self.store.keys), self.store.keys)
        self._waits = None if self.store.own_clock else Waits(self.store)
        self._receiver = Receiver([self.tokens], self.store.wire.is_open, self._waits)
        self._held: dict[Token, Delivery] = {}
        self._turn = 0
        self._largest = 0
        """Bytes of the largest message that came last: few large ones come at once."""

    async def open(self) -> None:
        if self.store.wire.is_open():
            return
        self.store.guard = False  # what it gives back, it gives back as a part of the ledger
        await self.store.open()
        self._held = {}
        self._receiver.open()

    async def close(self) -> None:
        if not self.store.wire.is_open() or self._receiver.closing:
            return
        try:
            await self._receiver.close()
            if self._held:
                await self._settle("release", list(self._held.values()))
        except TransportUnavailable:
            pass  # their leases end by themselves
        finally:
            self._held = {}
            await self.store.close()

    def versions(self) -> dict[str, str]:
        """Of the client library and of the server, as it was when this was opened."""
        return versions_of(self.store.facts)

    async def declare(self, queues: Sequence[str]) -> None:
        """A queue is nothing but its keys."""
        await self.store.call("PING")

    async def send(self, messages: Sequence[Outgoing]) -> list[TransportError | None]:
        most, keys = self.capabilities.max_message, self.store.keys
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
            await self.store.kept(
                lambda: self.store.run_all(
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
            found = await self.take("", queues, limit, rung)
            return [r.delivery for r in found if r.delivery]

        async def wait(ticket: str, seconds: float) -> list[Delivery]:
            found = await self._wait("", queues, limit, ticket, seconds)
            return [r.delivery for r in found if r.delivery]

        async def undo(found: list[Delivery]) -> None:
            await self._settle("release", found)

        return await self._receiver.receive(
            queues, timeout, take, undo, wait if _few(queues) else None
        )

    async def receive_claimed(
        self, session: str, queues: Sequence[str], limit: int, timeout: float
    ) -> list[Received]:
        async def take(rung: Sequence[str]) -> list[Received]:
            return await self.take(session, queues, limit, rung)

        async def wait(ticket: str, seconds: float) -> list[Received]:
            return await self._wait(session, queues, limit, ticket, seconds)

        return await self._receiver.receive(
            queues, timeout, take, self.undo, wait if _few(queues) else None
        )

    async def look(
        self, queues: Sequence[str], most: int, *, ring: bool = False
    ) -> list[list[Level]]:
        """What ``take`` would find in each of ``queues``, as far as ``most`` entries of it.
        ``ring``: where something is, others are told of it too."""
        keys = self.store.keys
        names = (keys.heads, keys.mail, keys.leases, keys.leased, keys.inbox)
        inbox, *found = await self.store.run(
            "look", names, keys.prefix, max(1, most), b"1" if ring else b"", *queues
        )
        if inbox:
            await self._empty_inbox()
            return await self.look(queues, most, ring=ring)
        return [
            [
                Level(level, entries, float(front))
                for level, entries, front in zip(one[::3], one[1::3], one[2::3], strict=True)
            ]
            for one in found
        ]

    async def ack(self, deliveries: Sequence[Delivery]) -> list[bool]:
        return await self._settle("ack", deliveries)

    async def release(self, deliveries: Sequence[Delivery]) -> list[bool]:
        return await self._settle("release", deliveries)

    async def bury(self, deliveries: Sequence[Delivery], reason: str) -> list[bool]:
        return await self._settle("bury", deliveries, reason)

    async def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        keys = self.store.keys
        names = (keys.heads, keys.mail, keys.leases, keys.leased, keys.stale)
        # What plain clients have pushed counts too, and only here it is known for which queue.
        for _ in range(0, int(await self.store.call("LLEN", keys.inbox)), BATCH):
            await self._empty_inbox()
        found = await self.store.run("stats", names, keys.prefix, *queues)
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
        keys = self.store.keys
        names = (keys.mail, keys.leases, keys.leased)
        return int(await self.store.run("purge", names, keys.prefix, queue))

    async def erase(self) -> None:
        """Remove the namespace; see ``RedisResultBackend.erase``."""
        await erase(self.store)

    def shares(self, backend: ResultBackend) -> bool:
        return (
            isinstance(backend, RedisResultBackend)
            and backend.settings.place == self.settings.place
            and backend.namespace == self.namespace
        )

    def is_open(self) -> bool:
        """Between ``open`` and ``close``."""
        return self.store.wire.is_open()

    async def take(
        self,
        session: str,
        queues: Sequence[str],
        limit: int,
        rung: Sequence[str] = (),
        lowest: int = 0,
    ) -> list[Received]:
        """Claims and leases, the most important of a queue first, until something is found. The
        queues in ``rung``, which come first, have lost their token to us: they get it back if
        anything is left. Nothing of a priority under ``lowest``."""
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
            received, seen, inbox = await self._look(session, asked, limit, first, lowest)
            looked += seen
            if inbox:
                await self._empty_inbox()
                if not received:
                    return await self.take(session, queues, limit, rung, lowest)
            if received:
                break
        # The next time begins where this one ended, so that each has its turn.
        self._turn = turn + (looked if 0 < looked < len(names) - len(rung) else 1)
        return received

    async def _wait(
        self, session: str, queues: Sequence[str], limit: int, ticket: str, seconds: float
    ) -> list[Received]:
        """``take`` once there is something, or after a while, in one go; see ``waits.py``."""
        assert self._waits is not None
        names = list(dict.fromkeys(queues))
        turn = self._turn % len(names)
        asked = names[turn:] + names[:turn]
        script = self._script(session, asked, limit, len(asked), self.store.keys.off(ticket))
        answer = await self._waits.take(ticket, names, seconds, script)
        if answer is None:
            return await self.take(session, queues, limit, names)
        received, seen, inbox = self._received(answer)
        if inbox:
            await self._empty_inbox()
        self._turn = turn + (seen if 0 < seen < len(names) else 1)
        return received

    async def _look(
        self, session: str, asked: Sequence[str], limit: int, rung: int, lowest: int
    ) -> tuple[list[Received], int, int]:
        """One script: what it took, how many queues it looked at, and the inbox's length. The
        first ``rung`` queues have lost their token."""
        name, keys, args = self._script(session, asked, limit, rung, lowest=lowest)
        return self._received(await self.store.run(name, keys, *args))

    def _script(
        self,
        session: str,
        asked: Sequence[str],
        limit: int,
        rung: int,
        off: str = "",
        lowest: int = 0,
    ) -> tuple[str, tuple[str, ...], Sequence[Any]]:
        """``receive.lua``, its keys and its arguments."""
        keys = self.store.keys
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
        most = max(1, min(limit, BATCH, _REPLY // max(1, self._largest)))
        args = (keys.prefix, session, most, state.CLAIM_TTL, LEASE, rung, off, lowest, *asked)
        return "receive", places, args

    def _received(self, answer: Any) -> tuple[list[Received], int, int]:
        """What the script's answer says; see ``_look``."""
        fence, at, inbox, seen, ids, runs, messages, extras, mail = answer
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
        keys = self.store.keys
        words: list[Any] = []
        for body in await self.store.call("LRANGE", keys.inbox, 0, BATCH - 1):
            address = _Address()
            try:
                address = msgspec.json.decode(body, type=_Address)
            except (msgspec.MsgspecError, RecursionError):
                pass
            queue = address.routing_key if 0 < len(address.routing_key) <= 128 else "default"
            words += (queue, min(100, max(0, address.priority)), body)
        if words:
            names = (keys.inbox, keys.mail, keys.meta)
            await self.store.run("inbox", names, keys.prefix, *words)

    async def _settle(
        self, mode: str, deliveries: Sequence[Delivery], reason: str = ""
    ) -> list[bool]:
        if not deliveries:
            return []
        keys = self.store.keys
        words = []
        for delivery in deliveries:
            self._held.pop(delivery.token, None)
            words += delivery.token
        names = (keys.mail, keys.leases, keys.leased)
        answers = await self.store.run("settle_mail", names, keys.prefix, mode, reason, *words)
        return [bool(answer) for answer in answers]

    async def undo(self, received: Sequence[Received]) -> None:
        """Give back what was taken."""
        await self._settle("release", [r.delivery for r in received if r.delivery is not None])
        claims = [r.verdict.claim for r in received if r.verdict is not None]
        handed_back = [
            Outcome(id=claim.id, fence=claim.fence, kind=OutcomeKind.HANDBACK)
            for claim in claims
            if claim is not None
        ]
        if handed_back:
            await outcomes.finish(self.store, handed_back)


def _few(queues: Sequence[str]) -> bool:
    """Whether one script can look at all of them."""
    return len(set(queues)) <= _AT_ONCE


def _delivery(number: str, lease: str, stored: bytes) -> Delivery:
    size = int.from_bytes(stored[10:12], "big")
    return Delivery(
        body=stored[_HEAD + size :],
        queue=stored[_HEAD : _HEAD + size].decode(),
        token=(number, lease),
        redelivered=stored[9:10] == b"1",
    )
