"""One connection, spoken over by any number of callers at once.

redis-py makes the connection (login, TLS, Sentinel); over it, commands are written as they come and
answers are matched to them in order. redis-py's own client can't do that: it takes a connection for
each call. Nothing is sent twice here: a caller that gets an error decides itself.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections import deque
from typing import Any, Final

from hiredis import pack_command
from redis import exceptions
from redis.asyncio.connection import AbstractConnection

from bananas_brokers.redis.connect import Connect
from bananas_brokers.redis.errors import NotOpen, stale_connection

_OPEN_WITHIN: Final = 8.0
"""Seconds: with what closing takes, an open fails within 10."""


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
        self._reader: asyncio.Task[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def is_open(self) -> bool:
        return self._opened

    @property
    def connected(self) -> bool:
        return self._connection is not None and self._is_here()

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
        connection = self._connection
        writer = None if connection is None else connection._writer
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if writer is None or connection is None:
            error = NotOpen() if not self._opened else exceptions.ConnectionError("connection lost")
            future.set_exception(error)
            return future
        self._waiting.append((future, loop.time() + self._timeout))
        writer.write(pack_command(command))
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
        self._connection, self._reader, self._watch = None, None, None
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
            self._reader = asyncio.get_running_loop().create_task(self._read(connection))

    async def _read(self, connection: AbstractConnection) -> None:
        """Match answers to callers until the connection breaks."""
        waiting = self._waiting
        try:
            while True:
                error: Exception | None = None
                answer: Any = None
                try:
                    answer = await connection.read_response(
                        disable_decoding=True, disconnect_on_error=False
                    )
                except exceptions.ResponseError as refused:
                    error = refused
                if not waiting:
                    continue  # an answer that nobody asked for
                future = waiting.popleft()[0]
                if future.done():
                    continue  # its caller was cancelled
                if error is None:
                    future.set_result(answer)
                else:
                    future.set_exception(error)
                    if stale_connection(error):
                        raise exceptions.ConnectionError("this server has not the keys any more")
        except asyncio.CancelledError:
            raise
        except Exception as error:  # whatever it was, this connection can't be used any more
            if connection is self._connection:
                self._drop(error)

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
        connection, self._connection = self._connection, None
        reader, self._reader = self._reader, None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if connection is not None and connection._writer is not None:
            connection._writer.close()
        if reader is not None and reader is not _current_task():
            reader.cancel()
        waiting = list(self._waiting)
        self._waiting.clear()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # its caller may be gone


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


async def _quietly(closing: Any) -> None:
    try:
        if inspect.isawaitable(closing):
            async with asyncio.timeout(1.0):
                await closing
    except (OSError, exceptions.RedisError, TimeoutError):
        pass
