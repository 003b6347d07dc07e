"""The transport of ``amqp://`` and ``rabbitmq://``, for any ledger that is somewhere else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from functools import partial
from typing import Final

from bananas_brokers.rabbitmq.facts import Facts, facts_of, versions_of, warnings_of
from bananas_brokers.rabbitmq.intake import Hold
from bananas_brokers.rabbitmq.link import Link, underlying
from bananas_brokers.rabbitmq.names import LEVELS, band_queue, buried_queue, queues_of
from bananas_brokers.rabbitmq.publisher import Letter, Publisher
from bananas_brokers.rabbitmq.queues import Counter, declare
from bananas_brokers.rabbitmq.receiver import Receiver
from bananas_brokers.rabbitmq.settings import Settings, read_settings
from bananas_core.bands import band_of
from bananas_core.errors import TransportError, TransportUnavailable, UnsupportedCapability
from bananas_core.results import ResultBackend
from bananas_core.transport import (
    Delivery,
    Outgoing,
    QueueStats,
    Received,
    TransportCapabilities,
)

LEASE: Final = 15.0
HORIZON: Final = 60.0
"""An ack is not confirmed: a connection that is lost just then makes the message come again."""


class _Session:
    """Everything that belongs to one event loop. One connection is for publishing alone, since the
    server stops reading from those in an alarm, and acks must not wait for that."""

    def __init__(self, settings: Settings, namespace: str, lease: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self.publishing = Link(settings, "publish", lambda: self.publisher.forget())
        self.consuming = Link(settings, "consume", lambda: self.receiver.lost())
        self.publisher = Publisher(self.publishing)
        self.receiver = Receiver(self.consuming, namespace, lease)
        self.counter = Counter()

    @property
    def alive(self) -> bool:
        return self.pid == os.getpid() and self.loop is asyncio.get_running_loop()

    async def close(self) -> None:
        await self.receiver.close()
        await asyncio.gather(self.publishing.close(), self.consuming.close())


class RabbitTransport:
    """``amqp://user:password@host:5672,host:5672/vhost``, or ``amqps://``."""

    def __init__(self, url: str, namespace: str, *, lease: float = LEASE) -> None:
        self.settings = read_settings(url)
        self.namespace = namespace
        self.capabilities = TransportCapabilities(
            levels=LEVELS,
            exact_depth=False,
            ages=False,
            lease=lease,
            horizon=HORIZON,
            durability="disk",
        )
        self._session: _Session | None = None
        self._left: list[_Session] = []
        """Of another loop, or of the process that this one was forked from: never touched again,
        and kept, because the client closes what nobody refers to, over the shared socket."""
        self._known: set[str] = set()
        self._facts = Facts()

    async def open(self) -> None:
        session = self._session
        if session is not None and session.alive:
            return
        session = self._renewed()
        try:
            connection = await session.publishing.get()
            self._facts = facts_of(underlying(connection).server_properties, blocked=False)
        except BaseException:
            self._session = None
            await session.close()
            raise

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None and session.alive:
            await session.close()

    async def declare(self, queues: Sequence[str]) -> None:
        self._known.update(queues)
        names = [name for queue in queues for name in queues_of(self.namespace, queue)]
        await self._here().consuming.ask(lambda connection: declare(connection, names))

    async def send(self, messages: Sequence[Outgoing]) -> list[TransportError | None]:
        session, most = self._here(), self.capabilities.max_message
        answers: list[TransportError | None] = []
        letters, places = [], []
        for place, message in enumerate(messages):
            size = len(message.body)
            if size > most:
                answers.append(TransportError(f"message of {size} bytes is over {most}"))
                continue
            band = band_of(message.priority, LEVELS, head=message.head)
            queue = band_queue(self.namespace, message.queue, band)
            letters.append(Letter(queue=queue, body=message.body))
            places.append(place)
            answers.append(None)
            self._known.add(message.queue)
        if letters:
            found = await session.publisher.send(letters)
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return answers

    async def receive(self, queues: Sequence[str], limit: int, timeout: float) -> list[Delivery]:
        self._known.update(queues)
        return await self._here().receiver.receive(queues, limit, timeout)

    async def ack(self, deliveries: Sequence[Delivery]) -> list[bool]:
        return await self._here().receiver.settle([d.token for d in deliveries])

    async def release(self, deliveries: Sequence[Delivery]) -> list[bool]:
        return await self._here().receiver.settle([d.token for d in deliveries], requeue=True)

    async def bury(self, deliveries: Sequence[Delivery], reason: str) -> list[bool]:
        session = self._here()
        holds: list[Hold] = [delivery.token for delivery in deliveries]
        valid = [hold.intake.valid(hold) for hold in holds]
        letters = [
            Letter(
                queue=buried_queue(self.namespace, delivery.queue),
                body=delivery.body,
                reason=reason,
            )
            for delivery, held in zip(deliveries, valid, strict=True)
            if held
        ]
        # First there, then gone from here: a crash in between makes a copy, and loses nothing.
        for refused in await session.publisher.send(letters) if letters else ():
            if refused is not None:
                raise refused
        return await session.receiver.settle(holds)

    async def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        """Ready and buried ones are counted; of those that are out, only this object's own."""
        session, found = self._here(), []
        for queue in queues:
            names = queues_of(self.namespace, queue)
            *ready, buried = await session.consuming.ask(partial(session.counter.counts, names))
            fetched, held = session.receiver.counts(queue)
            found.append(
                QueueStats(
                    queue=queue,
                    ready=sum(ready) + fetched,
                    leased=held,
                    buried=buried,
                    exact=False,
                )
            )
        return found

    async def purge(self, queue: str) -> int:
        session = self._here()
        removed = await session.receiver.discard(queue)
        names = queues_of(self.namespace, queue)
        return removed + await session.consuming.ask(partial(session.counter.purge, names))

    async def erase(self) -> None:
        """Delete the queues of all routing keys that this object has met, and of ``default``, with
        what is in them. The server tells no client what others it has. Safe to repeat."""
        session = self._here()
        keys = sorted({"default", *self._known})
        for key in keys:
            await session.receiver.discard(key)
        names = [name for key in keys for name in queues_of(self.namespace, key)]
        await session.consuming.ask(partial(session.counter.delete, names))
        session.publisher.forget()

    def shares(self, backend: ResultBackend) -> bool:
        return False

    async def receive_claimed(
        self, session: str, queues: Sequence[str], limit: int, timeout: float
    ) -> list[Received]:
        raise UnsupportedCapability("RabbitMQ shares nothing with its ledger: use receive()")

    async def examine(self) -> None:
        """Ask the server what ``warnings`` then tells; for ``doctor``."""
        session = self._here()
        blocked = await session.publisher.blocked()
        properties = underlying(await session.publishing.get()).server_properties
        self._facts = facts_of(properties, blocked=blocked)

    def versions(self) -> dict[str, str]:
        """Of the client library and of the server, as it was when this was opened."""
        return versions_of(self._facts)

    def warnings(self) -> list[str]:
        """What may go wrong with this server, as far as ``examine`` has asked."""
        return warnings_of(self._facts)

    def _here(self) -> _Session:
        """The session of the running loop.

        Raises:
            TransportUnavailable: not open.
        """
        session = self._session
        if session is None:
            raise TransportUnavailable(f"{self.settings.label} is not open; call open() first")
        return session if session.alive else self._renewed()

    def _renewed(self) -> _Session:
        if self._session is not None:
            self._left.append(self._session)
        self._session = session = _Session(self.settings, self.namespace, self.capabilities.lease)
        return session
