"""One connection, spoken over by any number of callers at once.

redis-py makes the connection (login, TLS, Sentinel); then its socket is taken over: commands are
written as they come, and answers are matched to them in order as they arrive. redis-py's own client
can't do that: it takes a connection for each call, and a task to read from it. Nothing is sent
twice here: a caller that gets an error decides itself.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections import deque
from typing import Any, Final

from hiredis import Reader, pack_command
from redis import exceptions
from redis._parsers.base import BaseParser
from redis.asyncio.connection import AbstractConnection

from bananas_brokers.redis.connect import Connect
from bananas_brokers.redis.errors import NotOpen, stale_connection

_OPEN_WITHIN: Final = 8.0
"""Seconds: with what closing takes, an open fails within 10."""
_MORE: Final = object()
"""Stands for an answer that is not complete yet."""
_parse_error: Final = BaseParser.parse_error


class Wire:
    """Reconnects at the next call after a failure. Belongs to one event loop; after a fork, to the
    child's."""

    def __init__(self, connect: Connect, timeout: float) -> None:
        self._make = connect
        self._timeout = timeout
        self.turn = 0
        """How many connections there were: what two equal numbers enclose went over one."""
        self._opened = False
        self._connection: AbstractConnection | None = None
        self._connecting: asyncio.Lock | None = None
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def is_open(self) -> bool:
        return self._opened

    @property
    def connected(self) -> bool:
        if self._transport is None or self._loop is not asyncio.get_running_loop():
            return False
        return self._pid == os.getpid()

    async def open(self) -> None:
        """Connect. Safe to repeat.

        Raises:
            OSError, RedisError: it can't be reached within 8 seconds, or refuses the login.
        """
        if self._opened and self._is_here():
            return
        self._start()
        try:
            async with asyncio.timeout(_OPEN_WITHIN):
                await self.connect()
        except BaseException:
            self._opened = False
            raise

    async def close(self) -> None:
        """What waits for an answer gets NotOpen. Safe to repeat."""
        self._opened = False
        if not self._is_here():
            self._connection = None  # its loop is closed, or it is the parent process's
            return
        connection = self._connection
        self._drop(NotOpen())
        if connection is not None:
            await _quietly(connection.disconnect())

    async def call(self, *command: Any) -> Any:
        """One command's answer. A cancelled call has happened or not.

        Raises:
            RedisError, OSError, TimeoutError, NotOpen: as it comes, untranslated.
        """
        if not self.connected:
            await self.connect()
        return await self.post(*command)

    def post(self, *command: Any) -> asyncio.Future[Any]:
        """Write a command now; its answer comes in order. Only while connected: after ``call``.

        Raises:
            NotOpen: there is no connection at this moment.
        """
        return self.write(pack_command(command))

    def write(self, command: bytes) -> asyncio.Future[Any]:
        """``post`` of a command that is packed already."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        transport = self._transport
        if transport is None:
            error = NotOpen() if not self._opened else exceptions.ConnectionError("connection lost")
            future.set_exception(error)
            return future
        self._waiting.append((future, loop.time() + self._timeout))
        transport.write(command)
        if self._watch is None:
            self._watch = loop.call_later(self._timeout, self._check)
        return future

    def drop(self, error: Exception) -> None:
        """Give this connection up: whatever waits fails, the next call makes a new one."""
        self._drop(error)

    def _is_here(self) -> bool:
        return self._loop is asyncio.get_running_loop() and self._pid == os.getpid()

    def _start(self) -> None:
        self._opened, self._pid = True, os.getpid()
        self._loop = asyncio.get_running_loop()
        self._connection, self._transport, self._watch = None, None, None
        self._connecting = asyncio.Lock()
        self._waiting.clear()

    async def connect(self) -> None:
        """Make a connection if there is none."""
        if not self.is_open():
            raise NotOpen()
        if not self._is_here():
            self._start()  # what there is belongs to the parent process, or to a dead loop
        assert self._connecting is not None
        async with self._connecting:
            if self._connection is not None:
                return
            connection = await self._make()
            if not self.is_open():
                await _quietly(connection.disconnect(nowait=True))
                raise NotOpen()
            self._connection = connection
            self.turn += 1
            self._transport = _take_over(connection, self)

    def uses(self, transport: asyncio.Transport) -> bool:
        """Whether answers of this connection are waited for."""
        return transport is self._transport

    def lost(self, transport: asyncio.Transport, error: Exception | None) -> None:
        """A connection has ended."""
        if self.uses(transport):
            self._drop(error or exceptions.ConnectionError("connection closed by the server"))

    def answered(self, answer: Any) -> bool:
        """The next answer has come; whether the connection can be used any further."""
        failed = isinstance(answer, Exception)
        if failed and isinstance(answer, exceptions.ConnectionError):
            self._drop(answer)
            return False
        if not self._waiting:
            return True  # an answer that nobody asked for
        future = self._waiting.popleft()[0]
        if future.done():
            return True  # its caller was cancelled
        if not failed:
            future.set_result(answer)
            return True
        future.set_exception(answer)
        if not stale_connection(answer):
            return True
        self._drop(exceptions.ConnectionError("this server has not the keys any more"))
        return False

    def _check(self) -> None:
        """The oldest answer must not be overdue."""
        self._watch = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        left = self._waiting[0][1] - loop.time()
        if left <= 0:
            self._drop(exceptions.TimeoutError(f"no answer within {self._timeout} s"))
        else:
            self._watch = loop.call_later(left + 0.01, self._check)

    def _drop(self, error: Exception) -> None:
        transport, self._connection, self._transport = self._transport, None, None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if transport is not None:
            transport.close()
        waiting = list(self._waiting)
        self._waiting.clear()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # its caller may be gone


class _Answers(asyncio.Protocol):
    """Reads for a ``Wire``, from one connection. ``former``: redis-py's own protocol, which is told
    of the end, since closing the connection waits for it."""

    def __init__(self, wire: Wire, transport: asyncio.Transport, former: Any) -> None:
        self._wire = wire
        self._transport = transport
        self._former = former
        reader = Reader(
            protocolError=exceptions.InvalidResponse,
            replyError=_parse_error,
            notEnoughData=_MORE,
        )
        self._feed, self._next = reader.feed, reader.gets

    def data_received(self, data: bytes) -> None:
        if not self._wire.uses(self._transport):
            return  # TLS may have kept something back
        try:
            self._feed(data)
            while (answer := self._next()) is not _MORE:
                if not self._wire.answered(answer):
                    return
        except exceptions.RedisError as error:  # no Redis speaks like this
            self._wire.lost(self._transport, error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wire.lost(self._transport, exc)
        self._former.connection_lost(exc)


def _take_over(connection: AbstractConnection, wire: Wire) -> asyncio.Transport:
    """The connection's socket, whose answers go to the wire from now on."""
    writer = connection._writer
    assert writer is not None
    transport: Any = writer.transport
    transport.set_protocol(_Answers(wire, transport, transport.get_protocol()))
    return transport  # type: ignore[no-any-return]


async def _quietly(closing: Any) -> None:
    try:
        if inspect.isawaitable(closing):
            async with asyncio.timeout(1.0):
                await closing
    except (OSError, exceptions.RedisError, TimeoutError):
        pass
