"""A second connection for what blocks: hearing of ended jobs, and waiting for tokens of queues.

It exists while somebody waits. What it tells is only a reason to look: who waits looks again from
time to time anyway, so nothing depends on a message that got lost.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from bananas_brokers.redis.connect import Connect
from bananas_brokers.redis.keys import Keys

_LINGER: Final = 5.0
"""Seconds for which the connection stays after the last waiter."""
_SLICE: Final = 1.0
_PAUSE: Final = 0.2
_DEAD: Final = 5.0
"""Seconds after which an answer that should be there won't come."""


class Bell(asyncio.Event):
    """Set when one of its topics is told of. ``rung``: which; empty if that is unknown."""

    def __init__(self) -> None:
        super().__init__()
        self.rung: dict[str, None] = {}

    def answer(self) -> list[str]:
        """What rang since the last answer; it can ring anew."""
        rung, self.rung = list(self.rung), {}
        self.clear()
        return rung


class Side(ABC):
    """Waiters by topic, and one task that listens for them while there are any."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._waiters: defaultdict[str, dict[Bell, None]] = defaultdict(dict)
        self._task: asyncio.Task[None] | None = None
        self._closed = True
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self.listening = asyncio.Event()

    def open(self) -> None:
        self._closed, self._pid = False, os.getpid()
        self._loop = asyncio.get_running_loop()
        self._waiters.clear()
        self._task = None
        self.listening = asyncio.Event()

    async def close(self) -> None:
        """Wakes all who wait. Safe to repeat."""
        self._closed = True
        task, self._task = self._task, None
        self.ring_all()
        if task is not None and self._is_here():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _is_here(self) -> bool:
        return self._loop is asyncio.get_running_loop() and self._pid == os.getpid()

    @contextmanager
    def listen(self, topics: Iterable[str], bell: Bell | None = None) -> Iterator[Bell]:
        """An event (this one, or a new one) that is set when one of ``topics`` is told of."""
        if not self._closed and not self._is_here():
            self.open()  # the listening task is the parent process's, or of a dead loop
        event, wanted = bell or Bell(), tuple(dict.fromkeys(topics))
        for topic in wanted:
            self._waiters[topic][event] = None
        if not self._closed and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            yield event
        finally:
            for topic in wanted:
                self._waiters[topic].pop(event, None)
                if not self._waiters[topic]:
                    del self._waiters[topic]

    def ring(self, topic: str) -> bool:
        """Whether anybody was there."""
        events = self._waiters.get(topic)
        for event in events or ():
            event.rung[topic] = None
            event.set()
        return bool(events)

    def ring_all(self) -> None:
        for events in self._waiters.values():
            for event in events:
                event.set()

    def topics(self) -> list[str]:
        return list(self._waiters)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        idle_since = loop.time()
        while not self._closed:
            connection: AbstractConnection | None = None
            try:
                connection = await self._connect()
                await self.prepare(connection)
                self.listening.set()
                self.ring_all()  # what happened before is unknown
                while not self._closed:
                    if self._waiters:
                        idle_since = loop.time()
                    elif loop.time() - idle_since > _LINGER:
                        return
                    await self.hear(connection)
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(_PAUSE)
                if not self._waiters:
                    return
            finally:
                self.listening.clear()
                if connection is not None and connection._writer is not None:
                    connection._writer.close()

    async def prepare(self, connection: AbstractConnection) -> None:  # noqa: B027 - may be enough
        """Once for each connection."""

    @abstractmethod
    async def hear(self, connection: AbstractConnection) -> None:
        """Listen for a while, and ring."""


class Ends(Side):
    """Rings for ids of jobs that have ended."""

    def __init__(self, connect: Connect, keys: Keys) -> None:
        super().__init__(connect)
        self._channel = keys.done

    async def prepare(self, connection: AbstractConnection) -> None:
        await connection.send_command("SUBSCRIBE", self._channel)
        await connection.read_response(disable_decoding=True)

    async def hear(self, connection: AbstractConnection) -> None:
        answer = await connection.read_response(disable_decoding=True, timeout=_SLICE)
        if not isinstance(answer, list) or answer[0] != b"message":
            return
        if len(self._waiters) > 64:
            for job_id in answer[2].decode().split(" "):
                self.ring(job_id)
            return
        ended = set(answer[2].split(b" "))
        for topic in self.topics():
            if topic.encode() in ended:
                self.ring(topic)


class Tokens(Side):
    """Rings for queues in which there is something. A token that nobody waits for any more goes
    back, or another worker would sleep on."""

    def __init__(self, connect: Connect, keys: Keys) -> None:
        super().__init__(connect)
        self._keys = keys

    async def hear(self, connection: AbstractConnection) -> None:
        queues = self.topics()
        if not queues:
            await asyncio.sleep(0.05)
            return
        names = {self._keys.wake(queue).encode(): queue for queue in queues}
        await connection.send_command("BLPOP", *names, _SLICE)
        async with asyncio.timeout(_SLICE + _DEAD):
            answer = await connection.read_response(disable_decoding=True)
        if answer is None:
            return
        if not self.ring(names[answer[0]]):
            await connection.send_command("RPUSH", answer[0], answer[1])
            await connection.read_response(disable_decoding=True)
            await connection.send_command("PEXPIRE", answer[0], 60_000)
            await connection.read_response(disable_decoding=True)
            await asyncio.sleep(_PAUSE)
