"""One band's messages: fetched ahead on a channel of their own, handed out, settled.

What was fetched and not handed out yet is given back when nobody asks for it, so that a busy or
paused worker keeps nothing from the others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from aio_pika.abc import AbstractChannel, AbstractConnection

from bananas_brokers.rabbitmq.errors import CLIENT
from bananas_core.transport import Delivery

SETTLE: Final = 0.005
"""Seconds in which a queue that is newly consumed sends what it has."""
ARRIVING: Final = 0.01
"""Seconds after a message in which another may be on its way."""
DOUBT: Final = 0.1
"""The same while there is a backlog: the window was full since the queue was last found empty, and
the server has to hear that it has opened."""
STUCK: Final = 0.1
"""Seconds of a full window with nothing left to hand out after which the window is widened."""
OVERDUE: Final = 0.2
"""Seconds in which a message that lies ready must come."""
WIDEST: Final = 1000


class Hold:
    """The token of a delivery: which message of which channel, and until when."""

    __slots__ = ("intake", "tag", "until")

    def __init__(self, intake: Intake, tag: int, until: float) -> None:
        self.intake = intake
        self.tag = tag
        self.until = until


class Intake:
    """Consumes one queue over one channel, and is of no use any more when that has closed: what it
    held is delivered again by the server, and settling it says so.

    ``window`` messages at most are unsettled. As long as it is not full, the server sends at
    once what there is; so an empty buffer means an empty queue, except while the window is full,
    and shortly after it has opened or a message has come. That exception is ``doubt``, without
    which a lower band would be asked too early.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        channel: AbstractChannel,
        under: Any,
        routing_key: str,
        queue: str,
        woken: Callable[[], None],
    ) -> None:
        self.connection = connection
        self.routing_key = routing_key
        self.queue = queue
        self.window = 0
        self.asked_at = 0.0
        """When somebody last wanted messages of it."""
        self.taken_at = 0.0
        """When its buffer last was used, or began to be filled."""
        self._channel = channel  # its end would be the end of what is below
        self._under = under
        self._woken = woken
        self._tag: str | None = None
        self._buffer: deque[Any] = deque()
        self._unsettled: dict[int, Hold | None] = {}
        self._given_up = False
        self._backlog = False
        self._arrived = 0
        self._doubt = 0.0
        self._full_since: float | None = None
        self._turn = asyncio.Lock()
        self._order = asyncio.Lock()
        self._writing: set[asyncio.Task[bool]] = set()
        self._loop = asyncio.get_running_loop()
        under.on_consumer_cancel_callbacks.add(self._cancelled)
        under.closing.add_done_callback(lambda _: woken())

    @classmethod
    async def open(
        cls,
        connection: AbstractConnection,
        routing_key: str,
        queue: str,
        woken: Callable[[], None],
    ) -> Intake:
        """On a new channel, not consuming yet. Raises the client's errors."""
        channel = connection.channel(publisher_confirms=False)
        await channel.initialize()
        under = await channel.get_underlay_channel()
        return cls(connection, channel, under, routing_key, queue, woken)

    @property
    def dead(self) -> bool:
        """Whether its channel has closed, or was given up."""
        return self._given_up or bool(self._under.is_closed)

    @property
    def consuming(self) -> bool:
        return self._tag is not None and not self.dead

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    @property
    def held(self) -> int:
        """Messages that were handed out and not settled."""
        return len(self._unsettled) - len(self._buffer)

    async def start(self, window: int) -> None:
        """Consume with this window, or widen it. Raises the client's errors."""
        async with self._turn:
            if self.consuming and window <= self.window:
                return
            before = self._tag
            await self._under.basic_qos(prefetch_count=window)
            answer = await self._under.basic_consume(self.queue, self._on_message)
            self._tag, self.window = answer.consumer_tag, window
            if before is not None:
                await self._under.basic_cancel(before)
            self._full_since = None
            # What is there already comes before the answer to the next question, or just after.
            await self._under.basic_qos(prefetch_count=window)
            if not self._buffer:
                await asyncio.sleep(SETTLE)
            self.asked_at = self._loop.time()
            self._woken()

    async def stop(self, *, discard: bool = False, also: Iterable[int] = ()) -> int:
        """Consume no more, and give back what is buffered, with ``also`` what was handed out; or
        discard it. How many were buffered. Raises the client's errors."""
        async with self._turn:
            tag, self._tag = self._tag, None
            if tag is not None and not self.dead:
                await self._under.basic_cancel(tag)
            buffered = [message.delivery.delivery_tag for message in self._buffer]
            self._buffer.clear()
            await self.settle([*also, *buffered], requeue=None if discard else True)
            return len(buffered)

    async def beat(self) -> None:
        """Return if the server answers. What it should have sent and did not is consumed anew: it
        may have forgotten this consumer, when the queue was deleted and made again at once. Raises
        the client's errors."""
        async with self._turn:
            tag, arrived = self._tag, self._arrived
            found = await self._under.queue_declare(self.queue, passive=True)
            if tag is None or len(self._unsettled) >= self.window:
                return
            if found.message_count or not found.consumer_count:
                await asyncio.sleep(OVERDUE)
                if self._arrived == arrived and self._tag == tag:
                    self._tag = None
                    await self._under.basic_cancel(tag)
                    self._woken()

    def give_up(self) -> None:
        """Its connection is of no use any more, whether or not it has closed yet."""
        self._given_up = True

    def doubt(self, now: float) -> float | None:
        """Until when it can't be told whether the queue is empty; None: it is, or there is
        something in the buffer."""
        if self._buffer:
            return None
        if not self.consuming:
            return now
        if self._full_since is not None:
            return max(now, self._full_since + STUCK)
        if self._doubt > now:
            return self._doubt
        self._backlog = False
        return None

    def stuck(self, now: float) -> bool:
        """Whether a wider window is needed: all of it was handed out, and nothing is settled."""
        full = self._full_since
        return not self._buffer and full is not None and now - full >= STUCK and not self.dead

    def take(self, limit: int, until: float) -> list[Delivery]:
        """Hand out what is there, leased until then."""
        found = []
        buffer = self._buffer
        for _ in range(min(limit, len(buffer))):
            message = buffer.popleft()
            tag = message.delivery.delivery_tag
            hold = self._unsettled[tag] = Hold(self, tag, until)
            properties = message.header.properties
            found.append(
                Delivery(
                    body=message.body,
                    queue=self.routing_key,
                    token=hold,
                    redelivered=bool(message.delivery.redelivered),
                    headers={k: str(v) for k, v in (properties.headers or {}).items()},
                    content_type=properties.content_type,
                )
            )
        now = self._loop.time()
        if found:
            self.taken_at = now
        if not buffer and self._full_since is None and len(self._unsettled) >= self.window:
            self._full_since = now
        return found

    def valid(self, hold: Hold) -> bool:
        """Whether this hand-out still holds its message."""
        return not self.dead and self._unsettled.get(hold.tag) is hold

    def overdue(self, now: float) -> list[int]:
        """What was handed out and not settled within its lease."""
        found = []
        for tag, hold in self._unsettled.items():
            if hold is None or hold.until > now:
                break  # they are handed out in this order
            found.append(tag)
        return found

    async def settle(self, tags: Iterable[int], *, requeue: bool | None = None) -> bool:
        """Acknowledge messages, or give them back; whether the server is told. A prefix of what is
        unsettled goes in one frame. Once begun it is done, though the caller be cancelled."""
        wanted = {tag for tag in tags if tag in self._unsettled}
        if not wanted or self.dead:
            return not self.dead
        prefix = 0
        for tag in self._unsettled:
            if tag not in wanted:
                break
            prefix = tag
        single = sorted(tag for tag in wanted if tag > prefix)
        full = len(self._unsettled) >= self.window
        for tag in wanted:
            del self._unsettled[tag]
        if full and len(self._unsettled) < self.window:
            self._full_since = None
            self._doubt = self._loop.time() + DOUBT
        task = self._loop.create_task(self._write(prefix, single, requeue))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return await asyncio.shield(task)

    async def _write(self, prefix: int, single: list[int], requeue: bool | None) -> bool:
        frames = [(prefix, True)] if prefix else []
        frames += [(tag, False) for tag in single]
        under = self._under
        try:
            # In the order of the decisions: `multiple` says something of all earlier tags.
            async with self._order:
                for tag, multiple in frames:
                    if requeue is None:
                        await under.basic_ack(tag, multiple=multiple, wait=False)
                    else:
                        await under.basic_nack(tag, multiple=multiple, requeue=requeue, wait=False)
        except CLIENT:
            return False
        return True

    async def _on_message(self, message: Any) -> None:
        now = self._loop.time()
        self._arrived += 1
        if not self._buffer:
            self.taken_at = now
        self._unsettled[message.delivery.delivery_tag] = None
        self._backlog = self._backlog or len(self._unsettled) >= self.window
        self._doubt = now + (DOUBT if self._backlog else ARRIVING)
        self._buffer.append(message)
        self._woken()

    def _cancelled(self, frame: Any) -> None:
        """The server ended it: the queue was deleted, or its leader is gone."""
        if frame.consumer_tag == self._tag:
            self._tag = None
            self._woken()
