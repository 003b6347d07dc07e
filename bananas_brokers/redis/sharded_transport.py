"""The transport of ``redis://…?shards=n``. Jobs are taken from all shards: it looks at what each
has, and takes the most important from where they are, equals evenly. Between looking and taking
others send and take, so that under load the order between shards is nearly that of priority; within
a shard it is exact. A queue's own messages are all in one shard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from msgspec.structs import replace

from bananas_brokers.redis.allot import Level, allot_all, lowest
from bananas_brokers.redis.receiver import Receiver
from bananas_brokers.redis.settings import read_settings
from bananas_brokers.redis.sharded_results import ShardedResultBackend
from bananas_brokers.redis.shards import grouped, shard_of
from bananas_brokers.redis.transport import LEASE, RedisTransport
from bananas_core.clock import Clock
from bananas_core.errors import TransportError, TransportUnavailable
from bananas_core.results import ResultBackend
from bananas_core.transport import (
    Delivery,
    Outgoing,
    QueueStats,
    Received,
    TransportCapabilities,
)

_PATIENCE: Final = 2.0
"""Seconds for a shard to say what it has; after that one goes on without it."""
_LOOKS: Final = 10
"""Looks in a row, while they show something and nothing is got."""
_DEAF: Final = 3.0
"""Seconds until a shard that did not answer is asked again."""


class ShardedTransport:
    """See ``shards.py`` for what is where."""

    def __init__(self, url: str, namespace: str, *, clock: Clock | None = None) -> None:
        self.settings = read_settings(url)
        self.namespace = namespace
        self.shards = [
            RedisTransport(url, namespace, clock=clock, shard=shard)
            for shard in range(self.settings.shards)
        ]
        # Messages of a queue keep their order; records of several shards don't.
        self.capabilities = TransportCapabilities(
            fused=True, fifo=False, lease=LEASE, durability=self.settings.durability
        )
        self._receiver = Receiver([shard.tokens for shard in self.shards], self._is_open)
        self._turn = 0
        self._deaf_until = [0.0] * len(self.shards)

    async def open(self) -> None:
        if self._is_open():
            return
        try:
            await _all([shard.open() for shard in self.shards])
        except BaseException:
            await self.close()
            raise
        self._deaf_until = [0.0] * len(self.shards)
        self._receiver.open()

    async def close(self) -> None:
        if self._is_open() and not self._receiver.closing:
            await self._receiver.close()
        await _all([shard.close() for shard in self.shards])

    def versions(self) -> dict[str, str]:
        """Of the client library and of the server that keeps the first shard."""
        return self.shards[0].versions()

    async def declare(self, queues: Sequence[str]) -> None:
        """A queue is nothing but its keys."""
        await _all([shard.declare(queues) for shard in self.shards])

    async def send(self, messages: Sequence[Outgoing]) -> list[TransportError | None]:
        groups = grouped(messages, lambda message: self._home(message.queue))
        parts = await _all(
            [self.shards[s].send([messages[i] for i in places]) for s, places in groups.items()]
        )
        answers: list[TransportError | None] = [None] * len(messages)
        for places, part in zip(groups.values(), parts, strict=True):
            for place, answer in zip(places, part, strict=True):
                answers[place] = answer
        return answers

    async def receive(self, queues: Sequence[str], limit: int, timeout: float) -> list[Delivery]:
        names = list(dict.fromkeys(queues))

        async def take(rung: Sequence[str]) -> list[Delivery]:
            received = await self._take_messages(names, limit, rung)
            return [item.delivery for item in received if item.delivery is not None]

        async def undo(found: list[Delivery]) -> None:
            await self.release(found)

        return await self._receiver.receive(names, timeout, take, undo)

    async def receive_claimed(
        self, session: str, queues: Sequence[str], limit: int, timeout: float
    ) -> list[Received]:
        names = list(dict.fromkeys(queues))

        async def take(rung: Sequence[str]) -> list[Received]:
            return await self._take(session, names, limit, ring=bool(rung))

        return await self._receiver.receive(names, timeout, take, self._undo)

    async def ack(self, deliveries: Sequence[Delivery]) -> list[bool]:
        return await self._settle(deliveries, lambda shard, some: shard.ack(some))

    async def release(self, deliveries: Sequence[Delivery]) -> list[bool]:
        return await self._settle(deliveries, lambda shard, some: shard.release(some))

    async def bury(self, deliveries: Sequence[Delivery], reason: str) -> list[bool]:
        return await self._settle(deliveries, lambda shard, some: shard.bury(some, reason))

    async def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        found = await _all([shard.stats(queues) for shard in self.shards])
        return [_sum([stats[i] for stats in found]) for i in range(len(queues))]

    async def purge(self, queue: str) -> int:
        return sum(await _all([shard.purge(queue) for shard in self.shards]))

    async def erase(self) -> None:
        """Remove all shards; see ``RedisResultBackend.erase``."""
        await _all([shard.erase() for shard in self.shards])

    def shares(self, backend: ResultBackend) -> bool:
        return (
            isinstance(backend, ShardedResultBackend)
            and backend.settings.place == self.settings.place
            and backend.namespace == self.namespace
        )

    def _is_open(self) -> bool:
        return all(shard.is_open() for shard in self.shards)

    def _home(self, queue: str) -> int:
        return shard_of(queue, len(self.shards))

    async def _take(
        self, session: str, queues: Sequence[str], limit: int, *, ring: bool
    ) -> list[Received]:
        """What all shards have, as if they were one. A shard that doesn't answer is left out, as
        long as another does. ``ring``: a token was taken, and where something is, there must be
        one."""
        if not queues:
            return []
        self._turn += 1
        for _ in range(_LOOKS):
            received, tried = await self._try(session, queues, limit, ring)
            if received or not tried:
                return received
        return []

    async def _try(
        self, session: str, queues: Sequence[str], limit: int, ring: bool
    ) -> tuple[list[Received], bool]:
        """Look and take; and whether there seemed to be anything. It may be that others were
        quicker, or that entries had no jobs any more."""
        looks = await self._look(queues, limit, ring)
        plan = allot_all(looks, limit, self._turn % len(queues))
        asked = [
            (queue, shard, share)
            for queue, shares in plan.items()
            for shard, share in enumerate(shares)
            if share
        ]
        answers = await asyncio.gather(
            *(
                self.shards[shard].take(
                    session, [queues[q]], share, lowest=lowest(looks[shard][q], share)
                )
                for q, shard, share in asked
            ),
            return_exceptions=True,
        )
        received: list[Received] = []
        by_queue: dict[int, list[tuple[int, list[Received]]]] = {}
        failure: BaseException | None = None
        for (queue, shard, _), answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException):
                failure = answer
            else:
                by_queue.setdefault(queue, []).append((shard, answer))
        for queue, parts in by_queue.items():
            parts.sort(key=lambda part: _front(looks[part[0]][queue]))
            received += _merged(parts)
        if failure is not None and not received:
            raise failure
        return received, bool(asked)

    async def _look(self, queues: Sequence[str], limit: int, ring: bool) -> list[list[list[Level]]]:
        """What each shard has; nothing of those that don't answer."""
        loop = asyncio.get_running_loop()

        async def look(number: int, shard: RedisTransport) -> list[list[Level]]:
            if loop.time() < self._deaf_until[number]:
                raise TransportUnavailable(f"shard {number} did not answer; try again")
            try:
                async with asyncio.timeout(_PATIENCE):
                    try:
                        return await shard.look(queues, limit, ring=ring)
                    except TransportUnavailable:  # a connection that was lost unnoticed, say
                        return await shard.look(queues, limit, ring=ring)
            except (TransportUnavailable, TimeoutError) as error:
                self._deaf_until[number] = loop.time() + _DEAF
                if isinstance(error, TimeoutError):
                    raise TransportUnavailable(
                        f"shard {number} did not answer within {_PATIENCE} s; try again"
                    ) from error
                raise

        looks: list[list[list[Level]]] = []
        errors: list[BaseException] = []
        for answer in await asyncio.gather(
            *(look(number, shard) for number, shard in enumerate(self.shards)),
            return_exceptions=True,
        ):
            if isinstance(answer, BaseException):
                errors.append(answer)
                looks.append([[] for _ in queues])
            else:
                looks.append(answer)
        if len(errors) == len(self.shards):
            raise errors[0]
        return looks

    async def _take_messages(
        self, queues: Sequence[str], limit: int, rung: Sequence[str]
    ) -> list[Received]:
        """Messages only. Those of a queue are in its own shard, but for those of an inbox."""
        self._turn += 1
        received: list[Received] = []
        failure: TransportError | None = None
        for i in range(len(self.shards)):
            number = (self._turn + i) % len(self.shards)
            if len(received) >= limit:
                break
            try:
                left = limit - len(received)
                found = await self.shards[number].take("", queues, left, rung)
            except TransportError as error:
                failure = error
            else:
                received += [_marked(number, item) for item in found]
        if failure is not None and not received:
            raise failure
        return received

    async def _undo(self, received: Sequence[Received]) -> None:
        groups = grouped(received, self._shard_of)
        await _all(
            [
                self.shards[shard].undo([_plain(received[i]) for i in places])
                for shard, places in groups.items()
            ]
        )

    def _shard_of(self, item: Received) -> int:
        if item.delivery is not None:
            return int(item.delivery.token[0])
        assert item.verdict is not None
        return shard_of(item.verdict.id, len(self.shards))

    async def _settle(
        self,
        deliveries: Sequence[Delivery],
        call: Callable[[RedisTransport, Sequence[Delivery]], Awaitable[list[bool]]],
    ) -> list[bool]:
        groups = grouped(deliveries, lambda delivery: int(delivery.token[0]))
        plain = [replace(delivery, token=delivery.token[1]) for delivery in deliveries]
        parts = await _all(
            [call(self.shards[s], [plain[i] for i in places]) for s, places in groups.items()]
        )
        answers = [False] * len(deliveries)
        for places, part in zip(groups.values(), parts, strict=True):
            for place, answer in zip(places, part, strict=True):
                answers[place] = answer
        return answers


