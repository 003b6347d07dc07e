"""Waking what waits: rung by this process's own writes, and by other processes' notifications.

A notification is sent outside the transactions that it is about, one for many of them at most
every few milliseconds: at its commit it takes a lock that all databases of the server share. It is
a hint, so one that gets lost costs a waiter the time until it looks for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bananas_brokers.postgres.errors import CAUGHT

if TYPE_CHECKING:
    from bananas_brokers.postgres.connect import Connection
    from bananas_brokers.postgres.database import Database

_EVERY: Final = 0.01
"""Seconds between two notifications."""
_LINGER: Final = 30.0
"""Seconds without a waiter after which the connection is given up."""
_CHECK: Final = 5.0
"""Seconds after which a silent connection is asked whether it lives."""
_PAUSE: Final = 0.5
_LARGEST: Final = 7000
"""Bytes of a notification; the server takes 7,999."""
_SLOW: Final = 0.25
_QUICK: Final = 0.03

_decode = msgspec.json.Decoder(list[str]).decode


class Bell:
    """Topics are ``q`` and a routing key, or ``j`` and the id of a job that has ended."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiters: dict[str, dict[asyncio.Event, None]] = {}
        self._news: set[str] = set()
        self._sending: asyncio.Task[None] | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._closed = False
        self.listening = False
        """Whether other processes' notifications arrive."""

    @property
    def channel(self) -> str:
        return f"{self._database.settings.schema}_{self._database.ns}"

    def pause(self, looks: int, most: float) -> float:
        """Seconds after which a waiter looks for itself, after so many looks; ``most`` if it is
        told by notifications."""
        return most if self.listening else min(_SLOW, _QUICK * 1.5**looks)

    @contextmanager
    def listen(self, topics: Iterable[str]) -> Iterator[asyncio.Event]:
        """An event for ``topics``; look at the data only after this, so that nothing is missed."""
        event = asyncio.Event()
        mine = list(topics)
        for topic in mine:
            self._waiters.setdefault(topic, {})[event] = None
        if self._hearing is None and not self._database.facts.pooled and not self._closed:
            self._hearing = asyncio.get_running_loop().create_task(self._hear())
        try:
            yield event
        finally:
            for topic in mine:
                self._waiters[topic].pop(event, None)
                if not self._waiters[topic]:
                    del self._waiters[topic]

    def tell(self, topics: Iterable[str]) -> None:
        """Something was committed that others may wait for."""
        mine = list(topics)
        if not mine or self._closed:
            return
        self._ring(mine)
        self._news.update(mine)
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    def ring_all(self) -> None:
        """Whoever waits looks again."""
        self._ring(list(self._waiters))

    async def close(self) -> None:
        self._closed = True
        self.ring_all()
        if self._sending is not None:
            await asyncio.wait({self._sending})
        if self._hearing is not None:
            self._hearing.cancel()
            await asyncio.wait({self._hearing})

    def _ring(self, topics: Iterable[str]) -> None:
        for topic in topics:
            for event in self._waiters.get(topic, ()):
                event.set()

    async def _send(self) -> None:
        """At once, then at most every few milliseconds while there is more."""
        while self._news:
            news, self._news = self._news, set()
            try:
                await self._database.run("notify", (self.channel, list(_packed(sorted(news)))))
            except CAUGHT:
                pass  # who waits looks for themselves
            if not self._closed:
                await asyncio.sleep(_EVERY)
        self._sending = None

    async def _hear(self) -> None:
        """While anybody waits, and a while longer."""
        idle = 0.0
        while idle < _LINGER:
            lost = asyncio.Event()
            connection: Connection | None = None
            try:
                connection = await self._database.connection()
                connection.add_termination_listener(lambda _, lost=lost: lost.set())
                async with asyncio.timeout(_CHECK):
                    await connection.add_listener(self.channel, self._heard)
                self.listening = True
                self.ring_all()  # what happened before is unknown
                while not lost.is_set() and idle < _LINGER:
                    try:
                        async with asyncio.timeout(_CHECK):
                            await lost.wait()
                    except TimeoutError:
                        async with asyncio.timeout(_CHECK):
                            await connection.execute("SELECT 1")
                    idle = 0.0 if self._waiters else idle + _CHECK
            except CAUGHT:
                pass
            finally:
                self.listening = False
                if connection is not None:
                    connection.terminate()
            self.ring_all()
            if idle < _LINGER:
                await asyncio.sleep(_PAUSE)
                idle = 0.0 if self._waiters else idle + _PAUSE
        self._hearing = None

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: Any) -> None:
        try:
            topics = _decode(payload)
        except (msgspec.MsgspecError, ValueError):
            return  # not one of ours
        if topics:
            self._ring(topics)
        else:
            self.ring_all()


def _packed(topics: list[str]) -> Iterable[str]:
    """Payloads with all topics; an empty list is for everybody."""
    part: list[str] = []
    size = 2
    for topic in topics:
        more = len(msgspec.json.encode(topic)) + 1
        if more > _LARGEST // 2 or len(topics) > 5000:
            yield "[]"
            return
        if size + more > _LARGEST:
            yield msgspec.json.encode(part).decode()
            part, size = [], 2
        part.append(topic)
        size += more
    if part:
        yield msgspec.json.encode(part).decode()
