"""Sends with confirmation: many at once, each with an answer of its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from aio_pika import DeliveryMode, Message, exceptions
from aio_pika.abc import AbstractChannel, AbstractConnection

from bananas_brokers.rabbitmq.errors import CLIENT, answered, translate
from bananas_brokers.rabbitmq.link import Link, underlying
from bananas_brokers.rabbitmq.queues import declare
from bananas_core.errors import TransportError, TransportUnavailable

FLIGHT: Final = 1000
"""Messages without a confirmation at once."""
FLIGHT_BYTES: Final = 8 << 20
HEARD: Final = 0.1
"""Seconds in which the server has told of an alarm."""
AGAIN: Final = (0.02, 0.1, 0.4)
"""Seconds before what was not kept is sent again: a queue may be deleted under a batch, or just be
made by somebody else, and a connection may be lost."""


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """One message and the queue that it goes to."""

    queue: str
    body: bytes
    reason: str | None = None
    """Why it was set aside."""


class Publisher:
    """Publishes over one connection, on one channel, to queues that it declares when it first
    meets them, and again when they turn out to be gone."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._channel: AbstractChannel | None = None
        self._owner: AbstractConnection | None = None
        self._opening = asyncio.Lock()
        self._known: set[str] = set()
        self._numbers = itertools.count()

    async def send(self, letters: Sequence[Letter]) -> list[TransportError | None]:
        """None: the server has it on disk. TransportUnavailable: the outcome is unknown, as when
        the server takes nothing because of an alarm; a copy does no harm.

        Raises:
            TransportUnavailable: no connection; nothing was sent at first.
        """
        found: list[TransportError | None] = [None] * len(letters)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._link.settings.socket_timeout
        places: list[int] = list(range(len(letters)))
        for wait in (*AGAIN, None):
            left: list[int] = []
            for flight in _flights(letters, places):
                for place, error in zip(
                    flight, await self._fly([letters[i] for i in flight], until), strict=True
                ):
                    found[place] = error
                    if isinstance(error, TransportUnavailable):
                        left.append(place)
            places = left
            if not places or wait is None or loop.time() + wait >= until:
                break
            await asyncio.sleep(wait)
        return found

    async def blocked(self) -> bool:
        """Whether the server takes no messages now. It tells that only who tries: a message is
        sent to a queue that isn't there, and comes back."""
        connection = await self._link.get()
        try:
            async with asyncio.timeout(1.0):
                channel = await self._ready(connection)
                letter = Letter(queue=f"nowhere-{id(self)}", body=b"")
                await self._publish(channel, letter)
        except CLIENT:
            pass
        await asyncio.sleep(HEARD)  # it came back, or not: being blocked is told apart from that
        return await blocked(connection)

    def forget(self) -> None:
        """The connection is gone, and maybe the queues too."""
        self._channel = self._owner = None
        self._known.clear()

    async def _fly(self, letters: Sequence[Letter], until: float) -> list[TransportError | None]:
        label = self._link.settings.label
        seconds = until - asyncio.get_running_loop().time()
        connection = await self._link.get()
        tasks: list[asyncio.Task[Any]] = []
        try:
            async with answered(label, max(0.1, seconds)):
                await underlying(connection).ready()  # not while it is blocked
                channel = await self._ready(connection, {letter.queue for letter in letters})
                loop = asyncio.get_running_loop()
                tasks = [loop.create_task(self._publish(channel, letter)) for letter in letters]
                await asyncio.gather(*tasks, return_exceptions=True)
        except TransportError as error:
            failure = await self._explained(connection, error, seconds)
        else:
            failure = TransportUnavailable(f"{label}: the connection was lost; try again")
        answers = [self._answer(task, failure) for task in tasks]
        gone = {
            letter.queue
            for letter, task in zip(letters, tasks, strict=False)
            if task.done()
            and not task.cancelled()
            and isinstance(task.exception(), exceptions.PublishError)
        }
        self._known -= gone
        return answers or [failure] * len(letters)

    async def _publish(self, channel: Any, letter: Letter) -> None:
        message = Message(
            letter.body,
            content_type="application/json",
            delivery_mode=DeliveryMode.PERSISTENT,
            headers=None if letter.reason is None else {"reason": letter.reason},
            message_id=str(next(self._numbers)),  # by which the client knows what came back
        )
        await channel.basic_publish(
            letter.body,
            routing_key=letter.queue,
            mandatory=True,
            wait=False,
            properties=message.properties,
        )

    def _answer(self, task: asyncio.Task[Any], failure: TransportError) -> TransportError | None:
        if not task.done() or task.cancelled():
            return failure
        error = task.exception()
        label = self._link.settings.label
        if error is None:
            return None
        if isinstance(error, exceptions.PublishError):
            return TransportUnavailable(f"{label}: the queue was deleted; try again")
        if isinstance(error, exceptions.DeliveryError):
            return TransportUnavailable(f"{label}: the server could not keep it; try again")
        return translate(error, label)

    async def _explained(
        self, connection: AbstractConnection, error: TransportError, seconds: float
    ) -> TransportError:
        """Why there was no answer. A connection that was not blocked and says nothing is dropped,
        since the next one may be better."""
        if not isinstance(error.__cause__, TimeoutError):
            return error
        label = self._link.settings.label
        if await blocked(connection):
            return TransportUnavailable(
                f"{label}: the server takes no messages because of an alarm (memory or disk); "
                f"waited {seconds:.0f} s; see `rabbitmq-diagnostics alarms`"
            )
        self._link.drop(connection)
        return error

    async def _ready(self, connection: AbstractConnection, queues: Iterable[str] = ()) -> Any:
        """The channel of this connection, with confirms and returns, when the queues are there."""
        async with self._opening:
            new = sorted(set(queues) - self._known)
            if new:
                await declare(connection, new)
                self._known.update(new)
            channel = self._channel
            if channel is None or self._owner is not connection or channel.is_closed:
                channel = connection.channel(publisher_confirms=True, on_return_raises=True)
                await channel.initialize()
                self._channel, self._owner = channel, connection
            return await channel.get_underlay_channel()


async def blocked(connection: AbstractConnection) -> bool:
    """Whether the server has told that it takes nothing from this connection."""
    try:
        async with asyncio.timeout(0.05):
            await underlying(connection).ready()
    except TimeoutError:
        return connection.connected.is_set()
    except (*CLIENT, asyncio.CancelledError):
        return False
    return False


def _flights(letters: Sequence[Letter], places: Sequence[int]) -> list[list[int]]:
    """Places in groups that may be without confirmation at once."""
    groups: list[list[int]] = []
    size = 0
    for place in places:
        size += len(letters[place].body)
        if not groups or len(groups[-1]) >= FLIGHT or size > FLIGHT_BYTES:
            groups.append([])
            size = len(letters[place].body)
        groups[-1].append(place)
    return groups
