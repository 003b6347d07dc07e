"""Queues as such: made, counted, emptied, deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from aio_pika import exceptions
from aio_pika.abc import AbstractChannel, AbstractConnection

from bananas_brokers.rabbitmq.names import arguments_of


async def declare(connection: AbstractConnection, queues: Iterable[str]) -> None:
    """Make queues exist; a queue that is there keeps its messages. Raises the client's errors."""
    async with connection.channel(publisher_confirms=False) as channel:
        under = await channel.get_underlay_channel()
        for queue in queues:
            await under.queue_declare(queue, durable=True, arguments=arguments_of(queue))


class Counter:
    """Asks for depths on a channel of its own, which the server closes for each queue that isn't
    there. Use one call at a time."""

    def __init__(self) -> None:
        self._channel: AbstractChannel | None = None
        self._owner: AbstractConnection | None = None
        self._turn = asyncio.Lock()

    async def counts(self, queues: Iterable[str], connection: AbstractConnection) -> list[int]:
        """Messages that lie ready in each; 0 for none such. Raises the client's errors."""
        async with self._turn:
            return [await self._count(connection, queue) for queue in queues]

    async def purge(self, queues: Iterable[str], connection: AbstractConnection) -> int:
        """Remove what lies ready; how many. Raises the client's errors."""
        removed = 0
        async with self._turn:
            for queue in queues:
                under = await self._under(connection)
                try:
                    removed += (await under.queue_purge(queue)).message_count or 0
                except exceptions.ChannelNotFoundEntity:
                    pass
        return removed

    async def delete(self, queues: Iterable[str], connection: AbstractConnection) -> None:
        """Delete queues with all that is in them. Raises the client's errors."""
        async with self._turn:
            for queue in queues:
                await (await self._under(connection)).queue_delete(queue)

    async def _count(self, connection: AbstractConnection, queue: str) -> int:
        under = await self._under(connection)
        try:
            found = await under.queue_declare(queue, passive=True)
        except exceptions.ChannelNotFoundEntity:
            return 0
        return int(found.message_count or 0)

    async def _under(self, connection: AbstractConnection) -> Any:
        channel = self._channel
        if channel is None or self._owner is not connection or channel.is_closed:
            channel = connection.channel(publisher_confirms=False)
            await channel.initialize()
            self._channel, self._owner = channel, connection
        return await channel.get_underlay_channel()