def _merged(parts: Sequence[tuple[int, Sequence[Received]]]) -> list[Received]:
    """Jobs of one queue by priority, by turns among equals; then its messages."""
    claims: list[tuple[int, int, int, Received]] = []
    messages: list[Received] = []
    for order, (shard, items) in enumerate(parts):
        for i, item in enumerate(items):
            if item.verdict is not None and item.verdict.claim is not None:
                claims.append((-item.verdict.claim.priority, i, order, item))
            else:
                messages.append(_marked(shard, item))
    claims.sort(key=lambda one: one[:3])
    return [one[3] for one in claims] + messages


def _marked(shard: int, item: Received) -> Received:
    """A delivery whose token says where it is from."""
    if item.delivery is None:
        return item
    token: Any = (shard, item.delivery.token)
    return Received(delivery=replace(item.delivery, token=token))


def _plain(item: Received) -> Received:
    if item.delivery is None:
        return item
    return Received(delivery=replace(item.delivery, token=item.delivery.token[1]))


def _front(levels: Sequence[Level]) -> tuple[int, float]:
    """Whose first job comes first."""
    return (-levels[0].level, levels[0].front) if levels else (0, 0.0)


def _sum(stats: Sequence[QueueStats]) -> QueueStats:
    oldest = [one.oldest for one in stats if one.oldest is not None]
    return QueueStats(
        queue=stats[0].queue,
        ready=sum(one.ready for one in stats),
        leased=sum(one.leased for one in stats),
        buried=sum(one.buried for one in stats),
        oldest=min(oldest, default=None),
    )


async def _all(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """All at once; the first error once every one has come to its end."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers
